"""Published results of a benchmark, to compare with ours. No torch.

A benchmark with such results has the optional member `published`; it reads them from a file in this format:

    title = "T2I-ReasonBench"
    source = "SRUM (arXiv 2510.12784), Table 4"
    digits = 2                      # as printed
    mean = "Overall"                # the column that is the mean of the others, if any
    [columns]                       # name in the publication = name of the benchmark's own row
    "Idiom" = "idiom"
    "Overall" = "overall"
    [rows]
    "Bagel" = [34.46, 43.82]
    [notes]                         # about a column or a row
    "Idiom" = "…"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from attrs import field, frozen

from srum_core.errors import PluginError
from srum_core.options import Problems, build


@frozen
class Published:
    """Numbers as printed, with their source."""

    title: str
    source: str
    columns: Mapping[str, str] = field(hash=False)
    rows: Mapping[str, tuple[float, ...]] = field(hash=False)
    digits: int = 2
    mean: str = ""
    notes: Mapping[str, str] = field(factory=dict, hash=False)

    @classmethod
    def read(cls, path: Path) -> Published:
        """Read a file. Raises PluginError for another format."""
        try:
            published = build(cls, tomllib.loads(path.read_text("utf-8")))
        except (OSError, tomllib.TOMLDecodeError, Problems) as error:
            raise PluginError(f"{path} holds no published results: {error}") from error
        columns, rows = published.columns, published.rows
        wrong = [name for name, values in rows.items() if len(values) != len(columns)]
        wrong += [name for name in published.notes if name not in columns and name not in rows]
        wrong += [published.mean] if published.mean and published.mean not in columns else []
        if wrong:
            raise PluginError(f"{path}: {', '.join(wrong)} does not fit its {len(columns)} columns.")
        return published
