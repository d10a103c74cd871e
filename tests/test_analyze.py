"""`srum analyze`: scores along the steps, and which neurons are active."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from rows import each_row
from test_bagel import build
from toy import ToyModel

from srum_benchmarks.shapes.checker import Thing, layout
from srum_core.analysis import activations, steps, subjects
from srum_core.errors import ConfigError, RecordError
from srum_core.evaluation.formatting import Grid
from srum_core.records import Candidate, Prompt

# ---- what BAGEL offers -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model():
    return build()


def test_the_last_estimate_is_the_image_and_the_first_is_not(model) -> None:
    """With four times there are three steps."""
    assert len(model.sampling_times()) == 4
    (first, last), _ = model.trace(["a red boat", "b"], [3, 4], [0, 2])
    generated = np.asarray(model.generate(["a red boat"], [3])[0].image, int)
    assert np.abs(np.asarray(last, int) - generated).max() <= 1
    assert np.abs(np.asarray(first, int) - generated).max() > 1


def test_bagels_neurons_are_seen_in_generating_by_the_expert_that_draws(model) -> None:
    neurons = model.neurons()
    layers = len(neurons["generation"])
    seen: list[tuple[int, ...]] = []
    hook = neurons["generation"][0].register_forward_hook(lambda *given: seen.append(tuple(given[2].shape)))
    model.generate(["a"], [1])
    hook.remove()
    sizes = [seen[0][-1]] * (2 * layers)
    generated = subjects.measure(neurons, sizes, lambda: model.generate(["a"], [1]))
    read = subjects.measure(neurons, sizes, lambda: model.read(["a"]))
    generation = slice(layers * sizes[0], None)
    # What text and markers would become after the last layer serves nothing: it is never computed.
    last = slice((layers - 1) * sizes[0], layers * sizes[0])
    assert not np.isnan(np.delete(generated, last)).any()
    assert np.isnan(generated[last]).all()
    assert np.isnan(read[generation]).all()
    assert not np.isnan(read[: last.start]).any()


# ---- steps -----------------------------------------------------------------------------------------------------------


def test_steps_that_are_chosen() -> None:
    assert steps.parse_steps("", 24) == [0, 2, 4, 8, 12, 16, 23]
    assert steps.parse_steps("5,1", 24) == [1, 5]
    for text in ("24", "a", "-1"):
        with pytest.raises(ConfigError, match="from 0 to 23"):
            steps.parse_steps(text, 24)


@each_row(
    "answer, value",
    [('{"score": 85, "reason": "x"}', 0.85), ('{"score":0}', 0.0), ("85", None), ('{"score": 101}', None),
     ('{"score": 1} or {"score": 2}', None)],
)  # fmt: skip
def test_grades(answer: str, value: float | None) -> None:
    assert steps.grade(answer) == value


class Tracing(ToyModel):
    """Gives images whose brightness is the step."""

    calls = 0

    def sampling_times(self) -> list[float]:
        return [1.0, 0.5, 0.0]

    def trace(self, prompts: Sequence[str], seeds: Sequence[int], wanted: Sequence[int]) -> list[list[Image.Image]]:
        type(self).calls += len(prompts)
        return [[Image.new("L", (2, 2), 100 * step + seed) for step in wanted] for seed in seeds]


class Bright:
    def rubrics(self, candidate: Candidate) -> dict[str, float]:
        value = Image.open(candidate.image).getpixel((0, 0)) / 200
        return {"layout": value, "detail": 1 - value}


def subject_run(model: object) -> object:
    settings = SimpleNamespace(evaluate=SimpleNamespace(batch=2), adapter=SimpleNamespace(use="toy:Tracing"))
    return SimpleNamespace(settings=settings, model=lambda rounds: model, release=lambda: None)


def test_traces_are_kept_scored_and_not_generated_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subjects.Subject, "settings", lambda self: {})
    plan = [SimpleNamespace(id=f"p{n}", prompt=Prompt(f"{n}", "x"), seed=n) for n in range(3)]
    who = subjects.Subject("base", subject_run(Tracing()), 0)
    Tracing.calls = 0
    made = steps.trace(who, plan[:2], [0, 1], Bright(), None, tmp_path, {})  # type: ignore[arg-type]
    assert [(each.image, each.step, each.scores["layout"]) for each in made] == [
        ("p0", 0, 0.0), ("p0", 1, 0.5), ("p1", 0, 0.005), ("p1", 1, 0.505),
    ]  # fmt: skip
    steps.trace(who, plan, [0, 1], Bright(), None, tmp_path, {})  # type: ignore[arg-type]
    assert Tracing.calls == 3


def test_an_adapter_that_cannot_trace_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no sampling_times and no trace"):
        steps.sampling_times(subjects.Subject("base", subject_run(ToyModel()), 0))  # type: ignore[arg-type]


def snapshots(values: dict[str, list[float]]) -> list[steps.Snapshot]:
    return [
        steps.Snapshot(f"{p}-{k}", p, k, {"layout": v, "detail": v})
        for p, row in values.items()
        for k, v in enumerate(row)
    ]


def test_curves_are_paired_and_leave_unreadable_images_out(tmp_path: Path) -> None:
    base = snapshots({"a": [0.0, 0.5, 1.0], "b": [0.2, 0.4, 0.6]})
    other = snapshots({"a": [0.1, 0.6, 1.0], "b": [0.2, 0.4, 0.6]})
    lost = steps.Snapshot("b-2", "b", 2, {"layout": 0.6})
    found = steps.summary({"base": base, "srum": [*other[:-1], lost]}, [1.0, 0.6, 0.3])
    assert (found["layout"]["images"], found["detail"]["images"]) == (2, 1)
    assert found["layout"]["means"]["base"][0][0] == pytest.approx(0.1)
    assert found["layout"]["change"]["srum"][1][0] == pytest.approx(0.05)
    assert found["layout"]["area"]["base"][0] == pytest.approx((0.5 + 0.4) / 2)
    message, layout_table, _ = steps.write(tmp_path, {"base": base, "srum": other}, [1.0, 0.6, 0.3], "somebody")
    assert isinstance(layout_table, Grid)
    assert layout_table.rows[1][-1].endswith(" [+0.000, +0.075]")
    text = (tmp_path / "steps.md").read_text()
    assert text.startswith(f"{message}\n\n**Layout, 2 of 2 images readable at every step**\n\n| model | 0 (t = 1.00) |")
    assert "1 (t = 0.60)" in text
    assert (tmp_path / "steps-layout.svg").read_text().startswith("<svg")
    with pytest.raises(RecordError, match="No image could be graded"):
        steps.summary({"base": [steps.Snapshot("a-0", "a", 0, {})]}, [1.0])


def things(*given: tuple[str, str | None, int, int]) -> tuple[Thing, ...]:
    return tuple(Thing(colour, shape, (x, y, x + 6, y + 6), 36, 1.0) for colour, shape, x, y in given)


def test_layout_heeds_colours_counts_and_places_but_no_forms() -> None:
    two = {"objects": [("red", "square"), ("blue", "circle")], "relation": "left of", "count": None}
    assert layout(things(("red", None, 2, 10), ("blue", "star", 20, 10)), two) == 1
    assert layout(things(("blue", None, 2, 10), ("red", "star", 20, 10)), two) == 0.5
    assert layout(things(("red", None, 2, 10)), two) == pytest.approx(1 / 3)
    assert layout((), two) == 0


# ---- activations -----------------------------------------------------------------------------------------------------


def test_activity_is_the_mean_of_the_first_rows_tokens() -> None:
    one, never = torch.nn.Identity(), torch.nn.Identity()

    def act() -> None:
        one(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[100.0, 100.0], [100.0, 100.0]]]))
        one(torch.tensor([[5.0, 9.0]]))

    found = subjects.measure({"a": [one], "b": [never]}, [2, 2], act)
    assert found[:2].tolist() == [3.0, 5.0]
    assert np.isnan(found[2:]).all()
    assert not one._forward_hooks


def test_clusters_are_found_per_layer_among_neurons_active_in_both() -> None:
    rng = np.random.default_rng(0)
    probes = {task: rng.normal(size=(40, 8)) for task in ("understanding", "generation")}
    probes["understanding"][:, [1, 6]] += 3
    probes["generation"][:, [2, 5]] += 3
    probes["understanding"][:, 7] = np.nan
    layers = np.repeat([0, 1], 4)
    found = activations.find(probes, layers, 0.25)
    assert dict(found.neurons) == {"understanding": (1, 6), "generation": (2, 5)}
    assert 7 not in found.eligible
    assert dict(found.stability) == {"understanding": 1.0, "generation": 1.0}
    for each in activations.random_clusters(found, (1, 6), layers):
        assert [int(layers[k]) for k in each] == [0, 1]
        assert 7 not in each
    report = {
        "base": {task: probes[task][:5] for task in probes},
        "srum": {task: probes[task][:5] + np.eye(8)[1] for task in probes},
    }
    rows = activations.table(report, probes, found, layers)
    row = next(r for r in rows if (r["model"], r["task"], r["cluster"]) == ("srum", "generation", "understanding"))
    deviation = np.concatenate([probes["understanding"], probes["generation"]])[:, 1].std()
    assert row["change"][0] == pytest.approx(0.5 / deviation)
    assert row["raw"][0] == pytest.approx(report["srum"]["generation"][:, [1, 6]].mean())
    every = activations.architecture(report, {"one": range(7), "other": [7]})
    assert next(r for r in every if (r["task"], r["expert"]) == ("understanding", "other"))["raw"] is None


def test_models_of_one_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    run = SimpleNamespace(folder=Path("runs"), settings=SimpleNamespace(adapter=SimpleNamespace(use="toy")))
    monkeypatch.setattr(subjects, "started_from", lambda start, registry: (run, 1))
    with pytest.raises(ConfigError, match='called "x"'):
        subjects.subjects(["x=a", "x=b"], registry=object())  # type: ignore[arg-type]
    assert [each.name for each in subjects.subjects(["x=a", "runs/b"], registry=object())] == ["base", "x", "b"]  # type: ignore[arg-type]
