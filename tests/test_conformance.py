"""Every plugin in this repository against the suites of `srum_core.testing`."""

from __future__ import annotations

from functools import cache

import pytest
from toy import ToyBenchmark, ToyGrounder, ToyJudge, ToyModel

from srum_core.plugins import discover
from srum_core.testing import (
    AdapterConformance,
    BenchmarkConformance,
    GrounderConformance,
    JudgeConformance,
    LossConformance,
    RewardMapConformance,
)

registry = cache(discover)


def create(kind: str, name: str, **options):
    return registry().create(kind, name, **options)


@cache
def bagel(experts: str):
    """The bundled model with the options of its preset, but also for pictures that are not square."""
    sides = {"size": [32, 32], "drawing_sides": [32, 16], "vision_sides": [32, 16]}
    drawing = {"steps": 4, "shift": 3.0, "guidance": 4.0}
    fixed = {"checkpoint": "bundled:shapes", "device": "cpu", "dtype": "float32"}
    return create("adapter", "bagel", experts=experts, drawing=drawing, **sides, **fixed)


# ---- adapters ------------------------------------------------------------------------------------------------------


class TestToyModel(AdapterConformance):
    sizes = ((8, 8), (8, 4), (4, 8))

    @pytest.fixture
    def adapter(self):
        return ToyModel()


class TestBagelGenerationExperts(AdapterConformance):
    sizes = ((32, 32), (32, 16), (16, 32))
    experts = "generation"

    @pytest.fixture
    def adapter(self):
        return bagel(self.experts)


class TestBagelAllExperts(TestBagelGenerationExperts):
    experts = "all"


# ---- judges --------------------------------------------------------------------------------------------------------


class TestToyJudge(JudgeConformance):
    test_its_module_imports_no_torch = None  # it shares a file with the toy model

    @pytest.fixture
    def judge(self):
        return ToyJudge()


def names(kind: str) -> list[str]:
    return [found.component.name for found in registry().listing() if found.kind == kind]


class TestEveryJudge(JudgeConformance):
    @pytest.fixture(params=names("judge"))
    def judge(self, request):
        return create("judge", request.param)


# ---- grounders -----------------------------------------------------------------------------------------------------


class TestToyGrounder(GrounderConformance):
    @pytest.fixture
    def grounder(self):
        return ToyGrounder()


class TestWordlessGrounders(GrounderConformance):
    @pytest.fixture(params=["components", "grid"])
    def grounder(self, request):
        return create("grounder", request.param)


# ---- maps, losses, benchmarks ----------------------------------------------------------------------------------------


class TestEveryRewardMap(RewardMapConformance):
    @pytest.fixture(params=names("map"))
    def reward_map(self, request):
        return create("map", request.param)


class TestPictureWideMap(RewardMapConformance):
    local = False

    @pytest.fixture
    def reward_map(self):
        return create("map", "sparse", scope="picture")


class TestSrumLoss(LossConformance):
    @pytest.fixture
    def loss(self):
        return create("loss", "srum")


class TestSftLoss(LossConformance):
    ignores_weights = True

    @pytest.fixture
    def loss(self):
        return create("loss", "sft")


class TestToyBenchmark(BenchmarkConformance):
    @pytest.fixture
    def srum_benchmark(self):
        return ToyBenchmark()


class TestShapes(BenchmarkConformance):
    splits = ("test", "dev", "train")
    size = (32, 32)

    @pytest.fixture
    def srum_benchmark(self):
        return create("benchmark", "shapes")
