"""Check the grid of latents: rows go down, columns go right, a corner of the image is that corner of the grid."""

from __future__ import annotations

from PIL import Image

from srum_core.doctor.findings import Finding
from srum_core.doctor.subject import Subject
from srum_core.errors import SrumError
from srum_core.testing.probes import CORNERS, by_corner, with_inverted_corner

SHAPE, PLACE, REPEAT = "shape of latents", "place in latents", "encode again"
LOCAL = 0.5
"""Share of a corner's effect that must lie in one quarter of the grid to locate the corner."""

WHERE = {
    ("top left", "top right"): "",
    ("top left", "bottom left"): "Rows and columns are swapped: encode must give (rows, columns, channels), (h, w, c).",
    ("bottom left", "bottom right"): "The rows are flipped: row 0 must be the top of the image.",
    ("top right", "top left"): "The columns are flipped: column 0 must be the left of the image.",
    ("bottom right", "bottom left"): "The grid is turned by half: row 0 must be the top, column 0 the left.",
    ("bottom right", "top right"): "Rows and columns are swapped, and both are flipped.",
    ("top right", "bottom right"): "The grid is turned clockwise by a quarter.",
    ("bottom left", "top left"): "The grid is turned anticlockwise by a quarter.",
}
"""The fix, by the quarters of the grid that hold the image's top left and top right corners."""


def check(subject: Subject) -> list[Finding]:
    return [_shape(subject), _place(subject), _repeat(subject)]


def _shape(subject: Subject) -> Finding:
    """Encode a landscape and a portrait part of an image."""
    image = subject.images[0]
    side = min(image.size)
    half = max(1, side // 2)
    parts = [image.crop((0, 0, side, half)), image.crop((0, 0, half, side))]
    try:
        landscape, portrait = (tuple(subject.encode([part])[0].shape[:2]) for part in parts)
    except (SrumError, RuntimeError, ValueError) as error:
        text = (
            f"Only images of the generated shape can be encoded, so rows and columns cannot be distinguished: {error}"
        )
        return Finding(SHAPE, "undecided", text)
    observation = f"A {_size(parts[0])} image becomes {_grid(landscape)}, a {_size(parts[1])} one {_grid(portrait)}"
    if landscape[0] < landscape[1] and portrait[0] > portrait[1]:
        return Finding(SHAPE, "fine", f"{observation}.")
    if landscape[0] > landscape[1] and portrait[0] < portrait[1]:
        fix = "rows must follow the height, columns the width: encode gives (columns, rows, channels)."
        return Finding(SHAPE, "wrong", f"{observation}: {fix}")
    message = "the adapter resizes images to its own shapes, so that rows and columns cannot be distinguished."
    return Finding(SHAPE, "undecided", f"{observation}: {message}")


def _place(subject: Subject) -> Finding:
    """Change one corner of an image, and locate the change in the grid."""
    image = subject.images[0]
    plain = subject.encode([image])[0]
    if min(plain.shape[:2]) < 2:
        return Finding(PLACE, "undecided", f"A grid of {_grid(tuple(plain.shape[:2]))} has no corners to compare.")
    places, shares = [], []
    for corner in CORNERS[:2]:
        changed = subject.encode([with_inverted_corner(image, corner, part=4)])[0]
        quarters = by_corner((changed - plain).square().sum(dim=-1))
        if not any(quarters.values()):
            return Finding(PLACE, "wrong", f"Changing the {corner} corner of an image changes nothing in its latent.")
        places.append(max(quarters, key=lambda each: quarters[each]))
        shares.append(quarters[places[-1]] / sum(quarters.values()))
    text = f"{shares[0]:.0%} and {shares[1]:.0%} of what the top corners change lies in one quarter of the grid each"
    where = (places[0], places[1])
    if min(shares) < LOCAL or where not in WHERE:
        message = "the latent is not local, or its cells are in disorder. A reward for a region will reach beyond it."
        return Finding(PLACE, "undecided", f"Only {text}: {message}")
    if WHERE[where]:
        proof = f"(The top left corner is found {places[0]}, the top right one {places[1]}.)"
        return Finding(PLACE, "wrong", f"{WHERE[where]} {proof}")
    return Finding(PLACE, "fine", f"{text[0].upper()}{text[1:]}, where they should be.")


def _repeat(subject: Subject) -> Finding:
    """Encode the same image again, and in a batch with another."""
    first, other = subject.images[:2] if len(subject.images) > 1 else subject.images * 2
    one = subject.encode([first])[0]
    for words, latent, fix in (
        ("again", subject.encode([first])[0], "it must be repeatable: use the mean, or seed the sample by the image"),
        (
            "with another",
            subject.encode([first, other])[0],
            "no image may be affected by its neighbours or their padding",
        ),
    ):
        if latent.shape != one.shape:
            shapes = f"{tuple(one.shape)} and {tuple(latent.shape)}"
            return Finding(REPEAT, "wrong", f"An image encoded {words} has another shape: {shapes}.")
        off = float((latent - one).norm() / one.norm().clamp(min=1e-12))
        if not off < 0.02:
            return Finding(REPEAT, "wrong", f"An image encoded {words} gives a latent that is {off:.0%} off: {fix}.")
    return Finding(REPEAT, "fine", "The same image gives the same latent, alone or with another.")


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _grid(shape: tuple[int, ...]) -> str:
    return f"{shape[0]} rows and {shape[1]} columns"
