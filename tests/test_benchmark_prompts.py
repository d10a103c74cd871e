"""Prompt files and folders of images of the published benchmarks: what is refused, and in which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import compbench_released
import pytest
from benchmark_data import (
    believed,
    compbench_entries,
    compbench_folder,
    compbench_texts,
    generated,
    geneval_folder,
    reasonbench_folder,
    wise_folder,
    write,
)
from rows import each_row

from srum_benchmarks import files, templates
from srum_benchmarks.compbench import benchmark as scoring
from srum_benchmarks.compbench import prompts as compbench
from srum_benchmarks.geneval import prompts as geneval
from srum_benchmarks.reasonbench import prompts as reasonbench
from srum_benchmarks.wise import prompts as wise
from srum_benchmarks.wise.prompts import LEGACY, VERIFIED
from srum_core.errors import ConfigError
from srum_core.models.templates import packaged
from srum_core.records import Prompt


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


# ---- T2I-CompBench ---------------------------------------------------------------------------------------------------


def test_both_formats_give_the_same_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed(monkeypatch)
    one = compbench.load(str(compbench_folder(tmp_path / "srum")), "test")
    other = compbench.load(str(compbench_texts(tmp_path / "original")), "test")
    assert one == other
    assert len(one) == 2670
    assert (one[0].id, one[-1].id, one[-1].tags) == ("701", "8904", {"category": "texture", "line": 299})


def test_a_flat_folder_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed(monkeypatch)
    entries = json.dumps(compbench_entries("train"))
    (tmp_path / "train_comp.json").write_text(entries, encoding="utf-8-sig")  # as Windows saves it
    assert len(compbench.load(str(tmp_path), "train")) == 6234


def test_other_prompts_are_refused_by_their_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = str(compbench_folder(tmp_path))
    with pytest.raises(
        ConfigError, match=r"val_comp\.json: prompt 1999 is not the one of WayneJin0918/SRUM at a53ba18"
    ):
        compbench.load(data, "test")
    assert len(compbench.load(data, "test", verify=False)) == 2670
    right = files.digest(compbench_entries()[1998]["Question"])
    known = attrs.evolve(compbench.JSON["test"], spots={1998: right})
    monkeypatch.setitem(compbench.JSON, "test", known)
    assert len(compbench.load(data, "test")) == 2670


def test_a_wrong_number_of_prompts_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "val_comp.json", compbench_entries()[:-1])
    with pytest.raises(ConfigError, match="holds 2669 prompts; the release has 2670") as message:
        compbench.load(str(tmp_path), "test")
    assert "holds 299 texture prompts; the release has 300" in str(message.value)
    assert "set verify = false" in str(message.value)


def test_ids_in_another_order_are_refused(tmp_path: Path) -> None:
    entries = compbench_entries()
    entries[0], entries[1] = entries[1], entries[0]
    write(tmp_path / "val_comp.json", entries)
    with pytest.raises(ConfigError, match="the ids of the 3d_spatial prompts do not count up from 701"):
        compbench.load(str(tmp_path), "test")


@each_row(
    "content, message",
    [
        ('[{"Question": "a', "is not JSON .* cut off"),
        ("{}", "should hold a JSON list, but it holds one dict"),
        ('[{"Question": ""}]', 'entry 1: there is no text "Question"'),
        ('[{"Question": "a", "Category": "color"}]', 'entry 1: a prompt needs a "Question_id"'),
        ('[{"Question": "a", "Question_id": 1, "Category": "colour"}]', 'a "Category" out of 3d_spatial, color'),
    ],
)
def test_what_is_no_list_of_prompts_is_refused(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "val_comp.json").write_text(content, encoding="utf-8")
    with pytest.raises(ConfigError, match=message):
        compbench.load(str(tmp_path), "test")


def test_missing_files_are_all_named_with_their_source(tmp_path: Path) -> None:
    data = compbench_texts(tmp_path)
    for name in ("color_val.txt", "shape_val.txt"):
        (data / "examples/dataset" / name).unlink()
    with pytest.raises(ConfigError, match=r"color_val\.txt \(from Karine-Huang.*shape_val\.txt \(from Karine-Huang"):
        compbench.load(str(data), "test")
    with pytest.raises(ConfigError, match=r"does not hold val_comp\.json \(from WayneJin0918/SRUM"):
        compbench.load(str(write(tmp_path / "other" / "x.json", []).parent), "test")


@pytest.mark.parametrize(
    ("data", "message"), [("", "are not part of srum. Get WayneJin0918/SRUM"), ("/nowhere/at/all", "is no folder here")]
)
def test_without_a_folder_the_way_to_one_is_told(data: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compbench.load(data, "test")


def test_an_unknown_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='has the splits "test" and "train", not "val"'):
        compbench.load(str(tmp_path), "val")


def compbench_images(folder: Path) -> Path:
    touch(folder / "1701.png", folder / "1702.png")
    lines = [{"image_file": f"{number}.png", "original_prompt": "p"} for number in (1701, 1702)]
    (folder / "output.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def test_a_folder_of_compbench_images_must_be_whole(tmp_path: Path) -> None:
    folder = compbench_images(tmp_path / "color_50_think")
    assert [item.question_id for item in compbench_released.items(folder)] == [1701, 1702]
    (folder / "1702.png").unlink()
    with pytest.raises(ConfigError, match=r"1 pictures are missing, such as 1702\.png"):
        compbench_released.items(folder)
    touch(folder / "1702.png", folder / "1703.png")
    with pytest.raises(ConfigError, match=r"1703\.png is a picture that .*output\.jsonl knows no prompt of"):
        compbench_released.items(folder)
    touch(folder / "grid.png")
    with pytest.raises(ConfigError, match=r"grid\.png: pictures are named by their Question_id"):
        compbench_released.items(folder)


def test_a_half_written_line_is_found(tmp_path: Path) -> None:
    folder = compbench_images(tmp_path / "color_50_think")
    with (folder / "output.jsonl").open("a") as file:
        file.write('{"image_file": "1703.p')
    with pytest.raises(ConfigError, match=r"output\.jsonl, line 3: this is not a whole JSON record"):
        compbench_released.items(folder)


def test_without_thinking_the_other_folder_is_still_needed(tmp_path: Path) -> None:
    folder = tmp_path / "color_50_no_think"
    touch(folder / "1701.png")
    with pytest.raises(ConfigError, match=r"color_50_think/output\.jsonl is missing"):
        compbench_released.items(folder)
    candidate = attrs.evolve(
        generated(Prompt("1701", "a red car", {"category": "color", "line": 0})), thought="Let me think."
    )
    layout = scoring.for_srum([(0, candidate)])
    assert list(layout.images) == [Path("color_50_think/1701.png")]
    for place, text in layout.texts.items():
        (tmp_path / place).parent.mkdir()
        (tmp_path / place).write_text(text, encoding="utf-8")
    assert [item.prompt for item in compbench_released.items(folder)] == ["a red car"]


def test_the_original_names_images_by_prompt_and_number() -> None:
    prompt = Prompt("1704", "a red car.", {"category": "color", "line": 3})
    path = scoring.original_path(prompt, 7)
    assert path == Path("color/samples/a red car._000037.png")
    with pytest.raises(ConfigError, match="cannot read"):
        scoring.original_path(attrs.evolve(prompt, text="a red/blue car"), 0)


# ---- GenEval ---------------------------------------------------------------------------------------------------------


def test_geneval_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed(monkeypatch)
    prompts = geneval.load(str(geneval_folder(tmp_path)))
    assert [len(prompts), prompts[0].id, prompts[-1].id] == [553, "00000", "00552"]
    assert prompts[80].tags["metadata"]["tag"] == prompts[80].tags["tag"] == "two_object"


def test_geneval_prompts_that_are_not_the_releases(tmp_path: Path) -> None:
    path = geneval_folder(tmp_path) / "prompts" / "evaluation_metadata.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[1:]))
    with pytest.raises(ConfigError, match="holds 79 prompts of the task single_object; the release has 80"):
        geneval.load(str(tmp_path))
    path.write_text("".join(lines)[:-20])
    with pytest.raises(ConfigError, match="line 553: this is not a whole JSON record"):
        geneval.load(str(tmp_path))
    path.write_text("[1]\n")
    with pytest.raises(ConfigError, match="line 1: a record is an object, not"):
        geneval.load(str(tmp_path))
    path.write_text('{"tag": "colour", "include": [], "prompt": "p"}\n')
    with pytest.raises(ConfigError, match='a "tag" out of single_object, two_object'):
        geneval.load(str(tmp_path))


# ---- WISE ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", [LEGACY, VERIFIED], ids=lambda version: version.name)
def test_wise_prompts_and_the_splits_of_figure_6(
    version: wise.Version, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    data = str(wise_folder(tmp_path, version))
    every = wise.load(version, data)
    assert [prompt.id for prompt in every] == [str(number) for number in range(1, 1001)]
    assert every[0].tags["explanation"] == "meaning 1"
    for group in wise.GROUPS:
        own, others = (wise.load(version, data, split) for split in (group, f"not-{group}"))
        assert {prompt.tags["group"] for prompt in own} == {group}
        assert group not in {prompt.tags["group"] for prompt in others}
        assert len(own) + len(others) == 1000
    with pytest.raises(ConfigError, match='not "dev"'):
        wise.load(version, data, "dev")


def test_the_versions_of_wise_cannot_be_mixed(tmp_path: Path) -> None:
    """The verified files have the legacy ids with other categories behind them."""
    data = wise_folder(tmp_path, VERIFIED)
    old, new = LEGACY.files["science"].places[0], VERIFIED.files["science"].places[0]
    wise_folder(tmp_path, LEGACY)
    (data / old).write_text((data / new).read_text())
    with pytest.raises(ConfigError, match=r"no id of the science prompts of wise\. The two versions"):
        wise.load(LEGACY, str(data), verify=False)


def test_a_gap_in_wises_ids_is_found(tmp_path: Path) -> None:
    data = wise_folder(tmp_path, LEGACY)
    path = data / LEGACY.files["cultural"].places[0]
    entries = json.loads(path.read_text())
    write(path, entries[:5] + entries[6:])
    with pytest.raises(ConfigError, match="holds 399 prompts; the release has 400") as message:
        wise.load(LEGACY, str(data))
    assert "the ids do not count up one by one" in str(message.value)


# ---- T2I-ReasonBench -------------------------------------------------------------------------------------------------


def test_reasonbench_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed(monkeypatch)
    prompts = reasonbench.load(str(reasonbench_folder(tmp_path)))
    assert len(prompts) == 800
    assert prompts[0].id == "entity-0001"
    assert list(prompts[0].tags["criteria"]) == ["entity_evaluation", "other_details_evaluation", "quality_evaluation"]


def change(folder: Path, **changes: Any) -> None:
    path = folder / reasonbench.DIMENSIONS["idiom"].criteria.places[0]
    entries = json.loads(path.read_text())
    entries[6] = {**entries[6], **changes}
    write(path, entries)


def test_questions_are_paired_by_order_and_prompts_come_from_their_own_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    data = reasonbench_folder(tmp_path)
    change(data, prompt="the answer", quality_evaluation={"aq1": "Sharp?", "ac1": "1 if so"})
    prompt = next(each for each in reasonbench.load(str(data)) if each.id == "idiom-0007")
    assert prompt.text == "idiom prompt 7"
    assert prompt.tags["criteria"]["quality_evaluation"] == [["Sharp?", "1 if so"]]


def test_questions_that_are_missing_or_odd_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    believed(monkeypatch)
    data = reasonbench_folder(tmp_path)
    change(data, reason_evaluation={"q1": "Is it?"})
    with pytest.raises(ConfigError, match=r'id 7: "reason_evaluation" should hold questions and criteria in turns'):
        reasonbench.load(str(data))
    change(data, id=500)
    with pytest.raises(ConfigError, match="has no questions about id 7"):
        reasonbench.load(str(data))
    change(data, id="seven")
    with pytest.raises(ConfigError, match='entry 7: there is no number "id"'):
        reasonbench.load(str(data))


# ---- rubrics ---------------------------------------------------------------------------------------------------------


def test_packaged_rubrics_say_that_they_are_ours() -> None:
    for name in packaged("srum_benchmarks"):
        text = templates.load(name, [])
        known = scoring.KNOWN_MESSAGES if name == "compbench" else {}
        assert templates.label(text, known, name) == templates.OWN


def test_a_template_of_yours_takes_the_rubrics_place(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("Rate {prompt}\n")
    text = templates.load(str(path), ["prompt"])
    assert templates.fill(text, {"prompt": "a {prompt} {x}"}) == "Rate a {prompt} {x}"
    assert templates.label(text, scoring.KNOWN_MESSAGES, str(path)) == "rubric mine.txt"
    with pytest.raises(ConfigError, match=r"does not contain \{explanation\}"):
        templates.load(str(path), ["prompt", "explanation"])
    with pytest.raises(ConfigError, match="neither a packaged one"):
        templates.load(str(tmp_path / "none.txt"), [])
