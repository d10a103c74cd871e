"""Looking into models and not only at their pictures: the paper's Figure 4 and Appendix B. No torch."""

from __future__ import annotations

from typing import Any

from srum_core import hookimpl


@hookimpl
def srum_commands(subparsers: Any) -> None:
    subparsers.add_parser(
        "analyze",
        help="look into models: scores along the steps of drawing, and which neurons are active",
        module="srum_core.analysis.command",
    )
