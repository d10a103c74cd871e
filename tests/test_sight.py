"""What covers each patch of an image, and the tower's first lessons."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from pretraining.examples import lesson
from pretraining.scenes import Object, draw
from pretraining.vision_pretraining import BACKGROUND, Sight, patch_labels
from srum_benchmarks.shapes.world import PALETTE

RED_SQUARE, BLUE_SQUARE, BLUE_CROSS, GREEN_BLOB, RED_BLOB = 0 * 5 + 1, 2 * 5 + 1, 2 * 5 + 3, 1 * 5 + 4, 0 * 5 + 4


def grid(image: np.ndarray) -> np.ndarray:
    return patch_labels(image, 4).reshape(8, 8)


def test_patches_are_labelled_row_by_row_with_what_covers_them():
    # Pixels 4 to 12: patches 1 and 2 in full, and a quarter of the third, but only one pixel of its corner.
    labels = grid(draw([Object("red", "square", 4, 4, 9), Object("blue", "cross", 21, 20, 11)]))
    expected = np.full((4, 5), BACKGROUND)
    expected[1:4, 1:4] = RED_SQUARE
    expected[3, 3] = BACKGROUND
    assert (labels[:4, :5] == expected).all()
    assert labels[6, 6] == BLUE_CROSS
    assert set(np.unique(labels)) == {RED_SQUARE, BLUE_CROSS, BACKGROUND}
    assert labels[0, 7] == labels[7, 0] == BACKGROUND


def test_less_than_a_quarter_of_a_patch_does_not_count():
    image = draw([Object("red", "square", 4, 4, 9)])
    image[4, 12] = image[5, 12] = 232  # the upper right patch keeps 2 of its 4 pixels: an eighth
    labels = grid(image)
    assert labels[1, 3] == BACKGROUND
    assert labels[2, 3] == RED_SQUARE


def test_of_two_things_in_a_patch_the_larger_part_counts():
    labels = grid(draw([Object("red", "square", 0, 0, 9), Object("blue", "square", 9, 0, 9)]))
    assert labels[0].tolist() == [RED_SQUARE, RED_SQUARE, BLUE_SQUARE, BLUE_SQUARE, BLUE_SQUARE] + 3 * [BACKGROUND]


def test_a_blob_and_a_faint_shape_have_a_colour_and_no_shape_and_a_speck_is_nothing():
    image = draw([])
    image[24:28, 8:20] = PALETTE["green"]
    image[8:10, 8:11] = PALETTE["purple"]
    labels = grid(image)
    assert labels[6, 2:5].tolist() == [GREEN_BLOB] * 3
    assert set(np.unique(labels)) == {GREEN_BLOB, BACKGROUND}
    square = draw([Object("red", "square", 4, 4, 9)])
    faint = (0.4 * 232 + 0.6 * square).astype(np.uint8)
    assert grid(faint)[1, 1] == RED_BLOB


class Tower(nn.Module):
    """One linear layer; remembers where it was told that the patches are."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(48, 32)

    def forward(self, patches: Tensor, where: Tensor, valid: Tensor) -> Tensor:
        self.where, self.valid = where, valid
        return self.layer(patches).relu()


def batch(count: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(0)
    images = [lesson(rng).image for _ in range(count)]
    rows = torch.from_numpy(np.stack(images)).float() / 127.5 - 1
    patches = rows.reshape(count, 8, 4, 8, 4, 3).transpose(2, 3).reshape(count, 64, 48)
    return patches, torch.from_numpy(np.stack([patch_labels(image, 4) for image in images]))


def test_the_loss_falls_and_more_patches_are_named():
    torch.manual_seed(0)
    sight, (patches, labels) = Sight(Tower(), 32), batch(8)
    optimiser = torch.optim.Adam(sight.parameters(), lr=1e-2)
    first, few = sight.loss(patches, labels)
    for _ in range(40):
        loss, _ = sight.loss(patches, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    last, many = sight.loss(patches, labels)
    assert last < 0.5 * first
    assert many > few + 0.2
    assert sight.tower.where.tolist() == [list(range(64))] * 8
    assert sight.tower.valid.all()


def test_the_share_named_right_is_of_covered_patches_only():
    sight = Sight(Tower(), 32)
    with torch.no_grad():
        sight.head.weight.zero_()
        sight.head.bias.zero_()[RED_SQUARE] = 9
    labels = torch.tensor([[RED_SQUARE] + [BLUE_CROSS] * 3 + [BACKGROUND] * 60])
    assert sight.loss(torch.zeros(1, 64, 48), labels)[1] == 0.25


def test_a_new_head_can_learn_first_without_touching_the_tower():
    sight, (patches, labels) = Sight(Tower(), 32), batch(2)
    sight.loss(patches, labels, head_only=True)[0].backward()
    assert sight.head.weight.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in sight.tower.parameters())
    sight.loss(patches, labels)[0].backward()
    assert all(parameter.grad is not None for parameter in sight.tower.parameters())
