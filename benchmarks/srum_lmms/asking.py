"""From lmms-eval's requests to questions, and from the words of --model_args to an answerer. Needs no lmms-eval."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from srum_core import config, plugins
from srum_core.errors import AnswerError, ConfigError
from srum_core.options import Use
from srum_core.protocols import Answerer
from srum_core.records import Question

_IGNORED = {"batch_size", "device", "max_batch_size"}
"""What lmms-eval adds to every model's arguments."""
_MARK = re.compile(r"<image>\s*")
_TOKENS = 1024
"""At most so many of an answer, where a task sets no limit."""


def answerer(
    adapter: str = "", checkpoint: str = "", preset: str = "", trained: str = "", options: str = "", **rest: Any
) -> Answerer:
    """What answers. Raises ConfigError for arguments that are not known, and without a model.

    adapter     an adapter's name, or an import path "module:Class"
    checkpoint  short for the option of that name
    preset      a preset of the adapter
    trained     RUN[:ROUND] of srum-train, in place of all these
    options     more of the adapter's options, "size=[512, 512];dtype='float32'"
    """
    odd = sorted(rest.keys() - _IGNORED)
    if odd:
        raise ConfigError(f"--model_args {', '.join(odd)}: known are adapter, checkpoint, preset, trained and options.")
    if bool(adapter) == bool(trained):
        raise ConfigError("--model_args needs adapter=NAME (with checkpoint=…), or trained=RUN[:ROUND], and not both.")
    registry = plugins.discover()
    if trained:
        from srum_core.runs.run import started_from

        run, rounds = started_from(trained, registry)
        return run.model(rounds)
    overrides = [f"adapter.{each.strip()}" for each in options.split(";") if each.strip()]
    if checkpoint:
        overrides.append(f'adapter.checkpoint="{checkpoint}"')
    settings = config.load_settings(adapter, [preset] if preset else [], None, overrides, registry)
    return registry.create("answerer", Use(settings.adapter.use, settings.adapter.options))


def question(text: str, images: Sequence[Any], settings: Mapping[str, Any], folder: Path, name: str) -> Question:
    """One request. The image is written to `folder`, because answerers read files.

    Raises AnswerError for requests with another number of images than one, and for videos and sounds."""
    if len(images) != 1 or not hasattr(images[0], "convert"):
        what = f"{len(images)} images" if len(images) != 1 else f"a {type(images[0]).__name__}"
        raise AnswerError(f"{name} comes with {what}: srum's models answer about exactly one image a question.")
    path = folder / f"{name}.png"
    images[0].convert("RGB").save(path)
    sampled = bool(settings.get("do_sample")) or float(settings.get("temperature") or 0) > 0
    temperature = float(settings.get("temperature") or 1.0) if sampled else 0.0
    limit = int(settings.get("max_new_tokens") or settings.get("max_gen_toks") or _TOKENS)
    return Question(path, _MARK.sub("", text), max_new_tokens=limit, temperature=temperature)


def cut(answer: str, settings: Mapping[str, Any]) -> str:
    """The answer up to the first of the task's stop words, where it has any."""
    until = settings.get("until") or []
    for stop in [until] if isinstance(until, str) else until:
        if stop:
            answer = answer.split(stop)[0]
    return answer.strip()
