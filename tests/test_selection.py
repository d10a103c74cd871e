"""Which judged images are trained on, and what their scores are measured against."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from statistics import fmean, pstdev

import pytest
from attrs import evolve
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from training import clean, interrupt, make, metrics  # noqa: F401  (clean is used by being here)

from srum_core.config import Select
from srum_core.errors import RecordError, TrainingError
from srum_core.records import Candidate, Judgement, Prompt, Region, Score
from srum_core.training.selection import Images, Pair, choose, duplicates, relative, select
from srum_core.training.trainer import train
from srum_losses import SparseOptions
from srum_losses.maps import Sparse


def judged(id: str, whole: float | None, *regional: float, text: str = "a cup") -> Pair:
    """An image with a global score and one score for each of some regions."""
    candidate = Candidate(id, Prompt(f"p-{id}", text), Path(f"{id}.png"), (8, 8), 0)
    regions = tuple(Region(str(i), (0.0, 0.0, 1.0, 1.0)) for i, _ in enumerate(regional))
    scores = [Score(value, str(i), stated=0.1) for i, value in enumerate(regional)]
    if whole is not None:
        scores.append(Score(whole, reason="so", judge="j"))
    return candidate, Judgement(id, regions, tuple(scores))


def ids(pairs: list[Pair], **settings: object) -> str:
    return "".join(candidate.id for candidate in select(pairs, Select(**settings)).candidates)  # type: ignore[arg-type]


def values(pairs: list[Pair], how: str) -> dict[str, list[float]]:
    return {candidate.id: [score.value for score in found.scores] for candidate, found in relative(pairs, how)}


def left_out(found: Images) -> dict[str, float | None]:
    return {name: count for name, count in found.counts().items() if not name.startswith("objects")}


CUPS = [judged("a", 0.2, 0.5), judged("b", 1.0, -0.5), judged("c", 1.0, 0.5, -0.1), judged("d", -0.6)]
DOGS = [judged("e", -0.8, 1.0, text="two dogs"), judged("f", -0.2, text="two dogs")]


# ---- which ----------------------------------------------------------------------------------------------------------


def test_by_default_everything_is_trained_on_as_it_was_judged() -> None:
    bare = judged("z", None)  # not even a global score is needed
    pairs = [*CUPS, *DOGS, bare]
    found = select(pairs, Select(), unjudged=3)
    assert list(zip(found.candidates, found.judgements, strict=True)) == pairs
    assert left_out(found) == {"judged": 7, "unjudged": 3, "below_least": 0, "filtered": 0, "not_best": 0}


def test_the_best_of_each_prompt_are_kept_in_their_old_order() -> None:
    assert ids([*CUPS, *DOGS], best_of=1) == "cf"  # c and b are equal as a whole; c's regions are better on average
    assert ids([*CUPS, *DOGS], best_of=2) == "bcef"
    assert ids([*DOGS[::-1], *CUPS[::-1]], best_of=2) == "fecb"
    assert ids([*CUPS, *DOGS], best_of=9) == "abcdef"


def test_ties_go_to_the_better_regions_then_to_the_lower_id() -> None:
    equal = [judged("c", 0.5, 0.1), judged("b", 0.5, 0.1, 0.1), judged("d", 0.5), judged("a", 0.5, -1.0)]
    assert [ids(equal, best_of=count) for count in (1, 2, 3)] == ["b", "cb", "cba"]  # without regions comes last


def test_several_judges_global_scores_are_averaged() -> None:
    candidate, found = judged("b", 0.9)
    twice = (candidate, Judgement("b", (), (*found.scores, Score(-0.9))))
    assert ids([judged("a", 0.1), twice], best_of=1) == "a"


def test_only_images_that_are_good_enough_are_kept() -> None:
    pairs = [*CUPS, *DOGS]
    assert ids(pairs, least=0.2) == "abc"  # at least, not above
    assert ids(pairs, least=0.2, best_of=1) == "c"
    found = select(pairs, Select(least=-0.6, best_of=1), unjudged=1)
    assert left_out(found) == {"judged": 6, "unjudged": 1, "below_least": 1, "filtered": 0, "not_best": 3}


def test_a_filter_keeps_images_that_are_right_as_a_whole_and_in_their_regions() -> None:
    assert ids([*CUPS, *DOGS], filter=0.1) == "ac"  # b's region is wrong; c's are right on average
    bare = judged("y", None, 0.6)
    assert ids([*CUPS, bare], filter=0.19) == "acy"  # as far as there are scores
    assert ids([*CUPS, judged("z", None)], filter=0.19) == "ac"
    kept = select([*CUPS, *DOGS], Select(filter=0.1, best_of=1))
    assert left_out(kept) == {"judged": 6, "unjudged": 0, "below_least": 0, "filtered": 4, "not_best": 1}
    with pytest.raises(TrainingError, match=r"none of 6 judged images .* above select\.filter=0\.9") as caught:
        select([*CUPS, *DOGS], Select(filter=0.9))
    assert "generate.candidates" in str(caught.value)


def test_the_filter_and_the_map_sparse_agree_on_what_is_right() -> None:
    marks = Sparse(SparseOptions(scope="image", threshold=0.15))
    right = "".join(each.id for each, judgement in [*CUPS, *DOGS] if marks(judgement, (1, 1)))
    assert ids([*CUPS, *DOGS], filter=0.15) == right != ""


def test_nothing_good_enough_is_said() -> None:
    with pytest.raises(TrainingError, match=r"select.least=0.5, but .* the 2 judged images is -0.2. Lower select"):
        select(DOGS, Select(least=0.5))


@pytest.mark.parametrize("settings", [Select(best_of=1), Select(least=0.0)])
def test_without_a_global_score_nobody_can_say_which_is_best(settings: Select) -> None:
    with pytest.raises(RecordError, match=r'candidate "z" has no score for the whole image, which select.best_of'):
        select([*CUPS, judged("z", None, 1.0)], settings)


# ---- measured against what ------------------------------------------------------------------------------------------


def test_centred_scores_are_less_the_mean_of_their_prompts_images() -> None:
    found = values([*CUPS, *DOGS], "centre")
    assert found["a"] == pytest.approx([0.5 - 0.1, 0.2 - 0.4])  # regional 0.5, -0.5, 0.5, -0.1; global 0.2, 1, 1, -0.6
    assert found["c"] == pytest.approx([0.4, -0.2, 0.6])
    assert found["d"] == pytest.approx([-1.0])
    assert found["e"] == pytest.approx([0.0, -0.3])  # the only regional score of its group
    assert found["f"] == pytest.approx([0.3])


def test_standardised_scores_are_in_deviations_and_cut() -> None:
    found = values([*CUPS, *DOGS], "standardise")
    whole, regional = [0.2, 1.0, 1.0, -0.6], [0.5, -0.5, 0.5, -0.1]
    assert found["a"] == pytest.approx([0.4 / pstdev(regional), -0.2 / pstdev(whole)])
    assert found["b"] == pytest.approx([-1.0, 0.6 / pstdev(whole)])  # -1.43 deviations
    assert found["f"] == pytest.approx([1.0])


@pytest.mark.parametrize("how", ["centre", "standardise"])
def test_where_all_are_the_same_there_is_no_evidence(how: str) -> None:
    assert values([judged("a", 0.7, 0.3)], how) == {"a": [0.0, 0.0]}
    assert values([judged(name, 0.1, 0.1, 0.1) for name in "abc"], how) == {name: [0.0] * 3 for name in "abc"}
    assert values([judged("a", None), judged("b", None)], how) == {"a": [], "b": []}


def test_a_group_is_the_prompts_words_whatever_its_id() -> None:
    assert values([judged("a", 0.5), judged("b", -0.5), judged("c", 1.0, text="a dog")], "centre") == {
        "a": [0.5],
        "b": [-0.5],
        "c": [0.0],
    }


def test_the_mean_is_that_of_all_images_and_the_choice_is_by_the_scores_as_given() -> None:
    found = select([*CUPS, *DOGS], Select(best_of=1, least=-0.3, relative="centre"))
    assert [[score.value for score in each.scores] for each in found.judgements] == [
        pytest.approx([0.4, -0.2, 0.6]),
        pytest.approx([0.3]),
    ]


def test_all_else_about_a_judgement_stays() -> None:
    (_, found), *_ = relative([judged("a", 0.5, 0.5), judged("b", -0.5)], "centre")
    assert found.regions == judged("a", 0.5, 0.5)[1].regions
    assert found.scores == (Score(0.0, "0", stated=0.1), Score(0.5, reason="so", judge="j"))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=4), min_size=1, max_size=6),
    st.sampled_from(["centre", "standardise"]),
)
def test_relative_scores_stay_in_range_keep_their_order_and_have_no_mean(scores: list[list[float]], how: str) -> None:
    pairs = [judged(str(i), whole, *regional) for i, (whole, *regional) in enumerate(scores)]
    found = [[score.value for score in each.scores] for _, each in relative(pairs, how)]
    assert all(-1 <= value <= 1 for each in found for value in each)
    whole = [each[-1] for each in found]
    for one, before in zip(whole, scores, strict=True):
        assert all(one <= other for other, after in zip(whole, scores, strict=True) if before[0] <= after[0])
    if how == "centre" and max(map(abs, whole)) < 1:
        assert fmean(whole) == pytest.approx(0, abs=1e-9)


# ---- in a run -------------------------------------------------------------------------------------------------------


def test_training_reads_what_is_chosen_and_leaves_the_records(tmp_path: Path) -> None:
    run = make(tmp_path / "run", select={"least": 0.5, "relative": "centre"}, steps=2)
    before = {path: path.read_bytes() for path in run.stage_folder("judge", 1).iterdir()}
    images = choose(run, 1)
    assert [score.value for each in images.judgements for score in each.scores] == [0.0] * 10  # a group each
    train(run, 1)
    assert {path: path.read_bytes() for path in run.stage_folder("judge", 1).iterdir()} == before
    rows = metrics(run)
    counts = {"judged": 5, "unjudged": 1, "below_least": 0, "filtered": 0, "not_best": 0}
    assert all({name: row[name] for name in counts} == counts for row in rows)
    assert {row["mean_weight"] for row in rows} == {0.0}


def test_more_objects_than_in_the_first_round_are_said_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert not duplicates(2.0, 2.2)  # a tenth is allowed
    assert not duplicates(0.0, 1.0) + duplicates(None, 1.0) + duplicates(1.0, None)
    assert "20% more objects" in duplicates(2.0, 2.4)
    run = make(tmp_path / "run")
    assert choose(run, 1).counts()["objects"] == 1.0
    assert choose(run, 1).counts()["objects_before"] is None
    shutil.copytree(run.round_folder(1), run.round_folder(2))
    assert choose(run, 2).counts()["objects_before"] == 1.0
    for part in run.judgements(1).folder.glob("part-*.jsonl"):
        part.unlink()  # somebody made room
    assert choose(run, 2).counts()["objects_before"] is None
    shutil.copytree(run.stage_folder("judge", 2), run.stage_folder("judge", 1), dirs_exist_ok=True)
    monkeypatch.setattr("srum_core.training.trainer.choose", lambda *which: evolve(choose(*which), objects_before=0.8))
    train(run, 1)
    assert "Images hold 25% more objects than before training" in caplog.text
    assert "loss.beta" in caplog.text
    assert {(row["objects"], row["objects_before"]) for row in metrics(run)} == {(1.0, 0.8)}


def test_a_run_that_asks_too_much_stops_before_it_trains(tmp_path: Path) -> None:
    run = make(tmp_path / "run", select={"least": 0.9})
    with pytest.raises(TrainingError, match=r"select.least=0.9, but the highest .* 5 judged images is 0.8"):
        train(run, 1)


def test_the_training_remembers_it(tmp_path: Path) -> None:
    run = make(tmp_path / "run", select={"best_of": 2})
    assert run.stage_settings("train", 1)["select"] == {
        "best_of": 2,
        "least": -1.0,
        "filter": -1.0,
        "relative": "none",
    }
    assert "select" not in run.stage_settings("judge", 1)


def forget(path: Path, *keys: str) -> None:
    """As if it were from before these settings."""
    there = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in there.items() if key not in keys}))


def test_other_settings_are_refused_with_the_way_back(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    train(run, 1)
    message = r"other settings: select\.best_of was 0 and is now 1\. Keep the old ones \(select\.best_of=0\), or"
    with pytest.raises(RecordError, match=message):
        make(run.folder, select={"best_of": 1})


def test_a_training_that_is_too_old_to_know_a_setting_is_refused(tmp_path: Path) -> None:
    run = make(tmp_path / "run")
    train(run, 1)
    forget(run.stage_folder("train", 1) / "settings.json", "select", "lora")
    with pytest.raises(RecordError, match=r"other settings: lora\.alpha was '\(nothing\)' and is now 32"):
        run.check()
