"""Judged images as a data set of the `datasets` library: one row an image, with the image in it.

Written as one Parquet file, which `datasets.load_dataset("parquet", data_files=...)` opens with images and nested
features; read from such files and from what `Dataset.save_to_disk` makes of them. Columns:

image, reference    the images (features `datasets.Image`); reference may be null
id, prompt_id, prompt, tags (JSON), seed, thought, model, note
regions, scores, failures, exchanges, boxes    as in srum_core.records, with their fields

`image`, `prompt`, `regions` and `scores` are enough to be read. Text that is no Unicode (half of a surrogate pair) has
no place in Parquet: such characters are replaced by U+FFFD.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Any, cast, get_args, get_origin

import attrs
from cattrs import Converter

from srum_core.errors import ConfigError, RecordError, clean, extra
from srum_core.interchange.incoming import (
    OWN,
    REFERENCE,
    Bad,
    File,
    Incoming,
    Unusable,
    check_image,
    find,
    id_in,
    in_words,
    load_image,
    renamed,
    score_in_range,
    text_of,
)
from srum_core.models.images import read_files
from srum_core.options import Problems, strict_converter, structure
from srum_core.records import BoxFormat, Candidate, Exchange, Judgement, Prompt, Region, Score, Unreadable
from srum_core.runs.files import from_json, inside
from srum_core.runs.prompts import other_task, tell_once

Json = dict[str, Any]
Columns = Callable[[Path, Sequence[str]], list[str]]
"""Which of a file's columns to read. Raises RecordError where some are missing."""
CAPTIONED = "Images with captions alone are read with --captions."
NEEDED = ("image", "prompt", "regions", "scores")
_GROUP = 32
"""Rows in memory at once."""
_TEXTS = ("thought", "model", "note")
"""Of a candidate; a row without one of them has "" there."""
_RECORDS: Mapping[str, Any] = {
    "regions": tuple[Region, ...],
    "scores": tuple[Score, ...],
    "failures": tuple[Unreadable, ...],
    "exchanges": tuple[Exchange, ...],
    "boxes": BoxFormat | None,
}


def need(what: str) -> tuple[Any, Any, Any]:
    """Return the modules datasets, pyarrow and pyarrow.parquet. Raises ConfigError if they are not installed."""
    try:
        import datasets
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ConfigError(f"{what} needs the package datasets ({error}). Install it: {extra('data')}.") from error
    return datasets, pyarrow, pyarrow.parquet


def features(datasets: Any) -> Any:
    """Return the columns. A nested column has every field of its record, so that nothing is lost."""

    def column(kind: Any) -> Any:
        kind = next((each for each in get_args(kind) if NoneType in get_args(kind) and each is not NoneType), kind)
        if get_origin(kind) is tuple:
            return datasets.List(column(get_args(kind)[0]))
        if attrs.has(kind):
            return {field.name: column(field.type) for field in attrs.fields(attrs.resolve_types(kind))}
        return datasets.Value({float: "float64", int: "int64", bool: "bool"}.get(kind, "string"))

    return datasets.Features(
        {
            **{"id": column(str), "image": datasets.Image(), "reference": datasets.Image()},
            **{"prompt_id": column(str), "prompt": column(str), "tags": column(str)},
            **{"seed": column(int), **dict.fromkeys(_TEXTS, column(str))},
            **{name: column(kind) for name, kind in _RECORDS.items()},
        }
    )


# ---- writing --------------------------------------------------------------------------------------------------------


def write_parquet(path: Path, images: Iterable[tuple[Candidate, Judgement]]) -> tuple[int, int]:
    """Write one file; return the number of rows, and of rows whose text was repaired."""
    datasets, pyarrow, parquet = need("Writing Parquet")
    schema = features(datasets).arrow_schema
    rows = repaired = 0
    with parquet.ParquetWriter(path, schema) as writer:
        pending = (_row(candidate, judgement) for candidate, judgement in images)
        while chunk := list(islice(pending, _GROUP)):
            repaired_rows = [_repaired(row) for row in chunk]
            repaired += sum(row != other for row, other in zip(chunk, repaired_rows, strict=True))
            rows += len(chunk)
            writer.write_table(pyarrow.Table.from_pylist(repaired_rows, schema=schema))
    return rows, repaired


def _row(candidate: Candidate, judgement: Judgement) -> Json:
    convert = _converter()
    files = {path: {"bytes": data, "path": path.name} for path, data in read_files(candidate).items()}
    names = {candidate.image: OWN, **({candidate.reference: REFERENCE} if candidate.reference else {})}
    judgement = attrs.evolve(judgement, exchanges=renamed(judgement.exchanges, names))
    return {
        "id": candidate.id,
        "image": files[candidate.image],
        "reference": candidate.reference and files[candidate.reference],
        "prompt_id": candidate.prompt.id,
        "prompt": candidate.prompt.text,
        "tags": json.dumps(candidate.prompt.tags),
        "seed": candidate.seed,
        **{name: getattr(candidate, name) for name in _TEXTS},
        **{name: convert.unstructure(getattr(judgement, name), kind) for name, kind in _RECORDS.items()},
    }


def _repaired(value: Any) -> Any:
    """Replace lone surrogates by U+FFFD."""
    if isinstance(value, str):
        return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    if isinstance(value, dict):
        return {key: _repaired(each) for key, each in value.items()}
    return type(value)(map(_repaired, value)) if isinstance(value, list | tuple) else value


# ---- reading --------------------------------------------------------------------------------------------------------


def read_parquet(path: Path, images: Path | None = None) -> Iterator[Incoming | Bad]:
    """Read every row of a Parquet file, of all Parquet files in a folder, or of a saved data set.

    images      folder of images that rows only name; None = the file's folder

    Raises RecordError for any other source or a missing column, ConfigError without `datasets`."""
    for where, table in read_rows(path, _columns):
        try:
            yield _incoming(where, plain(table), images or (path if path.is_dir() else path.parent))
        except Unusable as error:
            yield Bad(where, str(error))


def read_rows(path: Path, choose: Columns) -> Iterator[tuple[str, Any]]:
    """Read every row as a table of one row, with the columns that `choose` returns."""
    datasets, pyarrow, parquet = need("Reading Parquet")
    if (path / "dataset_dict.json").is_file():
        splits = ", ".join(sorted(each.name for each in path.iterdir() if each.is_dir()))
        raise RecordError(f"{path} is a data set in several splits ({splits}). Name the folder of one of them.")
    if (path / "state.json").is_file():
        yield from rows_of(_load_saved(datasets, path), path, choose)
        return
    files = {path.name: path}
    if path.is_dir():
        files = {each.name: inside(path, each.name) for each in sorted(path.glob("*.parquet"))}
    if not files:
        raise RecordError(f"{path} holds neither Parquet files nor a data set that was saved. {CAPTIONED}")
    for name, each in files.items():
        try:
            with parquet.ParquetFile(each) as file:
                columns = choose(each, file.schema_arrow.names)
                yield from _numbered(name, file.iter_batches(batch_size=_GROUP, columns=columns))
        except (OSError, ValueError, pyarrow.ArrowException) as error:
            raise RecordError(f"{each} cannot be read as Parquet: {clean(error)}") from error


def _numbered(name: str, tables: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    rows = (table.slice(row, 1) for table in tables for row in range(table.num_rows))
    yield from ((f"{name}, row {number}", row) for number, row in enumerate(rows, 1))


def rows_of(data: Any, name: Path, choose: Columns) -> Iterator[tuple[str, Any]]:
    """Read the rows of a `datasets.Dataset`, as Arrow tables: columns of type Image or Audio would open the files that
    rows name."""
    selection = data.select_columns(choose(name, data.column_names))
    yield from _numbered(name.name, selection.with_format("arrow").iter(batch_size=_GROUP))


def _load_saved(datasets: Any, path: Path) -> Any:
    try:
        for each in json.loads((path / "state.json").read_bytes())["_data_files"]:
            inside(path, each["filename"])
        inside(path, "dataset_info.json")
        return datasets.load_from_disk(str(path))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RecordError(f"{path} cannot be read as a saved data set: {clean(error)}") from error


def plain(table: Any) -> Json:
    try:
        (row,) = table.to_pylist()
    except (ValueError, LookupError, TypeError, NotImplementedError) as error:  # text that is no UTF-8, a far date
        raise Unusable(f"it cannot be read ({error})") from error
    return cast(Json, row)


def _columns(path: Path, columns: Sequence[str]) -> list[str]:
    missing = [name for name in NEEDED if name not in columns]
    if missing:
        raise RecordError(
            f"{path} has no column {' and no column '.join(missing)}; it has {', '.join(columns)}. Needed are "
            f"{', '.join(NEEDED)}, as srum export --to parquet writes them. " + CAPTIONED
        )
    if wrong := other_task(dict.fromkeys(columns, True), images=False):
        raise RecordError(f"{path}: {wrong}")
    names = list(features(need("Reading Parquet")[0]))
    if unknown := [name for name in columns if name not in names]:
        tell_once(f"{path}: these columns are not read: {clean(', '.join(unknown))}.")
    return [name for name in names if name in columns]


def _incoming(where: str, row: Json, folder: Path) -> Incoming:
    text = text_of(row, "prompt")
    image = read_image(row["image"], [folder], "image")
    if image is None:
        raise Unusable("it has no image")
    reference = read_image(row.get("reference"), [folder], "reference")
    if reference and reference.size != image.size:
        raise Unusable(f"its image is {image.size}, its reference {reference.size}: they must be of one size")
    records = {name: _structured(name, row.get(name)) for name in _RECORDS}
    _refuse_strangers(records["regions"], [*records["scores"], *records["failures"]])
    if not records["scores"] and not records["failures"]:
        raise Unusable("it holds no score")
    exchanges = [each for each in records["exchanges"] if each.question.image in (OWN, REFERENCE)]
    strange = {str(each.question.image) for each in records["exchanges"]} - {str(OWN), str(REFERENCE)}
    notes = [f"exchanges about {name}, neither its image nor its reference, were left out" for name in sorted(strange)]
    records["exchanges"] = tuple(exchanges)
    prompt = Prompt(id_in(row.get("prompt_id"), row.get("id"), where), text, _tags(row.get("tags")))
    seed = row.get("seed")
    texts: dict[str, Any] = {name: row.get(name) or "" for name in _TEXTS}
    if not isinstance(seed, int | None):
        raise Unusable(f"its seed is {in_words(seed)}, and should be a whole number")
    for name, value in texts.items():
        if not isinstance(value, str):
            raise Unusable(f"its {name} is {in_words(value)}, and should be a text")
    return Incoming(where, prompt, image, reference, **texts, seed=seed, notes=tuple(notes), **records)


def read_image(value: Any, folders: Sequence[Path], name: str) -> File | None:
    """Return an image from bytes, or from the file in `folders` that the row names; None if there is neither."""
    both = {"bytes": value} if isinstance(value, bytes) or value is None else value
    data, path = (both.get("bytes"), both.get("path")) if isinstance(both, dict) else (both, None)
    if not isinstance(data, bytes | None) or not isinstance(path, str | None):
        raise Unusable(f"its {name} is {in_words(value)}, and should be bytes, or a struct of bytes and path")
    if data:
        return check_image(Path(path or f"{name}.png").name, data)
    return load_image(find(path, folders)) if path else None


def _tags(text: Any) -> Json:
    try:
        tags = from_json(text) if text else {}
    except (TypeError, ValueError, AttributeError) as error:
        raise Unusable(f"its tags are not JSON ({error})") from error
    if not isinstance(tags, dict):
        raise Unusable(f"its tags are {text}, and should be a JSON object")
    return tags


def _structured(name: str, value: Any) -> Any:
    """Convert plain data to records; null counts as the default of a field."""
    structs = [] if value is None else [value] if name == "boxes" else value
    if not isinstance(structs, list) or not all(isinstance(each, dict) for each in structs):
        raise Unusable(f"its {name} are {in_words(structs)}, and should be a list of structs")
    if name == "scores":
        for number, score in enumerate(structs, 1):
            score_in_range(score.get("value"), f"score {number}")
    value = [_without_null(each) for each in structs]
    if name == "boxes":
        value = next((each for each in value if "unit" in each), None)
    try:
        return structure(_converter(), value, _RECORDS[name])
    except Problems as problems:
        raise Unusable(f"its {name} cannot be used: {problems}") from problems


def _without_null(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _without_null(each) for key, each in value.items()}
    return {key: each for key, each in inner.items() if each is not None and each != {}}


def _refuse_strangers(regions: Sequence[Region], results: Sequence[Score | Unreadable]) -> None:
    ids = [region.id for region in regions]
    if len(set(ids)) != len(ids):
        raise Unusable("two of its regions have the same id")
    strange = {each.region for each in results} - {None, *ids}
    if strange:
        raise Unusable(f"it scores region {sorted(map(str, strange))[0]!r}, which it does not list")


@cache
def _converter() -> Converter:
    convert = strict_converter()
    convert.register_unstructure_hook_func(lambda kind: isinstance(kind, type) and issubclass(kind, Path), str)
    return convert
