"""Models behind OpenAI-compatible servers: an answerer, and the client that asks. Hooks only."""

from __future__ import annotations

from collections.abc import Iterable

from srum_core import Component, hookimpl
from srum_remote.options import AnswererOptions


@hookimpl
def srum_answerers() -> Iterable[Component]:
    summary = "a server that has OpenAI's chat protocol"
    return [Component("remote", "srum_remote.answerer:RemoteAnswerer", AnswererOptions, summary=summary)]
