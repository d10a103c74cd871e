"""Every plugin in this repository against the suites of `srum_core.testing`."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from rows import Test, each_case
from toy import ToyBenchmark, ToyGrounder, ToyJudge, ToyModel

from srum_core.plugins import discover
from srum_core.records import Question
from srum_core.testing import (
    AdapterConformance,
    BenchmarkConformance,
    GrounderConformance,
    JudgeConformance,
    LossConformance,
    RewardMapConformance,
)
from srum_core.testing.maps import judgements

TRANSCRIPTS = Path(__file__).parent / "transcripts"
GOLDEN = Path(__file__).parent / "golden"
registry = cache(discover)


def create(kind: str, name: str, **options):
    return registry().create(kind, name, **options)


def for_all(fixture: str, components: Mapping[str, Callable[[], Any]]) -> Callable[[type], type]:
    """A suite whose every test runs for all of these components and for its own parameters, as subtests."""

    def decorate(suite: type) -> type:
        for name, test in inspect.getmembers(suite, inspect.isfunction):
            if name.startswith("test_"):
                setattr(suite, name, _for_all(test, fixture, components))
        return suite

    return decorate


def _for_all(test: Test, fixture: str, components: Mapping[str, Callable[[], Any]]) -> Test:
    tables = [mark.args for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    cases = [(name, {fixture: make}) for name, make in components.items()]
    for keys, table in tables:
        names = [keys] if isinstance(keys, str) else keys
        rows = [dict(zip(names, [row] if len(names) == 1 else row, strict=True)) for row in table]
        cases = [(f"{name} {list(row.values())}", {**case, **row}) for name, case in cases for row in rows]

    def made(self: Any, **given: Any) -> None:
        test(self, **{**given, fixture: given[fixture]()})

    made.__signature__ = inspect.signature(test)  # type: ignore[attr-defined]
    return each_case(cases)(made)


@cache
def bagel(experts: str):
    """The bundled model with the options of its preset, but also for images that are not square."""
    sides = {"size": [32, 32], "generation_sides": [32, 16], "vision_sides": [32, 16]}
    sampling = {"steps": 4, "shift": 3.0, "guidance": 4.0}
    fixed = {"checkpoint": "bundled:shapes", "device": "cpu", "dtype": "float32"}
    return create("adapter", "bagel", experts=experts, sampling=sampling, **sides, **fixed)


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


@cache
def blip3o(train_queries: bool):
    """The golden checkpoint: random weights in the published layout."""
    sampling = {"steps": 4, "decoder_steps": 3}
    fixed = {"checkpoint": str(GOLDEN / "blip3o" / "checkpoint"), "device": "cpu", "dtype": "float32"}
    return create(
        "adapter", "blip3o", train_queries=train_queries, sampling=sampling, offload="none",
        vision_pixels=[3136, 12544], **fixed,
    )  # fmt: skip


class TestBlip3oWithQueries(AdapterConformance):
    square_grid = True
    train_queries = True

    @pytest.fixture
    def adapter(self):
        return blip3o(self.train_queries)


class TestBlip3oHeadAlone(TestBlip3oWithQueries):
    train_queries = False


@cache
def omnigen2():
    """The golden checkpoint: random weights in the published layout."""
    fixed = {"checkpoint": str(GOLDEN / "omnigen2" / "checkpoint"), "device": "cpu", "dtype": "float32"}
    return create("adapter", "omnigen2", size=[64, 64], sampling={"steps": 3}, offload="none", **fixed)


class TestOmniGen2(AdapterConformance):
    @pytest.fixture
    def adapter(self):
        return omnigen2()


@cache
def showo2(train: str, crop: bool):
    """The golden checkpoint: random weights in the published layout."""
    fixed = {"checkpoint": str(GOLDEN / "showo2" / "checkpoint"), "device": "cpu", "dtype": "float32"}
    return create("adapter", "showo2", train=train, crop=crop, sampling={"steps": 3}, **fixed)


class TestShowO2Whole(AdapterConformance):
    sizes = ((80, 80), (96, 64), (64, 96))
    train, crop = "all", False
    # A token answers for latent pixels in a line, not for those that it reads: trained weights know where they are,
    # random ones do not (test_showo2.py has the order).
    test_a_corner_of_the_noise_is_that_corner_of_the_velocity = None

    @pytest.fixture
    def adapter(self):
        return showo2(self.train, self.crop)


class TestShowO2Head(TestShowO2Whole):
    square_grid = True
    train, crop = "head", True


# ---- judges --------------------------------------------------------------------------------------------------------


class TestToyJudge(JudgeConformance):
    test_its_module_imports_no_torch = None  # it shares a file with the toy model

    @pytest.fixture
    def judge(self):
        return ToyJudge()


def names(kind: str) -> list[str]:
    return [found.component.name for found in registry().listing() if found.kind == kind]


SHIPPED = [name for name in names("judge") if name != "shapes-oracle"]  # it is in test_oracle.py


@for_all("judge", {name: partial(create, "judge", name) for name in SHIPPED})
class TestEveryJudge(JudgeConformance):
    test_its_module_imports_no_torch = None  # test_layers.py imports all modules of judges in one process


class TestGlobalLayoutOnRecordedAnswers(JudgeConformance):
    """The bundled model's own answers, out of a demo run, read with the default rules."""

    test_its_module_imports_no_torch = None
    transcripts = TRANSCRIPTS / "global-layout.jsonl"

    @pytest.fixture
    def judge(self):
        return create("judge", "global-layout")


class TestLocalRegionsOnRecordedAnswers(JudgeConformance):
    test_its_module_imports_no_torch = None
    transcripts = TRANSCRIPTS / "local-regions.jsonl"

    @pytest.fixture
    def judge(self):
        return create("judge", "local-regions")


# ---- grounders -----------------------------------------------------------------------------------------------------


class TestToyGrounder(GrounderConformance):
    @pytest.fixture
    def grounder(self):
        return ToyGrounder()


class TestWordlessGrounders(GrounderConformance):
    @pytest.fixture(params=["components", "grid"])
    def grounder(self, request):
        return create("grounder", request.param)


class TestNative(GrounderConformance):
    @pytest.fixture
    def grounder(self):
        return create("grounder", "native")

    def answer_to(self, question: Question) -> str:
        return '[{"bbox_2d": [0, 0, 2, 2], "label": "cup"}, {"bbox_2d": [1, 1, 40, 30], "label": "table"}]'


class TestFile(GrounderConformance):
    @pytest.fixture
    def grounder(self, tmp_path):
        entries = [
            {"image": f"{w}x{h}", "boxes": [[0, 0, 0.5, 0.5], {"box": [0.25, 0.25, 1, 1], "label": "table"}]}
            for w, h in self.sizes
        ]
        (tmp_path / "boxes.json").write_text(json.dumps(entries))
        return create("grounder", "file", path=str(tmp_path / "boxes.json"), boxes="fraction")


@pytest.fixture(scope="module")
def sam_checkpoint(tmp_path_factory):
    pytest.importorskip("segment_anything")
    from test_sam import small_sam

    path = tmp_path_factory.mktemp("sam") / "small.pth"
    torch.save(small_sam().state_dict(), path)
    return path


class TestSam(GrounderConformance):
    @pytest.fixture
    def grounder(self, sam_checkpoint):
        from test_sam import PERMISSIVE

        return create("grounder", "sam", checkpoint=str(sam_checkpoint), device="cpu", **PERMISSIVE)


def test_every_grounder_is_held_to_the_suite() -> None:
    assert set(names("grounder")) == {"components", "grid", "native", "file", "sam"}


# ---- maps, losses, benchmarks ----------------------------------------------------------------------------------------


def fitted(name: str, **options: Any) -> Any:
    """A map that has seen the suite's round, where it compares with one."""
    made = create("map", name, **options)
    if hasattr(made, "fit"):
        made.fit(judgements(), [(4, 6)] * len(judgements()))
    return made


class Maps(RewardMapConformance):
    @pytest.fixture(autouse=True)
    def _round(self) -> None:
        """`fitted` does it."""


@for_all("reward_map", {name: partial(fitted, name) for name in names("map")})
class TestEveryRewardMap(Maps):
    pass


@for_all("reward_map", {"sparse": partial(fitted, "sparse", scope="image")})
class TestImageWideMap(Maps):
    local = False


LOSSES = [
    ("srum", {}), ("bounded", {}),
    ("negative-aware", {}), ("negative-aware", {"beta": 0.5}), ("negative-aware", {"beta": 2.0, "constraint": 0.5}),
]  # fmt: skip


@for_all("loss", {f"{name} {options}": partial(create, "loss", name, **options) for name, options in LOSSES})
class TestEveryWeightedLoss(LossConformance):
    pass


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
