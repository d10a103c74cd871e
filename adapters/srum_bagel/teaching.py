"""Teach the understanding side: cross-entropy of answers about pictures. Used to pretrain small models, not by SRUM."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from srum_bagel.context import QKV, Rope, attend, pad_rows
from srum_bagel.images import to_tensor

if TYPE_CHECKING:
    from PIL.Image import Image

    from srum_bagel.model import Bagel

IGNORED = -100


class _Lessons:
    """A plan for rows of [picture][question, answer][question, answer]…: the picture in full, each exchange causal and
    blind to the others. Every exchange sits at the rotary positions that it would have on its own."""

    rope_gen = None

    def __init__(self, rope_und: Rope, part: Tensor) -> None:
        """`part` (n, t): 0 for the picture, k for the k-th exchange, -1 for padding."""
        self.rope_und = rope_und
        size = part.shape[1]
        earlier = torch.ones(size, size, dtype=torch.bool, device=part.device).tril()
        same = part[:, :, None] == part[:, None, :]
        self.mask = ((part[:, None, :] == 0) | (same & earlier))[:, None]

    def attend(self, layer: int, und: QKV | None, gen: QKV | None) -> tuple[Tensor | None, None]:
        assert und is not None
        q, k, v = und
        return attend(q, k, v, self.mask), None


def answer_loss(model: Bagel, pictures: Sequence[Image], exchanges: Sequence[Sequence[tuple[str, str]]]) -> Tensor:
    """Mean cross-entropy of the answers' tokens. `exchanges[i]`: (question, answer) pairs about `pictures[i]`."""
    chat, denoiser = model.chat, model.denoiser
    seen = model.eye(
        [to_tensor(model.seen_size.resize(model.drawn_size.resize(p))).to(denoiser.device) for p in pictures]
    )
    start, end = (denoiser.embed_text(torch.tensor([i], device=denoiser.device)) for i in chat.markers)
    rows, parts, places, targets = [], [], [], []
    for tokens, pairs in zip(seen, exchanges, strict=True):
        size = len(tokens) + 2
        ids, part, place, target = [], [0] * size, [0] * size, [IGNORED] * size
        for number, (question, answer) in enumerate(pairs, 1):
            asked = chat.frame(question).tolist()
            said = [chat.bos, *chat.ids(answer)]
            ids += asked + said
            part += [number] * (len(asked) + len(said))
            place += range(1, 1 + len(asked) + len(said))
            target += [IGNORED] * len(asked) + [*said[1:], chat.eos]
        text = denoiser.embed_text(torch.tensor(ids, device=denoiser.device))
        rows.append(torch.cat([start, tokens.to(start), end, text]))
        parts.append(torch.tensor(part) + 1)
        places.append(torch.tensor(place))
        targets.append(torch.tensor(target) - IGNORED)
    x, _ = pad_rows(rows)
    which, where, wanted = (pad_rows(each)[0].to(x.device) for each in (parts, places, targets))
    und, _ = denoiser.language_model.model(x, None, _Lessons(denoiser.rope(where), which - 1))
    wanted = wanted + IGNORED
    # Only where something is to be said: the head over every position would cost as much as a layer.
    logits = denoiser.language_model.lm_head(und[wanted != IGNORED])
    return F.cross_entropy(logits.float(), wanted[wanted != IGNORED])


def write(model: Bagel, directory: Path, changed: Mapping[str, Tensor] | None = None) -> None:
    """The whole model as it is now, in the published layout; the autoencoder in bfloat16 to stay small."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {**model.denoiser.state_dict(), **model.eye.state_dict(), **(changed or {})}
    model.save(directory, {key: value.contiguous() for key, value in state.items()})
    names = model.autoencoder.official_keys()
    stored = {}
    for key, value in model.autoencoder.state_dict().items():
        matrix = "attn_1" in names[key] and value.dim() == 2
        stored[names[key]] = (value[:, :, None, None] if matrix else value).to("cpu", torch.bfloat16).contiguous()
    save_file(stored, directory / "ae.safetensors", metadata={"format": "pt"})
