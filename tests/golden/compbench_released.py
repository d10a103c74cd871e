"""What the SRUM authors' scorer of T2I-CompBench does with a folder of images, kept to compare published numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from attrs import frozen

from srum_benchmarks import files
from srum_benchmarks.compbench.benchmark import COMPLEX, SUFFIXES
from srum_core.errors import ConfigError


def reference_mean(cells: Iterable[str]) -> float:
    """The mean of a column as the reference takes it: cells that are no numbers are dropped, failures (-1) are not."""
    numbers = [number for cell in cells if (number := _number(cell)) is not None]
    return sum(numbers) / len(numbers) if numbers else 0.0


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None


@frozen
class Overall:
    """The mean of what there is of the three complex folders (0 if there is none), and that of all columns."""

    composite: float
    overall: float


def reference_overall(means: Mapping[str, float]) -> Overall:
    """`means` by category. The complex column counts as one even where there is none, as in the reference."""
    parts = [means[name] for name in COMPLEX if name in means]
    base = [mean for name, mean in means.items() if name not in COMPLEX]
    composite = sum(parts) / len(parts) if parts else 0.0
    return Overall(composite, (sum(base) + composite) / (len(base) + 1))


@frozen
class Item:
    """An image that the SRUM authors' scorer looks at."""

    question_id: int
    prompt: str
    path: Path


def items(folder: Path, strict: bool = True) -> list[Item]:
    """What the SRUM authors' scorer finds in a category's folder, by number.

    Raises ConfigError for a name that is no number, which makes the reference give up the category; with `strict` also
    for an image without a prompt (the reference leaves it out of the mean) and a prompt without an image."""
    where = folder / "samples" if (folder / "samples").is_dir() else folder
    names = [path.name for path in where.iterdir() if path.suffix.lower() in SUFFIXES]
    odd = sorted(name for name in names if not Path(name).stem.isdecimal())
    if odd:
        raise ConfigError(
            f"{where / odd[0]}: pictures are named by their Question_id, such as 1701.png. Rename or remove it."
        )
    listed = folder.with_name(folder.name.replace("_no_think", "_think")) / "output.jsonl"
    if not listed.is_file():
        raise ConfigError(
            f"{listed} is missing: it says which picture was made for which prompt, also without thinking."
        )
    prompts = {
        entry["image_file"]: entry["original_prompt"]
        for _, entry in files.read_objects(listed)
        if "image_file" in entry and "original_prompt" in entry
    }
    if strict:
        _refuse(where, listed, sorted(set(prompts) - set(names)), sorted(set(names) - set(prompts)))
    known = sorted((name for name in names if name in prompts), key=lambda name: int(Path(name).stem))
    return [Item(int(Path(name).stem), prompts[name], where / name) for name in known]


def _refuse(where: Path, listed: Path, missing: Sequence[str], extra: Sequence[str]) -> None:
    if missing:
        raise ConfigError(f"{where}: {len(missing)} pictures are missing, such as {missing[0]}. Draw them first.")
    if extra:
        raise ConfigError(
            f"{where / extra[0]} is a picture that {listed} knows no prompt of. Remove it, or add its line."
        )


def shares(total: int, workers: int) -> list[tuple[int, int, int]]:
    """(worker, start, end) of the reference's shares of a category; the last end may lie behind the last image."""
    each = -(-total // workers)
    return [(worker, worker * each, (worker + 1) * each) for worker in range(workers) if worker * each < total]
