"""Tiny distributions on disk: a folder with a .dist-info, which importlib.metadata finds like any installed one."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path


def install(folder: Path, name: str, version: str, source: str, modules: Mapping[str, str] | None = None) -> None:
    """Distribution `name` with the plugin module `name` (its `source`), and further modules."""
    module = name.replace("-", "_")
    describe(folder, name, version)
    for each, text in {module: source, **(modules or {})}.items():
        (folder / f"{each}.py").write_text(textwrap.dedent(text))


def describe(folder: Path, name: str, version: str = "0.1.0") -> None:
    """Write the .dist-info of distribution `name`, whose plugin is the module of this name, if it is not there."""
    module = name.replace("-", "_")
    info = folder / f"{module}-{version}.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[srum]\n{module} = {module}\n")
