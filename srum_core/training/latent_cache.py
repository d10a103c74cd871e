"""A cache of clean latents on disk: a safetensors file per candidate, with the latent of its reference."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from srum_core.errors import RecordError, TrainingError, refuse
from srum_core.models.images import open_image, read_files
from srum_core.models.weights import finite
from srum_core.runs.files import check_file, redo_option, unreadable
from srum_core.runs.progress import progress
from srum_core.runs.store import write_atomic
from srum_core.training.selection import WHOLE, within

if TYPE_CHECKING:
    from srum_core.protocols import RewardMap, UnifiedModel
    from srum_core.records import Box, Candidate, Judgement
    from srum_core.training.selection import Images

CHUNK = 8
"""Images encoded at once."""


@frozen
class Latents:
    """Latents of candidates in a folder. A file is valid only for the images and adapter settings it was made from."""

    folder: Path
    made_by: str
    """Whatever else a latent depends on: the adapter and its settings."""

    def prepare(self, model: UnifiedModel, candidates: Sequence[Candidate], rank: int = 0, world: int = 1) -> None:
        """Encode missing latents. Chunks are fixed and always encoded whole, so latents do not depend on interruptions;
        process i % world encodes chunk i."""
        mine = [candidates[start : start + CHUNK] for start in range(rank * CHUNK, len(candidates), world * CHUNK)]
        with progress(sum(map(len, mine)), "encode") as advance:
            for chunk in mine:
                self._prepare(model, chunk)
                advance(len(chunk))

    def _prepare(self, model: UnifiedModel, chunk: Sequence[Candidate]) -> None:
        window_of = getattr(model, "window", None)
        sources = {candidate.id: self._source(candidate) for candidate in chunk}
        missing = {candidate.id for candidate in chunk if not self._is_valid(candidate, sources[candidate.id])}
        if missing:
            for candidate, tensors in zip(chunk, encode(model, chunk), strict=True):
                if candidate.id in missing:
                    about = {"source": sources[candidate.id]}
                    if window_of is not None and candidate.latent is None:
                        about["window"] = json.dumps(window_of(candidate.size))
                    write_atomic(self._path(candidate), save(tensors, about))

    def grid(self, candidate: Candidate) -> tuple[int, int]:
        """Read (rows, columns) from the file's header."""
        rows, columns, _ = self._header(candidate)[0]
        return rows, columns

    def window(self, candidate: Candidate) -> Box:
        """Read the part of the image that the grid covers (the model's `window`) from the file's header."""
        window = self._header(candidate)[1].get("window")
        return WHOLE if window is None else tuple(json.loads(window))

    def fit(self, reward_map: RewardMap, images: Images) -> list[Judgement]:
        """Crop judgements to the part of the image that its latent covers, and fit a map with `fit` to them."""
        pairs = zip(images.judgements, images.candidates, strict=True)
        judgements = [within(judgement, self.window(candidate)) for judgement, candidate in pairs]
        if fit := getattr(reward_map, "fit", None):
            fit(judgements, [self.grid(candidate) for candidate in images.candidates])
        return judgements

    def load(self, candidate: Candidate) -> tuple[Tensor, Tensor | None]:
        """Load the latent (rows, columns, channels) on the CPU, and the reference's."""
        tensors = load_file(self._path(candidate))
        return tensors["clean"], tensors.get("reference")

    def _path(self, candidate: Candidate) -> Path:
        return self.folder / f"{candidate.id}.safetensors"

    def _is_valid(self, candidate: Candidate, source: str) -> bool:
        try:
            return self._header(candidate)[1].get("source") == source
        except RecordError:
            return False  # missing, cut off or damaged: it is made again

    def _header(self, candidate: Candidate) -> tuple[list[int], dict[str, str]]:
        """Read the latent's shape and metadata. Raises RecordError if the file is damaged."""
        path = self._path(candidate)
        try:
            with safe_open(path, framework="pt") as file:
                return file.get_slice("clean").get_shape(), file.metadata() or {}
        except (SafetensorError, ValueError, OSError) as error:
            raise unreadable(path, error) from error

    def _source(self, candidate: Candidate) -> str:
        """Return a digest of files and settings: another image under the same id makes its latent stale."""
        digest, files = hashlib.sha256(self.made_by.encode()), read_files(candidate)
        for path in (candidate.image, candidate.reference, *([candidate.latent] if candidate.latent else [])):
            digest.update(b"\0" if path is None else hashlib.sha256(files[path]).digest())
        return digest.hexdigest()


def encode(model: UnifiedModel, candidates: Sequence[Candidate]) -> list[dict[str, Tensor]]:
    """Return latents by name ("clean", "reference") per candidate: the stored one it was decoded from, or else encoded.

    Raises TrainingError if a reference has another grid."""
    images = [open_image(each.image) for each in candidates if each.latent is None]
    encodings = list(model.encode(images) if images else [])
    refuse(len(encodings) != len(images), model, f"encoded {len(images)} images to {len(encodings)} latents.")
    fresh = iter(encodings)
    clean = [next(fresh) if each.latent is None else _read(each.latent) for each in candidates]
    paths = [each.reference for each in candidates if each.reference]
    references = iter(model.encode(list(map(open_image, paths))) if paths else [])
    latents = []
    for candidate, latent in zip(candidates, clean, strict=True):
        tensors = {"clean": latent}
        if candidate.reference:
            tensors["reference"] = reference = next(references)
            if latent.shape != reference.shape:
                raise TrainingError(
                    f"Candidate {candidate.id} has a latent grid of {tuple(latent.shape[:2])} cells, its reference "
                    f"{candidate.reference} one of {tuple(reference.shape[:2])}: give a reference image of the "
                    "candidate's size, or none."
                )
        for name, tensor in tensors.items():
            refuse(
                tensor.ndim != 3 or not tensor.is_floating_point(),
                model,
                f"gave {candidate.image} a {name} latent of shape {tuple(tensor.shape)} and {tensor.dtype}; (rows, "
                "columns, channels) in floating point is needed.",
            )
        if odd := [name for name, tensor in tensors.items() if not finite(tensor)]:
            raise TrainingError(
                f"The {odd[0]} latent of candidate {candidate.id} ({candidate.image}) holds values that are not "
                "finite. Use another adapter.dtype or checkpoint, or generate again with "
                f"{redo_option(candidate.image)}."
            )
        latents.append({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})
    return latents


def _read(path: Path) -> Tensor:
    """Read the latent that an image was decoded from. Raises RecordError."""
    check_file(path)
    try:
        return load_file(path)["latent"]
    except (SafetensorError, KeyError) as error:
        raise unreadable(path, error) from error
