"""Read images with captions as candidates of a run, as if generated for their captions.

Sources: JSON lines or CSV whose records name an image and its caption, Parquet and saved data sets, a folder with a
.txt of the same name beside each image, and the hub with `datasets`. No image is resized here: the adapter
resizes for understanding and training. An image that cannot be used is `Bad`.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from attrs import frozen

from srum_core.errors import ConfigError, RecordError, clean
from srum_core.interchange.incoming import Bad, File, Incoming, Unusable, find, id_in, load_image, text_of
from srum_core.interchange.official import lines_of, record_of
from srum_core.interchange.parquet import Json, need, plain, read_image, read_rows, rows_of
from srum_core.models.images import flatten
from srum_core.options import odd
from srum_core.records import Prompt
from srum_core.runs.files import inside, read_text
from srum_core.runs.prompts import id_of, other_task, tell_once

IMAGE = ("image", "file_name", "image_path", "image_file", "path", "file")
CAPTION = ("caption", "text", "prompt", "original_prompt")
ID = ("id", "prompt_id")
SUFFIXES = {".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif"}
"""Of images in a folder; one that PIL cannot read here is named."""
_METADATA = ("metadata.jsonl", "metadata.csv")
"""The file of captions in a folder of images, as in `datasets`."""
_ORIENTATION, _TURNED = 0x0112, range(2, 9)
"""The EXIF tag, and its values that ask for another orientation."""

Sources = Iterator[tuple[str, Callable[[], Json]]]
"""Where each record is, and a function that reads it; the function raises Unusable."""


@frozen
class Fields:
    """The fields of image and caption; "" = the first usual one that exists."""

    image: str = ""
    caption: str = ""

    def of(self, file: str, record: Json) -> tuple[str, str]:
        """Return (image, caption), and report fields that are not read.

        Raises Unusable if one of both is missing, and for a record of another task."""
        names, fields = list(record), list[str]()
        for what, option, usual in (("image", self.image, IMAGE), ("caption", self.caption, CAPTION)):
            name = next((each for each in ([option] if option else usual) if each in names), None)
            if name is None:
                raise Unusable(
                    f"it has no {option or what}, only {clean(', '.join(names) or 'nothing', 200)}; name the field of "
                    f"the {what} with --{what}-field"
                )
            fields.append(name)
        unread = {name: each for name, each in record.items() if name not in (*fields, *ID)}
        if wrong := other_task(unread, images=False):
            raise Unusable(wrong)
        if unread:
            tell_once(f"{file}: these fields are not read: {clean(', '.join(map(str, unread)))}.")
        return fields[0], fields[1]

    def columns(self, path: Path, names: Sequence[str]) -> list[str]:
        """Return the columns to read. Raises RecordError."""
        try:
            return [*self.of(path.name, dict.fromkeys(names, True)), *(name for name in ID if name in names)]
        except Unusable as error:
            raise RecordError(f"{path}: {error}") from error


def read_captions(data: Path, images: Path | None, fields: Fields, split: str) -> Iterator[Incoming | Bad]:
    """Read every image of a file, a folder, or a data set of the hub (OWNER/NAME or OWNER/NAME/SUBSET).

    images      folder of images that records only name; None = the file's folder, or `images/` in it
    split       the split of a data set of the hub

    Raises RecordError for any other source, and where all images or captions are missing."""
    records, folders = _records(data, fields, split)
    for where, read in records:
        try:
            yield _incoming(where, read(), [images] if images else folders, fields)
        except Unusable as error:
            yield Bad(where, str(error))


def _records(data: Path, fields: Fields, split: str) -> tuple[Sources, list[Path]]:
    """Return the records, and the folders that may hold their images."""
    if not data.exists():
        return _from_hub(data, fields, split)
    saved = any((data / name).is_file() for name in ("state.json", "dataset_dict.json"))
    if data.is_dir() and not saved and not any(data.glob("*.parquet")):
        listed = next((data / name for name in _METADATA if (data / name).is_file()), None)
        if listed is None:
            return _beside_images(data), [data]
        data = listed
    folders = [data, data / "images"] if data.is_dir() else [data.parent, data.parent / "images"]
    if data.is_dir() or data.suffix == ".parquet":
        rows = read_rows(data, fields.columns)
        return ((where, partial(plain, row)) for where, row in rows), folders
    if data.suffix in (".jsonl", ".json"):
        return ((where, partial(record_of, line)) for where, line in lines_of(data)), folders
    if data.suffix == ".csv":
        return _from_table(data), folders
    raise RecordError(
        f"{data}: images with captions are read from .jsonl, .csv and .parquet files, from a folder, or from the hub."
    )


def _from_table(path: Path) -> Sources:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""), strict=True)
    try:
        for row in reader:
            yield f"{path.name}:{reader.line_num}", partial(_row, row)
    except csv.Error as error:
        raise RecordError(f"{path}, after line {reader.line_num}: this is not CSV ({error}).") from error


def _row(row: Json) -> Json:
    if None in row:
        raise Unusable("there are more cells than columns. Quote texts that contain commas")
    return {name.strip(): cell for name, cell in row.items() if cell}


def _beside_images(folder: Path) -> Sources:
    paths = sorted(path for path in folder.rglob("*") if not _hidden(path.relative_to(folder)))
    images = [path for path in paths if path.suffix.lower() in SUFFIXES]
    captioned = {path.with_suffix("") for path in images}
    for path in images:
        yield str(path.relative_to(folder)), partial(_beside, folder, path)
    for path in paths:
        if path.suffix == ".txt" and path.with_suffix("") not in captioned:
            yield str(path.relative_to(folder)), partial(_alone, path)


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _beside(folder: Path, path: Path) -> Json:
    name = path.relative_to(folder)
    caption = name.with_suffix(".txt")
    if not (folder / caption).exists():
        raise Unusable(f"it has no caption: {caption.name} is not beside it")
    try:
        return {"image": str(name), "caption": read_text(inside(folder, caption))}
    except (ConfigError, RecordError) as error:
        raise Unusable(f"its caption cannot be read: {error}") from error


def _alone(path: Path) -> Json:
    raise Unusable(f"there is no image {path.stem} beside this caption")


def _from_hub(data: Path, fields: Fields, split: str) -> tuple[Sources, list[Path]]:
    name = data.as_posix()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+(/[\w.-]+)?", name) or data.suffix in (".jsonl", ".json", ".csv", ".parquet"):
        raise RecordError(f"{data} does not exist.")
    datasets, _, _ = need(f"{data} is not a file or folder, and reading it from the hub")
    from huggingface_hub import constants

    owner, repository, *subset = name.split("/")
    try:
        dataset = datasets.load_dataset(f"{owner}/{repository}", *subset, split=split)
    except Exception as error:  # of many kinds, if it cannot be found, reached or read
        raise RecordError(
            f"{data} is not a file or folder, and cannot be read as a data set of the hub (split {split}): "
            f"{clean(error, 500)}"
        ) from error
    rows = rows_of(dataset, data, fields.columns)
    # Data sets other than tables name files; only downloaded files are read.
    caches = [Path(datasets.config.HF_DATASETS_CACHE), Path(constants.HF_HUB_CACHE)]
    return ((where, partial(plain, row)) for where, row in rows), caches


def _incoming(where: str, record: Json, folders: Sequence[Path], fields: Fields) -> Incoming:
    image_field, caption_field = fields.of(where.rpartition(":")[0], record)
    text = text_of(record, caption_field)
    identity = id_in(*map(record.get, ID), id_of(text.strip()))
    if why := odd(text) or odd(identity):
        raise Unusable(f"its caption or id {why}")
    value = record[image_field]
    image = load_image(find(value, folders)) if isinstance(value, str) else read_image(value, folders, image_field)
    if image is None:
        raise Unusable("it has no image")
    upright, notes = _upright(image)
    return Incoming(where, Prompt(identity, text.strip()), upright, notes=tuple(notes))


def _upright(file: File) -> tuple[File, list[str]]:
    """Rotate an image as its EXIF data says, which models and judges do not read; return it and notes.

    Raises Unusable."""
    from PIL import Image, ImageOps

    try:
        with Image.open(BytesIO(file.data)) as image:
            count = getattr(image, "n_frames", 1)
            notes = [f"only the first of its {count} images is used"] if count > 1 else []
            if image.getexif().get(_ORIENTATION) not in _TURNED:
                return file, notes
            rotated: Any = flatten(ImageOps.exif_transpose(image))
    except Exception as error:  # of damaged EXIF data, of any kind
        raise Unusable(f"the EXIF data of {file.name} cannot be read ({error})") from error
    data = BytesIO()
    rotated.save(data, format="PNG")
    notes.append("it was rotated according to its EXIF data")
    return File(f"{Path(file.name).stem}.png", data.getvalue(), rotated.size), notes
