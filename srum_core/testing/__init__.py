"""The testing kit: conformance suites to subclass, fixtures, and a model that answers from a script.

    class TestMyJudge(JudgeConformance):
        @pytest.fixture
        def judge(self):
            return MyJudge()

A suite is imported when it is first used: those for adapters, maps and losses need torch, all of them need pytest, and
nothing else here needs either.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from srum_core.testing.fixtures import (
    THREE_REGIONS,
    sample_candidate,
    sample_image,
    sample_judgement,
    sample_regions,
    table8,
)
from srum_core.testing.transcripts import ScriptedModel, Transcript, read_transcripts, write_transcripts

if TYPE_CHECKING:
    from srum_core.testing.adapters import AdapterConformance
    from srum_core.testing.benchmarks import BenchmarkConformance
    from srum_core.testing.generators import GeneratorConformance
    from srum_core.testing.grounders import GrounderConformance
    from srum_core.testing.judges import JudgeConformance
    from srum_core.testing.maps import LossConformance, RewardMapConformance
    from srum_core.testing.pipelines import check_generates_like

__all__ = [
    "THREE_REGIONS",
    "AdapterConformance",
    "BenchmarkConformance",
    "GeneratorConformance",
    "GrounderConformance",
    "JudgeConformance",
    "LossConformance",
    "RewardMapConformance",
    "ScriptedModel",
    "Transcript",
    "check_generates_like",
    "read_transcripts",
    "sample_candidate",
    "sample_image",
    "sample_judgement",
    "sample_regions",
    "table8",
    "write_transcripts",
]

_SUITES = {
    "AdapterConformance": "adapters",
    "BenchmarkConformance": "benchmarks",
    "GeneratorConformance": "generators",
    "GrounderConformance": "grounders",
    "JudgeConformance": "judges",
    "LossConformance": "maps",
    "RewardMapConformance": "maps",
    "check_generates_like": "pipelines",
}


def __getattr__(name: str) -> Any:
    if name not in _SUITES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_SUITES[name]}"), name)
