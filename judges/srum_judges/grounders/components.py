"""Grounders that need no weights: patches of one colour, and plain tiles. numpy and PIL load on first use."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from srum_core.models.images import open_rgb
from srum_core.records import Box, Candidate, Question, Region
from srum_judges.options import ComponentsOptions, GridOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Ints = NDArray[np.int64]
    Floats = NDArray[np.float64]

Pixels = tuple[int, int, int, int]
"""(x0, y0, x1, y1) in pixels, x1 and y1 exclusive."""

_BITS = 3  # colours are compared by bins of 2^3 levels a channel: a table lookup, not a distance for every pixel
_COLOURS = 32  # at most so many distinct foreground colours; the others join the nearest one


class Components:
    """Connected patches of one colour on a plain background, numbered in reading order.

    The background is the commonest colour along the image's border. An image of background only has no region.
    """

    def __init__(self, options: ComponentsOptions | None = None) -> None:
        self.options = options or ComponentsOptions()

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return ()

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        import numpy as np

        options = self.options
        pixels = np.asarray(open_rgb(candidate.image))
        height, width = pixels.shape[:2]
        colours = label_colours(pixels, options.tolerance, options.split_colours)
        boxes, areas = component_boxes(colours, options.connectivity)
        smallest = options.min_area * (height * width if options.min_area < 1 else 1)
        big = [(area, box) for area, box in zip(areas, boxes, strict=True) if area >= smallest]
        largest = sorted(big, key=lambda pair: (-pair[0], pair[1]))[: options.max_regions]
        regions = [
            Region(str(number), _fraction(box, (width, height), options.margin))
            for number, box in enumerate(reading_order(box for _, box in largest), start=1)
        ]
        if options.whole:
            regions.append(Region(str(len(regions) + 1), (0.0, 0.0, 1.0, 1.0), "whole picture"))
        return regions


class Grid:
    """rows x columns equal tiles, listed in reading order."""

    def __init__(self, options: GridOptions | None = None) -> None:
        self.options = options or GridOptions()

    def questions(self, candidate: Candidate) -> Sequence[Question]:
        return ()

    def regions(self, candidate: Candidate, answers: Sequence[str]) -> Sequence[Region]:
        rows, columns = self.options.rows, self.options.columns
        return [
            Region(
                str(row * columns + column + 1),
                (column / columns, row / rows, (column + 1) / columns, (row + 1) / rows),
                f"row {row + 1}, column {column + 1}",
            )
            for row in range(rows)
            for column in range(columns)
        ]


def label_colours(pixels: NDArray[np.uint8], tolerance: float, split: bool) -> Ints:
    """(height, width): 0 for background, else the number of the pixel's foreground colour, 1 being the commonest."""
    import numpy as np

    fine = pixels.astype(np.int64)
    codes = ((fine[..., 0] >> _BITS) << 16) | ((fine[..., 1] >> _BITS) << 8) | (fine[..., 2] >> _BITS)
    _, where, counts = np.unique(codes, return_inverse=True, return_counts=True)
    where = where.reshape(codes.shape)
    flat = where.ravel()
    sums = [np.bincount(flat, weights=fine[..., channel].ravel()) for channel in range(3)]
    means = np.stack(sums, axis=1) / counts[:, None]
    border = np.concatenate([where[0], where[-1], where[:, 0], where[:, -1]])
    background = means[np.bincount(border).argmax()]
    open_bins = np.abs(means - background).max(axis=1) > tolerance
    if not split:
        labels: Ints = open_bins.astype(np.int64)[where]
        return labels
    foreground = np.flatnonzero(open_bins)
    labels = np.zeros(len(counts), dtype=np.int64)
    if len(foreground):
        offsets = means[foreground] - background
        palette = _palette(offsets, counts[foreground], tolerance)
        labels[foreground] = np.stack([_off_blend(offsets, colour) for colour in palette]).argmin(axis=0) + 1
    return labels[where]


def _palette(offsets: Floats, counts: Ints, tolerance: float) -> list[Floats]:
    """The commonest colour, then the commonest neither near it nor a blend of it with the background, and so on.

    Colours are given as offsets from the background. Without the rule on blends a shape's soft edge would become a ring
    of its own.
    """
    import numpy as np

    left = counts.copy()
    colours: list[Floats] = []
    while left.any() and len(colours) < _COLOURS:
        colour = offsets[left.argmax()]
        colours = [one for one in colours if _off_blend(one[None], colour)[0] > tolerance] + [colour]
        near = np.abs(offsets - colour).max(axis=1) <= tolerance
        left[near | (_off_blend(offsets, colour) <= tolerance)] = 0
    return colours


def _off_blend(offsets: Floats, colour: Floats) -> Floats:
    """Distance of each colour from the nearest blend of `colour` with the background: (colours,)."""
    import numpy as np

    share = (offsets @ colour / max(float(colour @ colour), 1e-9)).clip(0, 1)
    distances: Floats = np.linalg.norm(offsets - share[:, None] * colour, axis=1)
    return distances


def component_boxes(labels: Ints, connectivity: int) -> tuple[list[Pixels], list[int]]:
    """Boxes and areas (pixels) of the connected patches of equal non-zero label.

    Works on runs (stretches of one label in a row), joined by union-find, so no Python loop ever touches a pixel.
    """
    import numpy as np

    height, width = labels.shape
    starts = np.ones((height, width), dtype=bool)
    starts[:, 1:] = labels[:, 1:] != labels[:, :-1]
    run = np.cumsum(starts.ravel()).reshape(height, width) - 1
    first = np.flatnonzero(starts.ravel())
    length = np.diff(np.append(first, height * width))
    seen = labels.ravel()[first] != 0
    if not seen.any():
        return [], []
    root = _union(len(first), *_touching(labels, run, connectivity))
    row, column = np.divmod(first, width)
    roots, member = np.unique(root[seen], return_inverse=True)
    low = np.full((2, len(roots)), max(height, width), dtype=np.int64)
    high = np.zeros((2, len(roots)), dtype=np.int64)
    for axis, (start, end) in enumerate(((column, column + length), (row, row + 1))):
        np.minimum.at(low[axis], member, start[seen])
        np.maximum.at(high[axis], member, end[seen])
    areas = np.bincount(member, weights=length[seen]).astype(np.int64)
    boxes = [(int(x0), int(y0), int(x1), int(y1)) for x0, y0, x1, y1 in np.concatenate([low, high]).T]
    return boxes, areas.tolist()


def _touching(labels: Ints, run: Ints, connectivity: int) -> tuple[Ints, Ints]:
    """Pairs of runs of equal non-zero label that touch between one row and the next."""
    import numpy as np

    above: list[Ints] = []
    below: list[Ints] = []
    width = labels.shape[1]
    for shift in (0,) if connectivity == 4 else (-1, 0, 1):
        upper = slice(max(0, -shift), width - max(0, shift))
        lower = slice(max(0, shift), width - max(0, -shift))
        same = (labels[:-1, upper] == labels[1:, lower]) & (labels[1:, lower] != 0)
        above.append(run[:-1, upper][same])
        below.append(run[1:, lower][same])
    return np.concatenate(above), np.concatenate(below)


def _union(count: int, left: Ints, right: Ints) -> Ints:
    """The smallest member of each one's group, groups joined along the pairs (left, right): (count,)."""
    import numpy as np

    root = np.arange(count)
    while True:
        a, b = root[left], root[right]
        apart = a != b
        if not apart.any():
            return root
        left, right, a, b = left[apart], right[apart], a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(shorter := root[root], root):
            root = shorter


def reading_order(boxes: Iterable[Pixels]) -> list[Pixels]:
    """Rows from top to bottom, each left to right. A box joins a row if its middle lies above the bottom of the row's
    first box."""
    rows: list[list[Pixels]] = []
    for box in sorted(boxes, key=lambda box: (box[1], box[0], box[3], box[2])):
        if rows and (box[1] + box[3]) / 2 < rows[-1][0][3]:
            rows[-1].append(box)
        else:
            rows.append([box])
    return [box for row in rows for box in sorted(row)]


def _fraction(box: Pixels, size: tuple[int, int], margin: float) -> Box:
    width, height = size
    x0, y0, x1, y1 = box
    return (
        max(0.0, x0 / width - margin),
        max(0.0, y0 / height - margin),
        min(1.0, x1 / width + margin),
        min(1.0, y1 / height + margin),
    )
