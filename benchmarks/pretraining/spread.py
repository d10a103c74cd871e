"""Measure how evenly the objects of a folder of images are spread over the cells of the crowded world and over the
kinds, to see whether training made images alike.

    python -m pretraining.spread runs/crowded/seed-0/full/round-2/evaluation/images

Prints two entropies as shares of the largest one: 1 = every cell (kind) holds equally many objects, 0 = one holds all.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Hashable, Iterable
from pathlib import Path

import numpy as np

from srum_benchmarks.shapes.checker import look
from srum_benchmarks.shapes.crowded import GRID, cell_of
from srum_benchmarks.shapes.world import KINDS
from srum_core.models.images import open_image


def evenness(values: Iterable[Hashable], size: int) -> float:
    """Return the values' entropy as a share of log(size), the entropy of `size` equally frequent values."""
    counts = Counter(values).values()
    total = sum(counts)
    return sum(n / total * math.log(total / n) for n in counts) / math.log(size)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of PNG images")
    for folder in parser.parse_args(argv).folders:
        images = [np.asarray(open_image(path)) for path in sorted(folder.glob("*.png"))]
        if not images:
            parser.error(f"There are no PNG images in {folder}.")
        objects = [thing for image in images for thing in look(image, small=True) if thing.kind]
        if not objects:
            parser.error(f"The checker recognises no object in the images of {folder}.")
        cells = evenness((cell_of(thing.centre) for thing in objects), GRID * GRID)
        kinds = evenness((thing.kind for thing in objects), len(KINDS))
        print(f"{folder}: {len(objects) / len(images):.2f} objects an image; cells {cells:.3f}, kinds {kinds:.3f}")


if __name__ == "__main__":
    main()
