"""Instruments of the figures, and what is known about prompt files."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import released_parsers
import sampler_steps as steps
from benchmark_goldens import each_entry, near, table

from srum_benchmarks.compbench import prompts as compbench
from srum_benchmarks.files import Expected
from srum_benchmarks.geneval import prompts as geneval
from srum_benchmarks.reasonbench import prompts as reasonbench
from srum_benchmarks.wise import prompts as wise
from srum_core.analysis import activations

pytestmark = pytest.mark.golden


# ---- instruments of the figures --------------------------------------------------------------------------------------


@each_entry("appendix_b", "average_activation_strength")
def test_activation_strength(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    measured = np.array(given["activations_sample_by_neuron"])
    for name in ("understand", "generate"):
        cluster = given[f"cluster_{name}"]
        assert activations.sample_strength(measured, cluster).tolist() == near(expected[f"S_sample_{name}"])
        assert activations.sample_strength(measured, cluster).mean() == near(expected[f"S_final_{name}"])


@each_entry("appendix_b", "cluster_selection_proposed")
def test_clusters(case: Any) -> None:
    given, expected = case["input"], case["expected"]
    probes = [np.array(given[f"probe_{name}"]) for name in ("understanding", "generation")]
    assert list(activations.effect_size(*probes)) == near(expected["cohens_d"])
    understanding, generation = activations.select(*probes, given["k"])
    assert understanding == expected["cluster_understand"]
    assert generation == expected["cluster_generate"]


@each_entry("bagel_sampler_schedule", "cases")
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


@each_entry("srum_judge_parsers", "parse_global_layout_output")
def test_the_released_layout_parser(case: Any) -> None:
    assert released_parsers.layout(case["input"]) == case["expected"]


@each_entry("srum_judge_parsers", "parse_sample_level_output")
def test_the_released_sample_parser(case: Any) -> None:
    assert released_parsers.sample(case["input"]) == case["expected"]


@each_entry("srum_judge_parsers", "parse_vlm_evaluation_output")
def test_the_released_region_parser(case: Any) -> None:
    found = {str(number): each for number, each in released_parsers.regions(case["input"]).items()}
    assert found == case["expected"]


# ---- prompt files ----------------------------------------------------------------------------------------------------


def known_files() -> dict[str, Expected]:
    texts = [category.text for category in compbench.TEST.values()]
    wise_files = [each for version in (wise.LEGACY, wise.VERIFIED) for each in version.files.values()]
    reason = [dimension.prompts for dimension in reasonbench.DIMENSIONS.values()]
    jsons = [compbench.JSON[split] for split in compbench.SPLITS]
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
