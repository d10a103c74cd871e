"""A run as one self-contained HTML page: `write_report`. Read gather.py (records to plain data), then page.py."""

from __future__ import annotations

from srum_core.report.page import write_report

__all__ = ["write_report"]
