"""Models behind OpenAI-compatible servers: an answerer and an image generator, with one client. Hooks only."""

from __future__ import annotations

from collections.abc import Iterable

from srum_core import Component, hookimpl
from srum_remote.options import AnswererOptions, GeneratorOptions


@hookimpl
def srum_answerers() -> Iterable[Component]:
    summary = "a server with OpenAI's chat protocol"
    return [Component("remote", "srum_remote.answerer:RemoteAnswerer", AnswererOptions, summary=summary)]


@hookimpl
def srum_generators() -> Iterable[Component]:
    summary = "a server that generates images with OpenAI's protocol"
    return [Component("remote", "srum_remote.generator:RemoteGenerator", GeneratorOptions, summary=summary)]
