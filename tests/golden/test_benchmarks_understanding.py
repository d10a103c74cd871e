"""Understanding benchmarks, instruments of the figures, and what is known about prompt files."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from benchmark_goldens import cases, near, table

from srum_benchmarks.compbench import prompts as compbench
from srum_benchmarks.files import Expected
from srum_benchmarks.geneval import prompts as geneval
from srum_benchmarks.instruments import released_parsers, steps
from srum_benchmarks.reasonbench import prompts as reasonbench
from srum_benchmarks.understanding import choices, mathvista, mme, mmmu
from srum_benchmarks.wise import prompts as wise
from srum_core.analysis import effect_size as activations

pytestmark = pytest.mark.golden


# ---- MME -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("understanding", "mme", "post_processing"))
def test_mme_cleans_answers(case: Any) -> None:
    assert mme.clean(case["input"]) == case["expected"]


@pytest.mark.parametrize("case", cases("understanding", "mme", "parse_pred_ans"))
def test_mme_labels_answers(case: Any) -> None:
    assert mme.label(case["input"]) == case["expected"]


def test_mme_scores() -> None:
    golden = table("understanding", "mme", "scores")
    answers = {
        task: [(truth, said) for _, _, truth, said in lines] for task, lines in golden["input"]["raw_answers"].items()
    }
    found, expected = mme.scores(answers), golden["expected"]
    assert dict(found.tasks) == near(expected["per_task"])
    assert (found.perception, found.cognition) == near((expected["perception"], expected["cognition"]))


@pytest.mark.parametrize("case", cases("understanding", "lmms_eval", "mme_parse"))
def test_mme_labels_as_in_lmms_eval(case: Any) -> None:
    assert mme.label_lmms(case["input"]) == case["expected"]


def test_mme_scores_as_in_lmms_eval() -> None:
    golden = table("understanding", "lmms_eval", "mme_aggregate")
    answers: dict[str, dict[str, list[tuple[str, str]]]] = {}
    for each in golden["input"]:
        by_question = answers.setdefault(each["category"], {})
        by_question.setdefault(each["question_id"], []).append((each["answer"], each["pred"]))
    flat = {task: [pair for pairs in own.values() for pair in pairs] for task, own in answers.items()}
    found, expected = mme.scores(flat, lmms=True), golden["expected"]
    assert found.perception == near(expected["mme_perception_score"])
    assert found.cognition == near(expected["mme_cognition_score"])


# ---- letters ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", ["mmbench", "mmmu_direct", "mmvp"])
def test_letters(script: str) -> None:
    golden = table("understanding", "option_letters", script)
    for number in range(len(golden)):
        given, expected = golden[number]["input"], golden[number]["expected"]
        found = choices.letter(given["pred"], given["options"], empty="" if script == "mmvp" else choices.OTHERWISE)
        assert found == ("" if "raises" in expected else expected["value"]), given


@pytest.mark.parametrize("case", cases("understanding", "mmvp_pairs"))
def test_mmvp_pairs(case: Any) -> None:
    found = choices.mmvp_pairs([said == truth for said, truth in case["input"]["pred_gt_in_order"]])
    expected = case["expected"]
    assert (found.correct, found.total) == (expected["pairs_correct"], expected["pairs_total"])
    assert found.accuracy == near(expected["accuracy"])


@pytest.mark.parametrize("case", cases("understanding", "lmms_eval", "mmvp_letter"))
def test_mmvp_letters_as_in_lmms_eval(case: Any) -> None:
    assert choices.mmvp_letter_lmms(case["input"]) == case["expected"]


def test_mmvp_as_in_lmms_eval() -> None:
    golden = table("understanding", "lmms_eval", "mmvp_aggregate")
    lines = sorted(golden["input"], key=lambda each: each["Index"])
    right = [choices.mmvp_letter_lmms(each["Correct Answer"]) == each["pred"] for each in lines]
    assert sum(right) / len(right) == near(golden["expected"]["accuracy"])
    assert choices.mmvp_pairs(right).accuracy == near(golden["expected"]["pair_accuracy"])


def test_mmvet_as_in_lmms_eval() -> None:
    golden = table("understanding", "lmms_eval", "mmvet_aggregate")
    assert choices.mmvet([each["score"] for each in golden["input"]]) == near(golden["expected"])


# ---- MMMU ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("understanding", "mmmu", "parse_multi_choice"))
def test_mmmu_choices(case: Any) -> None:
    given = case["input"]
    assert mmmu.choice(given["response"], given["choices"], given["index2ans"]) == case["expected"]


@pytest.mark.parametrize("case", cases("understanding", "mmmu", "open"))
def test_mmmu_open_answers(case: Any) -> None:
    said = mmmu.open_answers(case["input"]["response"])
    assert sorted(map(str, said)) == case["expected"]["parsed_as_strings_sorted"]
    assert mmmu.right_open(case["input"]["gold"], said) == case["expected"]["correct"]


@pytest.mark.parametrize("case", cases("understanding", "mmmu", "normalize_str"))
def test_mmmu_normalises(case: Any) -> None:
    assert mmmu.normalised(case["input"]) == case["expected"]


@pytest.mark.parametrize("case", cases("understanding", "mmmu", "extract_numbers"))
def test_mmmu_numbers(case: Any) -> None:
    assert mmmu.numbers(case["input"]) == case["expected"]


@pytest.mark.parametrize("case", cases("understanding", "mmmu", "eval_multi_choice"))
def test_mmmu_counts_choices(case: Any) -> None:
    assert mmmu.right_choice(case["input"]["gold"], case["input"]["pred"]) == case["expected"]


def test_mmmu_table() -> None:
    """The rule speaks of the n-th answer in the order of the benchmark's file: subjects by name, 30 questions each."""
    golden = table("understanding", "mmmu", "aggregate")
    rule, expected = golden["input"], golden["expected"]
    subjects = sorted(name for own in mmmu.DISCIPLINES.values() for name in own)
    counts = [(name, expected[name]["num"]) for name in subjects]
    order = [name for name, count in counts for _ in range(count)]
    right: dict[str, list[bool]] = {}
    for number, name in enumerate(order):
        right.setdefault(name, []).append(number % rule["m"] < rule["k"])
    ours = {name: {"num": row.count, "acc": row.accuracy} for name, row in mmmu.table(right).items()}
    assert ours == expected
    assert list(ours) == list(expected)


# ---- MathVista -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("understanding", "mathvista", "normalize"))
def test_mathvista_normalises(case: Any) -> None:
    assert mathvista.normalised(**case["input"]) == case["expected"]["value"]


@pytest.mark.parametrize("case", cases("understanding", "mathvista", "quick_extract"))
def test_mathvista_extracts(case: Any) -> None:
    problem = case["input"]["problem"]
    kinds = problem["question_type"], problem["answer_type"], problem["choices"]
    assert mathvista.quick_extract(case["input"]["response"], *kinds) == case["expected"]


# ---- instruments of the figures --------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", cases("appendix_b", "average_activation_strength"))
def test_activation_strength(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    measured = np.array(given["activations_sample_by_neuron"])
    for name in ("understand", "generate"):
        cluster = given[f"cluster_{name}"]
        assert activations.sample_strength(measured, cluster).tolist() == near(expected[f"S_sample_{name}"])
        assert activations.strength(measured, cluster) == near(expected[f"S_final_{name}"])


@pytest.mark.parametrize("case", cases("appendix_b", "cluster_selection_proposed"))
def test_clusters(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    probes = (np.array(given[f"probe_{name}"]) for name in ("understanding", "generation"))
    found = activations.select(*probes, given["k"])
    assert list(found.effect) == near(expected["cohens_d"])
    assert list(found.understanding) == expected["cluster_understand"]
    assert list(found.generation) == expected["cluster_generate"]


@pytest.mark.parametrize("case", cases("bagel_sampler_schedule", "cases"))
def test_steps_of_the_sampler(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    times = steps.times(given["num_timesteps"], given["timestep_shift"])
    lengths = [now - then for now, then in pairwise(times)]
    assert len(lengths) == expected["n_model_steps"]
    assert times[:3] == pytest.approx(expected["t_first3"], abs=0.51e-6)
    assert times[-4:-1] == pytest.approx(expected["t_last3"], abs=0.51e-6)
    assert (sum(lengths), lengths[-1]) == pytest.approx((expected["dt_sum"], expected["dt_last"]), abs=0.51e-6)
    counted = steps.guided(given["num_timesteps"], given["timestep_shift"], tuple(given["cfg_interval"]))
    assert counted == expected["n_steps_with_cfg"]


@pytest.mark.parametrize("case", cases("srum_judge_parsers", "parse_global_layout_output"))
def test_the_released_layout_parser(case: Any) -> None:
    assert released_parsers.layout(case["input"]) == case["expected"]


@pytest.mark.parametrize("case", cases("srum_judge_parsers", "parse_sample_level_output"))
def test_the_released_sample_parser(case: Any) -> None:
    assert released_parsers.sample(case["input"]) == case["expected"]


@pytest.mark.parametrize("case", cases("srum_judge_parsers", "parse_vlm_evaluation_output"))
def test_the_released_region_parser(case: Any) -> None:
    found = {str(number): each for number, each in released_parsers.regions(case["input"]).items()}
    assert found == case["expected"]


# ---- prompt files ----------------------------------------------------------------------------------------------------


def known_files() -> dict[str, Expected]:
    texts = [compbench.expected_text("test", name) for name in compbench.TEST]
    wise_files = [each for version in (wise.LEGACY, wise.VERIFIED) for each in version.files.values()]
    reason = [dimension.prompts for dimension in reasonbench.DIMENSIONS.values()]
    jsons = [compbench.expected_json(split) for split in compbench.SPLITS]
    every = [*texts, *wise_files, *reason, *jsons, *geneval.FILES.values()]
    return {place: each for each in every for place in each.places}


def test_what_is_known_about_prompt_files() -> None:
    """Counts are those of the clones; a set with the same spot has the same hash."""
    golden = table("prompt_files", "files")
    known = known_files()
    for name in golden:
        entry = golden[name]
        expected = next((each for place, each in known.items() if name.endswith(f"/{place}")), None)
        if expected is None:
            assert "spatialaction" in name, f"{name} is not known"  # part of the complex prompts, never read by itself
            continue
        assert expected.count == entry["n"], name
        assert expected.spots.get(entry["spot_index"], entry["spot_sha256_16"]) == entry["spot_sha256_16"], name
        for key, ours in (("per_category", compbench.SPLITS["test" if "val" in name else "train"]), ("per_tag", None)):
            if key in entry:
                counts = {each: part.count for each, part in ours.items()} if ours else dict(geneval.TAGS)
                assert counts == entry[key], name
        if "id_min" in entry:
            version = wise.LEGACY if "legacy" in name else wise.VERIFIED
            group = next(each for each, files in version.files.items() if files is expected)
            names = wise.GROUPS[group]
            ends = version.ranges[names[0]][0], version.ranges[names[-1]][1]
            assert ends == (entry["id_min"], entry["id_max"]), name
