"""The entry point for lmms-eval: its arguments and requests without it, and its own registry where it is installed."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from types import SimpleNamespace

import pytest
import toy
from PIL import Image

from srum_core.errors import AnswerError, ConfigError
from srum_core.options import Use
from srum_core.plugins import Registry
from srum_lmms import MODEL, asking, manifest


class Base:
    """As much of lmms-eval's model class as ours leans on."""

    def __init__(self) -> None:
        self.cache_hook = SimpleNamespace(add_partial=lambda *_: None)
        self.task_dict: dict[str, dict[str, list[dict[str, str]]]] = {}


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> type:
    """Our model on the real base class where there is one, else on a stand-in."""
    try:
        import lmms_eval.api.model  # noqa: F401
    except ImportError:
        for name in ("lmms_eval", "lmms_eval.api", "lmms_eval.api.model"):
            monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
        sys.modules["lmms_eval.api.model"].lmms = Base  # type: ignore[attr-defined]
    monkeypatch.delitem(sys.modules, "srum_lmms.model", raising=False)
    from srum_lmms.model import SrumUmm

    return SrumUmm


def request(number: int, given: dict[str, object]) -> SimpleNamespace:
    return SimpleNamespace(args=(f"<image>\nRegion ID: {number}", given, lambda doc: [doc["image"]], number, "t", "s"))


def test_requests_are_answered_in_order(made: type) -> None:
    model = made(adapter="toy:ToyModel", batch_size="2")
    images = [Image.new("RGB", (4, 4), (0, 0, 0)), Image.new("RGB", (4, 4), (255, 255, 255)), Image.new("L", (4, 4))]
    model.task_dict = {"t": {"s": [{"image": each} for each in images]}}
    said = model.generate_until([request(number, {"until": ["\nReason"]}) for number in (2, 1, 0)])
    assert said == ["Region ID: 2\nScore: -1.00", "Region ID: 1\nScore: 1.00", "Region ID: 0\nScore: -1.00"]
    with pytest.raises(AnswerError, match="give no likelihoods"):
        model.loglikelihood([])


def test_settings_of_a_task_become_those_of_the_question(tmp_path: Path) -> None:
    image = Image.new("RGBA", (3, 2))
    greedy = asking.question("<image> a <image>b", [image], {"max_new_tokens": 5, "temperature": 0}, tmp_path, "x")
    assert (greedy.text, greedy.max_new_tokens, greedy.temperature) == ("a b", 5, 0.0)
    assert Image.open(greedy.image).size == (3, 2)
    assert asking.question("", [image], {"do_sample": True, "temperature": 0.7}, tmp_path, "x").temperature == 0.7
    for images in ([], [image, image], ["film.mp4"]):
        with pytest.raises(AnswerError, match="exactly one image"):
            asking.question("", images, {}, tmp_path, "x")


def test_arguments_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match="pretrained: known are adapter"):
        asking.answerer(adapter="toy:ToyModel", pretrained="x")
    for given in ({}, {"adapter": "toy:ToyModel", "trained": "runs/x"}):
        with pytest.raises(ConfigError, match="needs adapter=NAME"):
            asking.answerer(**given)
    assert asking.answerer(adapter="toy:ToyModel", options="mumbles=true", device="cpu").options == toy.ToyOptions(
        mumbles=True
    )


def test_a_checkpoint_and_a_preset_become_options_of_the_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Use] = []
    monkeypatch.setattr(Registry, "create", lambda self, kind, use: made.append(use))
    asking.answerer(adapter="bagel", checkpoint="a b", preset="shapes")
    asking.answerer(adapter="bagel")
    assert made[0].options["checkpoint"] == "a b"
    assert made[0].options["size"] == [32, 32] != made[1].options["size"]


def test_what_a_run_has_trained_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(model=lambda rounds: f"after {rounds} rounds")
    monkeypatch.setattr("srum_core.runs.run.started_from", lambda start, registry: (run, 2))
    assert asking.answerer(trained="runs/x:1") == "after 2 rounds"


def test_so_many_are_asked_at_once(made: type, monkeypatch: pytest.MonkeyPatch) -> None:
    for given, sizes in (("2", [2, 1]), ("auto", [1, 1, 1])):
        model, asked = made(adapter="toy:ToyModel", batch_size=given), []
        model.task_dict = {"t": {"s": [{"image": Image.new("L", (4, 4))}] * 3}}
        answer = model.answerer.answer
        monkeypatch.setattr(model.answerer, "answer", lambda some, a=answer, n=asked: n.append(len(some)) or a(some))
        model.generate_until([request(number, {}) for number in range(3)])
        assert asked == sizes


def test_the_installed_registry_finds_it() -> None:
    registry = pytest.importorskip(
        "lmms_eval.models", reason="lmms-eval is not installed (pip install srum[understand])"
    )
    assert MODEL in registry.list_available_models()
    assert manifest().simple_class_path == registry.get_model_manifest(MODEL).simple_class_path
    assert registry.get_model(MODEL).is_simple
