"""The Segment Anything grounder, on small models of segment-anything's own classes with random weights."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from near import off
from PIL import Image, ImageDraw
from rows import each_row
from safetensors.torch import save_file
from segment_anything import SamPredictor, modeling, sam_model_registry
from segment_anything.utils.amg import rle_to_mask

from srum_core.errors import CheckpointError, ConfigError, PluginError
from srum_core.records import Candidate, Mask, Prompt, Region
from srum_sam import SamOptions, checkpoint, grounder
from srum_sam.grounder import Sam, choose

PERMISSIVE: dict[str, Any] = {"pred_iou_thresh": 0.0, "stability_score_thresh": 0.0, "points_per_side": 4}
"""Random weights rate their own masks badly."""


def small_sam(
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    side: int = 64,
    patch: int = 16,
    window: int = 3,
    global_layers: tuple[int, ...] = (1,),
    prompt_width: int = 32,
    masks: int = 3,
    mlp_ratio: float = 4.0,
) -> modeling.Sam:
    torch.manual_seed(0)
    grid = side // patch
    sam = modeling.Sam(
        modeling.ImageEncoderViT(
            img_size=side,
            patch_size=patch,
            embed_dim=width,
            depth=depth,
            num_heads=heads,
            mlp_ratio=mlp_ratio,
            out_chans=prompt_width,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            use_rel_pos=True,
            window_size=window,
            global_attn_indexes=global_layers,
        ),
        modeling.PromptEncoder(prompt_width, (grid, grid), (side, side), mask_in_chans=8),
        modeling.MaskDecoder(
            num_multimask_outputs=masks,
            transformer=modeling.TwoWayTransformer(2, prompt_width, num_heads=8, mlp_dim=48),
            transformer_dim=prompt_width,
            iou_head_depth=3,
            iou_head_hidden_dim=24,
        ),
    )
    for parameter in sam.parameters():  # position tables start at 0, which would hide what belongs where
        torch.nn.init.normal_(parameter, std=0.3)
    return sam.eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "small.pth"
    torch.save(small_sam().state_dict(), path)
    return path


def image(folder: Path, size: tuple[int, int] = (80, 48)) -> Candidate:
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    draw.rectangle((size[0] // 8, size[1] // 8, size[0] // 2, size[1] // 2), fill="red")
    draw.ellipse((size[0] // 2, size[1] // 3, size[0] - 1, size[1] - 1), fill="blue")
    image.save(folder / "x.png")
    return Candidate("x", Prompt("p", ""), folder / "x.png", size, 0)


def proper(regions: list[Region]) -> None:
    assert [region.id for region in regions] == [str(number + 1) for number in range(len(regions))]


SHAPES: list[dict[str, Any]] = [
    {},
    {"width": 48, "heads": 3, "depth": 5, "window": 2, "global_layers": (2, 4)},
    {"window": 0, "global_layers": ()},
    {"side": 128, "patch": 8, "window": 7, "depth": 3, "global_layers": (1,), "prompt_width": 64},
    {"masks": 4, "mlp_ratio": 2.0, "window": 6, "global_layers": ()},
]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_every_size_is_read_off_the_file_and_gives_the_same_outputs(shape: dict[str, Any], tmp_path: Path) -> None:
    original = small_sam(**shape)
    torch.save(original.state_dict(), tmp_path / "a.pth")
    save_file(original.state_dict(), tmp_path / "a.safetensors")
    pixels = np.asarray(Image.open(image(tmp_path).image))
    points = np.array([[20, 20], [50, 30]])
    expected = _outputs(original, pixels, points)
    for name in ("a.pth", "a.safetensors"):
        loaded = checkpoint.load(tmp_path / name)
        assert not loaded.training
        for ours, theirs in zip(_outputs(loaded, pixels, points), expected, strict=True):
            assert off(ours, theirs) <= 1e-5


def _outputs(sam: modeling.Sam, pixels: np.ndarray, points: np.ndarray) -> tuple[torch.Tensor, ...]:
    """The encoder's features and the decoder's masks and ratings."""
    predictor = SamPredictor(sam)
    predictor.set_image(pixels)
    found = predictor.predict(points, np.ones(len(points)), return_logits=True)
    return (predictor.get_image_embedding(), *(torch.as_tensor(each) for each in found))


@each_row("name", ["vit_b", "vit_l", "vit_h"])
def test_the_published_sizes_are_recognised(name: str) -> None:
    with torch.device("meta"):
        official = sam_model_registry[name]()
    state = official.state_dict()
    ours = checkpoint.build({key: tuple(value.shape) for key, value in state.items()})
    assert {key: value.shape for key, value in ours.state_dict().items()} == {k: v.shape for k, v in state.items()}
    assert str(ours) == str(official)  # layers, epsilons, activations
    for mine, theirs in zip(ours.image_encoder.blocks, official.image_encoder.blocks, strict=True):
        assert (mine.window_size, mine.attn.num_heads) == (theirs.window_size, theirs.attn.num_heads)
    assert ours.image_encoder.img_size == official.image_encoder.img_size
    assert ours.prompt_encoder.input_image_size == official.prompt_encoder.input_image_size
    assert ours.mask_decoder.transformer.num_heads == official.mask_decoder.transformer.num_heads
    assert torch.equal(ours.pixel_mean.flatten(), torch.tensor([123.675, 116.28, 103.53]))


def test_half_precision_files_become_float32(tmp_path: Path) -> None:
    torch.save({name: value.half() for name, value in small_sam().state_dict().items()}, tmp_path / "half.pth")
    assert {value.dtype for value in checkpoint.load(tmp_path / "half.pth").state_dict().values()} == {torch.float32}


def test_images_get_valid_regions_the_same_every_time(saved: Path, tmp_path: Path) -> None:
    options = SamOptions(checkpoint=str(saved), device="cpu", masks=True, **PERMISSIVE)
    for size in ((80, 48), (48, 80), (64, 64), (5, 3)):
        candidate = image(tmp_path, size)
        first, again = (Sam(options).regions(candidate, ()) for _ in range(2))
        assert first == again
        assert first
        proper(list(first))
        areas = []
        for region in first:
            assert region.mask is not None
            assert region.mask.size == size
            grid = rle_to_mask({"size": size[::-1], "counts": region.mask.counts})
            ys, xs = np.nonzero(grid)
            edges = (xs.min() / size[0], ys.min() / size[1], (xs.max() + 1) / size[0], (ys.max() + 1) / size[1])
            assert region.box == pytest.approx(edges)
            areas.append(int(grid.sum()))
        assert areas == sorted(areas, reverse=True)


def test_batches_of_points_make_no_difference(saved: Path, tmp_path: Path) -> None:
    candidate = image(tmp_path)
    found = [
        Sam(SamOptions(str(saved), "cpu", points_per_batch=batch, **PERMISSIVE)).regions(candidate, ())
        for batch in (1, 5, 64)
    ]
    assert [[each.box for each in one] for one in found[1:]] == [[each.box for each in found[0]]] * 2


def test_an_image_in_which_nothing_is_found_has_no_region(saved: Path, tmp_path: Path) -> None:
    options = SamOptions(str(saved), "cpu", pred_iou_thresh=1.0, points_per_side=2)
    assert Sam(options).regions(image(tmp_path), ()) == []


def test_transparency_is_seen_as_white(saved: Path, tmp_path: Path) -> None:
    sam = Sam(SamOptions(str(saved), "cpu", masks=True, **PERMISSIVE))
    on_white = image(tmp_path)
    expected = sam.regions(on_white, ())
    pixels = np.array(Image.open(on_white.image).convert("RGBA"))
    pixels[(pixels == 255).all(axis=-1)] = (0, 0, 0, 0)
    Image.fromarray(pixels).save(on_white.image)
    assert sam.regions(on_white, ()) == expected
    Image.fromarray(pixels[..., :3]).save(on_white.image)
    assert sam.regions(on_white, ()) != expected  # so the background does matter


def test_it_asks_nothing_and_loads_nothing_before_the_first_image(saved: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from srum_sam import SamOptions; from srum_sam.grounder import Sam\n"
        f"sam = Sam(SamOptions(checkpoint={str(saved)!r})); assert not sam.questions(None)\n"
        "print(sorted({'torch', 'segment_anything', 'numpy', 'PIL'} & sys.modules.keys()))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


# Choosing among the generator's records


def record(x0: int, y0: int, x1: int, y1: int, size: tuple[int, int] = (20, 10)) -> dict[str, Any]:
    """As the generator writes a mask that fills pixels x0 to x1 - 1 and y0 to y1 - 1."""
    grid = np.zeros((size[1], size[0]), dtype=bool)
    grid[y0:y1, x0:x1] = True
    flat = grid.T.ravel()
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    counts = np.diff([0, *changes, flat.size]).tolist()
    counts = [0, *counts] if flat[0] else counts
    area, box = int(grid.sum()), [x0, y0, x1 - 1 - x0, y1 - 1 - y0]
    return {"area": area, "bbox": box, "segmentation": {"size": [size[1], size[0]], "counts": counts}}


def chosen(*records: dict[str, Any], **options: Any) -> list[tuple[float, ...]]:
    regions = choose(records, (20, 10), SamOptions(**options))
    proper(regions)
    return [tuple(round(edge * side) for edge, side in zip(r.box, (20, 10, 20, 10), strict=True)) for r in regions]


SMALL, LARGE, MIDDLE, LINE = (
    record(0, 0, 2, 2),
    record(5, 0, 20, 10),
    record(0, 4, 4, 10),
    record(19, 0, 20, 10),
)


def test_the_largest_come_first_and_only_so_many() -> None:
    assert chosen(SMALL, LARGE, MIDDLE) == [(5, 0, 20, 10), (0, 4, 4, 10), (0, 0, 2, 2)]
    assert chosen(SMALL, LARGE, MIDDLE, top=2) == [(5, 0, 20, 10), (0, 4, 4, 10)]


def test_small_masks_are_left_out() -> None:
    assert chosen(SMALL, MIDDLE, min_area=0.02) == [(0, 4, 4, 10), (0, 0, 2, 2)]  # 4 of 200 pixels
    assert chosen(SMALL, MIDDLE, min_area=0.03) == [(0, 4, 4, 10)]
    assert chosen(SMALL, MIDDLE, min_area=4) == [(0, 4, 4, 10), (0, 0, 2, 2)]
    assert chosen(SMALL, MIDDLE, min_area=5) == [(0, 4, 4, 10)]


def test_near_duplicates_are_left_out_before_the_largest_are_counted() -> None:
    nearly = record(5, 0, 20, 9)  # overlaps LARGE by 0.9
    assert chosen(SMALL, nearly, LARGE, top=2) == [(5, 0, 20, 10), (5, 0, 20, 9)]
    assert chosen(SMALL, nearly, LARGE, top=2, duplicates=0.85) == [(5, 0, 20, 10), (0, 0, 2, 2)]
    assert chosen(SMALL, nearly, LARGE, duplicates=0.95) == [(5, 0, 20, 10), (5, 0, 20, 9), (0, 0, 2, 2)]
    assert chosen(LARGE, LARGE) == [(5, 0, 20, 10)] * 2


def test_the_order_in_which_masks_were_found_does_not_matter() -> None:
    records = [record(x, 0, x + 3, 3) for x in (9, 0, 14, 5)]
    assert chosen(*records) == chosen(*records[::-1]) == [(0, 0, 3, 3), (5, 0, 8, 3), (9, 0, 12, 3), (14, 0, 17, 3)]


def test_lines_of_one_pixel_are_regions_and_empty_masks_are_not() -> None:
    empty = {"area": 0, "bbox": [0, 0, 0, 0], "segmentation": {"size": [10, 20], "counts": [200]}}
    assert chosen(LINE, empty, record(3, 9, 4, 10)) == [(19, 0, 20, 10), (3, 9, 4, 10)]


def test_masks_are_kept_on_request_only() -> None:
    (without,) = choose([MIDDLE], (20, 10), SamOptions())
    assert without.mask is None
    (region,) = choose([MIDDLE], (20, 10), SamOptions(masks=True))
    assert region.mask == Mask((20, 10), (4, 6, 4, 6, 4, 6, 4, 6, 160))
    (corner,) = choose([SMALL], (20, 10), SamOptions(masks=True))
    assert corner.mask == Mask((20, 10), (0, 2, 8, 2, 188))


# Files that are none


def broken_files(folder: Path) -> Iterator[tuple[str, Callable[[Path], object], str]]:
    state = small_sam().state_dict()
    whole = folder / "whole.pth"
    torch.save(state, whole)
    data = whole.read_bytes()
    first = "image_encoder.pos_embed"
    yield "empty", lambda path: path.write_bytes(b""), "cannot be read: it is"
    yield "half", lambda path: path.write_bytes(data[: len(data) // 2]), "cannot be read: it is"
    yield "text", lambda path: path.write_text("<html>Not found</html>"), "cannot be read: it is"
    yield "zip", lambda path: zipfile.ZipFile(path, "w").writestr("a", "b"), "cannot be read: it is"
    yield "module", lambda path: torch.save(small_sam(), path), "holds more than tensors"
    yield "list", lambda path: torch.save([torch.zeros(1)], path), "no plain table of tensors"
    yield "wrapped", lambda path: torch.save({"model": state}, path), "no plain table of tensors"
    yield "nothing", lambda path: torch.save({}, path), "no plain table of tensors"
    yield "other", lambda path: torch.save({"weight": torch.zeros(1)}, path), "has no tensor 'image_encoder.patch"
    without = {name: value for name, value in state.items() if "neck.0" not in name}
    yield "missing", lambda path: torch.save(without, path), r"missing: image_encoder\.neck\.0\.weight"
    yield "extra", lambda path: torch.save({**state, "head.bias": torch.zeros(2)}, path), r"unused: head\.bias"
    odd = {**state, "image_encoder.neck.0.weight": torch.zeros(32, 31, 1, 1)}
    yield "shape", lambda path: torch.save(odd, path), r"neck\.0\.weight: stored \(32, 31, 1, 1\), expected \(32, 32"
    flat = {**state, first: torch.zeros(4)}
    yield "flat", lambda path: torch.save(flat, path), r"tensors of shapes that make no.*pos_embed is \(4,\)"
    gap = {name.replace("blocks.1.", "blocks.7."): value for name, value in state.items()}
    yield "gap", lambda path: torch.save(gap, path), r"has no tensor 'image_encoder\.blocks\.1\."
    heads = {name: value[:, :3] if "rel_pos" in name else value for name, value in state.items()}
    yield "heads", lambda path: torch.save(heads, path), r"shapes that make no.*32 channels in heads of \[3\]"


def test_broken_files_are_refused_with_a_sentence(tmp_path: Path) -> None:
    for name, write, message in broken_files(tmp_path):
        path = tmp_path / f"{name}.pth"
        write(path)
        with pytest.raises(CheckpointError, match=message) as caught:
            checkpoint.load(path)
        assert str(path) in str(caught.value)
    (tmp_path / "x.safetensors").write_bytes(b"nonsense")
    with pytest.raises(CheckpointError, match="cannot be read: it is"):
        checkpoint.load(tmp_path / "x.safetensors")


class Hostile:
    """Makes a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


def test_a_hostile_checkpoint_is_refused_and_its_code_never_runs(tmp_path: Path) -> None:
    trap = Hostile(tmp_path / "proof")
    torch.save({**small_sam().state_dict(), "trap": trap}, tmp_path / "new.pth")
    torch.save({"trap": trap}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(trap, protocol=2))
    for name in ("new.pth", "old.pth", "bare.pth"):
        with pytest.raises(CheckpointError, match="holds more than tensors, which is refused"):
            checkpoint.load(tmp_path / name)
        assert not trap.target.exists()
    pickle.loads((tmp_path / "bare.pth").read_bytes())  # the trap works where nobody looks
    assert trap.target.exists()


# Where checkpoints are looked for


@pytest.mark.parametrize("variable", ["TORCH_HOME", "XDG_CACHE_HOME"])
def test_published_names_are_looked_for_where_torch_hub_keeps_them(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, str(tmp_path))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    assert folder.is_relative_to(tmp_path)
    with pytest.raises(CheckpointError, match=r"published file sam_vit_l_0b3195\.pth, which is not in") as caught:
        Sam(SamOptions(checkpoint="vit_l"))
    assert str(folder) in str(caught.value)
    folder.mkdir(parents=True)
    (folder / "sam_vit_l_0b3195.pth").touch()
    assert Sam(SamOptions(checkpoint="vit_l")).path == folder / "sam_vit_l_0b3195.pth"


def test_without_the_variables_it_is_torch_hubs_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(CheckpointError) as caught:
        checkpoint.find("vit_h")
    assert str(Path(torch.hub.get_dir()) / "checkpoints") in str(caught.value)


def test_a_missing_file_a_missing_package_and_a_missing_device_are_named(
    saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match=r'checkpoint="vit_x" is no file\. Give the path.*vit_b, vit_l, vit_h'):
        Sam(SamOptions(checkpoint="vit_x"))
    with pytest.raises(ConfigError, match='device="abacus" is not known to torch'):
        Sam(SamOptions(str(saved), device="abacus")).regions(image(tmp_path), ())
    monkeypatch.setattr(grounder.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PluginError, match=r"needs segment_anything and torchvision.*srum\[sam\]"):
        Sam(SamOptions(str(saved)))


@pytest.mark.slow
def test_a_full_vit_b_looks_at_a_large_image(tmp_path: Path) -> None:
    torch.manual_seed(0)
    official = sam_model_registry["vit_b"]()
    torch.save(official.state_dict(), tmp_path / "b.pth")
    few = {**PERMISSIVE, "points_per_side": 2}
    options = SamOptions(str(tmp_path / "b.pth"), "cpu", masks=True, points_per_batch=2, **few)
    regions = Sam(options).regions(image(tmp_path, (1024, 1024)), ())
    assert 0 < len(regions) <= 10
    proper(list(regions))
    assert all(region.mask is not None and region.mask.size == (1024, 1024) for region in regions)


@pytest.mark.gpu
def test_the_accelerator_finds_what_the_cpu_finds(saved: Path, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    candidate = image(tmp_path)
    options = {"checkpoint": str(saved), **PERMISSIVE}
    there = Sam(SamOptions(**options))
    found, expected = there.regions(candidate, ()), Sam(SamOptions(device="cpu", **options)).regions(candidate, ())
    assert there.generator.predictor.model.device.type == "cuda"
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.box == pytest.approx(other.box, abs=0.05)
