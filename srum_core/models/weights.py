"""Checkpoint files, checked before they are used: JSON configurations, safetensors with their shards, PyTorch files.

Any fault is a CheckpointError that names the file and the fault. Headers are enough to compare names and
shapes; values are checked when they are read. See docs/decisions.md ("Weights are checked where they are read").
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from zipfile import is_zipfile

import torch
from attrs import field, frozen
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from srum_core.errors import CheckpointError, SrumError, clean
from srum_core.models import small_memory
from srum_core.runs.files import redo_option, way_out

M = TypeVar("M", bound=nn.Module)
KINDS = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
"""Types that weights may have, and their names in safetensors."""
SAFETENSORS, PICKLE = ".safetensors", ".bin"
PICKLES = (PICKLE, ".pt", ".pth")
"""Endings of PyTorch files."""
MOST_LAYERS, LARGEST = 1_000, 2**24
"""Above these a number of layers, or a size, in a configuration is a mistake (a vocabulary has about 2**18)."""
_LAYERS = re.compile(r"(^|_)(layers?|depths?|blocks)(_|$)")
_SIZES = re.compile(r"size|dim|width|channels|heads|experts|max_position")


# ---- files ----------------------------------------------------------------------------------------------


def unreadable(path: Path, error: object) -> CheckpointError:
    """The error for a file that cannot be read: its kind, as far as its first bytes show it."""
    start = b""
    with suppress(OSError), path.open("rb") as file:
        start = file.read(64)
        error = error if start else "it is empty"
    if start.startswith(b"version https://git-lfs"):
        error = "it is a Git LFS pointer, not the file itself; `git lfs pull` in its folder fetches that"
    elif start.lstrip().startswith((b"<!", b"<html")):
        error = "it is a web page"
    else:
        error = f"it is cut off or of another kind: {clean(error)}" if start else clean(error)
    ways = way_out(path) if redo_option(path) else "Download it again."
    return CheckpointError(f"{path} cannot be read: {error}. {ways}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CheckpointError, also for sizes (layers, widths, …) that no model has."""
    if not path.is_file():
        raise CheckpointError(f"{path.parent} has no {path.name}; the published directory does.")
    data = _parse(path)
    if not isinstance(data, dict):
        raise unreadable(path, f"it holds a {type(data).__name__} instead of an object")
    todo: list[tuple[str, Any]] = list(data.items())
    while todo:
        key, value = todo.pop()
        if isinstance(value, dict):
            todo += value.items()
        elif isinstance(value, list):
            todo += ((key, item) for item in value)
        elif isinstance(value, int | float):
            most = MOST_LAYERS if _LAYERS.search(key) else LARGEST if _SIZES.search(key) else value
            if value > most and key != "total_size":  # of an index: bytes of all shards
                raise CheckpointError(f"{path}: {clean(key)} is {clean(value, 40)}; no model has more than {most}.")
    return data


def _parse(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, f"it is no JSON ({clean(error)})") from error


def shards(index: Path) -> list[Path]:
    """The files that an index names. Raises CheckpointError for one that is missing, or not in the index's folder."""
    table = read_json(index).get("weight_map")
    if not isinstance(table, dict) or not table or not all(type(name) is str for name in table.values()):
        raise CheckpointError(f"{index} does not list the file of each tensor (weight_map). Download it again.")
    names = sorted(set(table.values()))
    home = index.parent.resolve()
    # The hub's cache keeps the files themselves outside its snapshots, which hold symbolic links to them.
    homes = [home, *(folder.parent / "blobs" for folder in home.parents if folder.name == "snapshots")]

    def inside(name: str) -> bool:
        if Path(name).name != name or name in ("", "..") or "\0" in name:
            return False
        real = Path(os.path.realpath(index.parent / name))
        return any(real.is_relative_to(folder) for folder in homes)

    if outside := [clean(name, 80) for name in names if not inside(name)]:
        raise CheckpointError(f"{index} names {', '.join(outside[:5])}, outside of its folder. Put the files into it.")
    paths = [index.parent / name for name in names]
    if missing := [path.name for path in paths if not path.is_file()]:
        raise CheckpointError(
            f"{index} names {', '.join(missing[:5])}, which {index.parent} does not hold ({len(missing)} of "
            f"{len(paths)} shards): download the missing shards."
        )
    return paths


def opened(path: Path, device: torch.device | str = "cpu") -> Any:
    """A safetensors file, to be used by `with`. Raises CheckpointError."""
    try:
        return safe_open(path, framework="pt", device=str(device))
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error


def header(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (type, shape) of the tensors in a safetensors or a PyTorch file. Raises CheckpointError."""
    if path.suffix in PICKLES:
        tensors = read_tensors(path, lazily=True)
        return {name: (KINDS.get(t.dtype, str(t.dtype)), tuple(t.shape)) for name, t in tensors.items()}
    with opened(path) as file:
        parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    return {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in parts.items()}


def read_tensors(path: Path, lazily: bool = False) -> dict[str, Tensor]:
    """Tensors by name, out of a safetensors or a PyTorch file of nothing but tensors. Raises CheckpointError.

    `lazily`: those of a PyTorch file are read from disk as they are used."""
    if path.suffix == SAFETENSORS:
        with opened(path) as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    data = unpickle(path, lazily)
    if not isinstance(data, Mapping) or not data or not all(isinstance(value, Tensor) for value in data.values()):
        raise CheckpointError(
            f"{path} holds no plain table of tensors by name. If they are wrapped in something else, save them on "
            "their own."
        )
    return {str(name): tensor for name, tensor in data.items()}


def unpickle(path: Path, lazily: bool = False) -> Any:
    """Load a PyTorch file on the CPU. Nothing in it is executed: a pickle could be a program."""
    try:
        # Files of before PyTorch 1.6 are no archives and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=lazily and is_zipfile(path))
    except Exception as error:  # torch.load raises almost anything for a file that is cut off or of another kind
        words = f"or it holds more than tensors, which is refused ({type(error).__name__}: {clean(error, 200)})"
        raise unreadable(path, words) from error


# ---- tensors ----------------------------------------------------------------------------------------------


@frozen
class Stored:
    """Every tensor of a checkpoint part: name -> (file, shape). Made from headers alone."""

    directory: Path
    stem: str
    where: dict[str, Path] = field(repr=False)
    shapes: dict[str, tuple[int, ...]] = field(repr=False)
    ending: str = SAFETENSORS

    @classmethod
    def open(cls, directory: Path, stems: Sequence[str], kind: str, ending: str = SAFETENSORS) -> Stored:
        """The first of `stems` there is, as one file or as an index with shards; `kind`: of checkpoint, for people;
        `ending`: of safetensors or PICKLE, of PyTorch files. Raises CheckpointError."""
        for stem in stems:
            single, index = (directory / f"{stem}{ending}{end}" for end in ("", ".index.json"))
            if single.is_file() or index.is_file():
                return cls(directory, stem, *locate([single] if single.is_file() else shards(index)), ending)
        if quantised := sorted(directory.glob("*.gguf")):
            raise CheckpointError(
                f"{directory} holds {quantised[0].name}. A quantised checkpoint (GGUF) cannot be used here; give the "
                "original one. adapter.quantize=nf4 or int8 loads that in fewer bits."
            )
        names = " or ".join(f"{stem}{ending}" for stem in stems)
        raise CheckpointError(
            f"{directory} holds no {names} (single or sharded with an index): it is no {kind} checkpoint, or "
            "incomplete."
        )

    def read(self, names: Iterable[str], device: torch.device | str = "cpu") -> Iterator[tuple[str, Tensor]]:
        """The named tensors, file by file, one in memory at a time. Raises CheckpointError for values not finite."""
        by_file: dict[Path, list[str]] = {}
        for name in names:
            by_file.setdefault(self.where[name], []).append(name)
        for path, some in by_file.items():
            for name, tensor in _read(path, some, device):
                refuse_infinite([(name, tensor)], path)
                yield name, tensor

    def tensors(self, names: Iterable[str], device: torch.device | str = "cpu") -> dict[str, Tensor]:
        """The named tensors, all at once."""
        return dict(self.read(names, device))

    def load(
        self,
        modules: Sequence[nn.Module],
        device: torch.device | Callable[[str], torch.device],
        dtype: torch.dtype,
        stored_name: Callable[[str], str] = str,
        partly: bool = False,
    ) -> None:
        """Fill modules that were built on the meta device, and freeze them.

        device       of all tensors, or by a module's own name for each
        stored_name  gives the stored name for a module's own one
        partly       whether tensors may be stored that none of the modules has

        Raises CheckpointError with every tensor that is missing, of another shape, or not used."""
        own = {
            stored_name(name): (number, name, tuple(tensor.shape))
            for number, module in enumerate(modules)
            for name, tensor in module.state_dict().items()
        }
        # 1 x 1 convolutions may be stored with four dimensions where the module holds a matrix.
        expected = {
            name: stored if _without_ones(stored := self.shapes.get(name, shape)) == _without_ones(shape) else shape
            for name, (_, _, shape) in own.items()
        }
        refuse(
            f"The weights {self.stem}{self.ending} in {self.directory} do not match its configuration",
            differences(expected, self.shapes, unused=not partly),
        )
        by_device: dict[torch.device, list[str]] = {}
        for name, (_, ours, _) in own.items():
            place = device if isinstance(device, torch.device) else device(ours)
            by_device.setdefault(place, []).append(name)
        for place, names in by_device.items():
            for name, tensor in self.read(names, place):
                number, ours, shape = own[name]
                small_memory.put(modules[number], ours, tensor.reshape(shape).to(dtype).contiguous())
        for module in modules:
            module.eval().requires_grad_(False)

    def as_stored(self, changed: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return `changed` as it is stored: training keeps float32. Raises CheckpointError for names not stored."""
        self._refuse_unknown(changed)
        return {
            name: changed[name].detach().to("cpu", stored.dtype).reshape(stored.shape).contiguous()
            for name, stored in self.read(changed)
        }

    def write(self, directory: Path, changed: Mapping[str, Tensor], others: Iterable[Path]) -> None:
        """Write the checkpoint with `changed` tensors (stored names) in place of its own, in its own files, one of them
        in memory at a time, and copy the files `others`. Raises CheckpointError for names that are not stored."""
        self._refuse_unknown(changed)
        own = Stored.open(self.directory, [self.stem], "", self.ending).where  # without what was trained since
        copy_files(self.directory, directory, (path for path in others if path not in own.values()))
        directory.mkdir(parents=True, exist_ok=True)
        for file in sorted(set(own.values())):
            names = {name for name, path in own.items() if path == file}
            new = self.as_stored({name: changed[name] for name in names & changed.keys()})
            whole = {**self.tensors(names - new.keys()), **new}
            if self.ending == SAFETENSORS:
                save_file(whole, directory / file.name, metadata={"format": "pt"})
            else:
                # Copies: a view would be saved with all that it is a view of.
                torch.save({**whole, **{name: value.clone() for name, value in new.items()}}, directory / file.name)

    def save(self, directory: Path, changed: Mapping[str, Tensor], stems: Sequence[str], files: Iterable[Path]) -> None:
        """Write a complete folder: `changed` tensors (stored names) in place of its own, and all other `files`, except
        copies of the weights under other names: their `stems`."""
        index = f"{self.stem}{self.ending}.index.json"
        copies = re.compile(rf"({'|'.join(stems)})\b.*\.(bin|safetensors)(\.index\.json)?")
        self.write(
            directory,
            changed,
            (p for p in files if p.parent != self.directory or p.name == index or not copies.fullmatch(p.name)),
        )

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        if unknown := sorted(set(names) - self.where.keys()):
            raise CheckpointError(
                f"{', '.join(unknown[:5])} do not exist in {self.directory}: refusing to write names that upstream "
                "does not know."
            )


def copy_files(source: Path, target: Path, paths: Iterable[Path]) -> None:
    """Copy files below `source` to the same places below `target`. A model card describes the weights it came with, and
    code is never run: neither is passed on."""
    for path in paths:
        if path.is_file() and path.suffix != ".py" and path.name != "README.md":
            place = target / path.relative_to(source)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)


def _read(path: Path, names: Iterable[str], device: torch.device | str) -> Iterator[tuple[str, Tensor]]:
    if path.suffix in PICKLES:
        tensors = read_tensors(path, lazily=True)
        # Copies: a mapped tensor would change with its file.
        yield from ((name, tensors[name].to(device, copy=True)) for name in names)
        return
    with opened(path, device) as file:
        yield from ((name, file.get_tensor(name)) for name in names)


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [side for side in shape if side != 1]


def locate(paths: Iterable[Path]) -> tuple[dict[str, Path], dict[str, tuple[int, ...]]]:
    """Name -> file and name -> shape. Raises CheckpointError for numbers that are no plain floats."""
    where: dict[str, Path] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    for path in paths:
        tensors = header(path)
        refuse_quantised(path, {name: kind for name, (kind, _) in tensors.items() if kind not in KINDS.values()})
        where |= dict.fromkeys(tensors, path)
        shapes |= {name: shape for name, (_, shape) in tensors.items()}
    return where, shapes


def refuse_quantised(path: Path, odd: Mapping[str, str]) -> None:
    """Raise CheckpointError if there is any tensor, name -> type, that is `odd`."""
    if odd:
        first = ", ".join(f"{name} ({kind})" for name, kind in list(odd.items())[:3])
        raise CheckpointError(
            f"{path} holds {_count(odd, 'tensor')} of other types than float32, float16 and bfloat16: {first}. A "
            "quantised checkpoint cannot be used here; give the original one. adapter.quantize=nf4 or int8 loads that "
            "in fewer bits."
        )


def finite(tensor: Tensor) -> bool:
    """Whether no value is infinite or NaN. The sum is one cheap pass, and only a finite one proves nothing wrong."""
    if not tensor.is_floating_point() or tensor.is_meta:
        return True
    return bool(tensor.sum().isfinite()) or bool(tensor.isfinite().all())


def failure(what: str, *tensors: Tensor) -> str:
    """Return why a sample with these tensors is no image (`Sample.failure`); "" if all their values are finite."""
    return "" if all(map(finite, tensors)) else f"The generated {what} holds values that are not finite."


def refuse_infinite(tensors: Iterable[tuple[str, Tensor]], where: object) -> None:
    """Raise CheckpointError if any named tensor holds a value that is infinite or NaN."""
    wrong = [name for name, tensor in tensors if not finite(tensor)]
    if wrong:
        raise CheckpointError(
            f"{where} holds values that are not finite (NaN or infinite) in {_count(wrong, 'tensor')}: "
            f"{', '.join(wrong[:3])}. Download the file again, or train again from an earlier checkpoint."
        )


def differences(
    expected: Mapping[str, Sequence[int]], stored: Mapping[str, Sequence[int]], unused: bool = False
) -> list[str]:
    """Missing tensors and other shapes, one line each; with `unused`, also tensors that are not used."""
    lines = [f"missing: {name}" for name in expected if name not in stored]
    lines += [f"unused: {name}" for name in sorted(stored.keys() - expected.keys()) if unused]
    return lines + [
        f"{name}: stored {tuple(stored[name])}, expected {tuple(shape)}"
        for name, shape in expected.items()
        if name in stored and tuple(stored[name]) != tuple(shape)
    ]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Name -> shape."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def fill(
    module: M,
    tensors: Mapping[str, Tensor],
    where: object,
    what: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> M:
    """Give a module that was built on the meta device its values, and freeze it.

    where  their place, for messages
    what   the beginning of the message where their names or shapes differ

    Raises CheckpointError with every difference, and for values that are not finite."""
    refuse(what, differences(shapes_of(module.state_dict()), shapes_of(tensors), unused=True))
    refuse_infinite(tensors.items(), where)
    values = {name: tensor.to(device, dtype).contiguous() for name, tensor in tensors.items()}
    module.load_state_dict(values, assign=True)
    return module.eval().requires_grad_(False)


def refuse(what: str, problems: Sequence[str], way_out: str = "") -> None:
    """Raise CheckpointError if there are problems: `what`, their number, the first of them, and what to do."""
    if problems:
        more = [f"… and {len(problems) - 20} more"] if len(problems) > 20 else []
        lines = "\n  ".join([*problems[:20], *more])
        message = f"{what}: {_count(problems, 'difference')}\n  {lines}"
        raise CheckpointError(f"{message}\n{way_out}" if way_out else message)


def _count(things: Collection[object], noun: str) -> str:
    return f"{len(things)} {noun}" + "s" * (len(things) != 1)


# ---- weights loaded by a library ------------------------------------------------------------------------------------


@contextmanager
def loading(what: str, *folders: Path, hint: str = "") -> Iterator[None]:
    """Let a library load from folders: they are checked before, and its own errors become a CheckpointError (`hint`:
    what would do instead).

    Before: absurd sizes, shards outside, Git LFS pointers among texts, quantised tensors that no config.json mentions.
    After a failure: a file that cannot be read is named."""
    for folder in folders:
        for path in sorted(folder.glob("*")):
            _check(path)
    try:
        yield
    except SrumError:
        raise
    except Exception as error:  # a library raises whatever it meets; the cause stays with it
        for path in sorted(path for folder in folders for path in folder.glob("*.safetensors")):
            header(path)
        for path in sorted(path for folder in folders for path in folder.glob("*.json")):
            _parse(path)
        why = f"{type(error).__name__}: {clean(error)}"
        raise CheckpointError(f"{what} could not be loaded ({why}). {hint}".strip()) from error


def _check(path: Path) -> None:
    if path.name.endswith(".safetensors.index.json"):
        shards(path)
    elif path.suffix == ".json" and "config" in path.name:
        read_json(path)
    elif path.suffix in (".json", ".txt", ".model") and path.is_file():
        with path.open("rb") as file:
            if file.read(24).startswith(b"version https://git-lfs"):
                raise unreadable(path, "")
    elif path.suffix == ".safetensors":
        try:
            tensors = header(path)
        except CheckpointError:
            return  # a file that is not used may be anything; of one that is used, the library complains
        config = path.with_name("config.json")
        if not (config.is_file() and "quantization_config" in read_json(config)):
            quantised = {name: kind for name, (kind, _) in tensors.items() if kind.startswith(("I8", "U8", "F8"))}
            refuse_quantised(path, quantised)
