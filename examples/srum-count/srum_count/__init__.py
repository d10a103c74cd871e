"""A judge that counts, and the command `srum count`. Light: no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from attrs import field, frozen, validators

from srum_core import Component, hookimpl


@frozen
class CountOptions:
    """Judge `count`: are there as many objects as in the prompt?"""

    template: str = ""
    """Path of a text file with {things} that replaces the packaged question."""
    strict: bool = False
    """Whether any wrong number is worth -1; else a near miss costs less."""
    max_new_tokens: int = field(default=256, validator=validators.gt(0))
    """Longest answer, in tokens."""


@hookimpl
def srum_judges() -> Sequence[Component]:
    return [Component("count", "srum_count.judge:Count", CountOptions, summary="whether the prompt's numbers hold")]


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser("count", help="show what the judge count would ask", module="srum_count.command")
