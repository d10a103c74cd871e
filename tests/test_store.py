"""Records survive being killed at any byte, and nothing damaged is passed over."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rows import each_row

from srum_core.errors import RecordError
from srum_core.records import Candidate, Exchange, Grounding, Judgement, Prompt, Question, Region, Score, Unreadable
from srum_core.runs import store
from srum_core.runs.store import Records, read_list, write_atomic, write_list

PROMPTS = [
    Prompt("a", "a red square"),
    Prompt("b", "ein grüner Kreis – links", {"n": 2}),
    Prompt("c", "\u2028\nlines\r"),
]


def reopen(folder: Path, **more: object) -> Records[Prompt]:
    return Records(folder, Prompt, **more)  # type: ignore[arg-type]


def test_a_file_cut_at_every_byte_keeps_its_whole_lines_and_takes_the_rest(tmp_path: Path) -> None:
    reopen(tmp_path / "whole").extend(PROMPTS)
    data = (tmp_path / "whole/part-0.jsonl").read_bytes()
    for cut in range(len(data) + 1):
        folder = tmp_path / f"cut-{cut}"
        folder.mkdir()
        (folder / "part-0.jsonl").write_bytes(data[:cut])
        whole_lines = data[:cut].count(b"\n")
        assert list(reopen(folder)) == PROMPTS[:whole_lines], cut
        again = reopen(folder)
        again.extend(PROMPTS)
        assert list(again) == list(reopen(folder)) == PROMPTS, cut
        assert again.ids() == {"a", "b", "c"}, cut


def test_numbers_of_numpy_and_tensors_are_kept_as_numbers(tmp_path: Path) -> None:
    one: float = np.float32(0.5)  # type: ignore[assignment]
    write_list(tmp_path / "list.jsonl", [Region("1", (0.0, 0.0, one, 1.0)), Region("2", (0.0, 0.0, 1.0, 1.0))])
    assert read_list(tmp_path / "list.jsonl", Region)[0].box == (0.0, 0.0, 0.5, 1.0)
    assert json.loads(store.to_json({"value": one})) == {"value": 0.5}
    assert [type(Score(each).value) for each in (one, torch.tensor(1.0), True)] == [float] * 3
    with pytest.raises(RecordError, match="object is no text, number"):
        write_list(tmp_path / "list.jsonl", [Prompt("a", "text", {"what": object()})])


def test_being_cut_again_while_fencing_is_no_different(tmp_path: Path) -> None:
    reopen(tmp_path).extend(PROMPTS[:1])
    shard = tmp_path / "part-0.jsonl"
    first = shard.read_bytes()
    shard.write_bytes(first + b'{"id": "b", "te')
    reopen(tmp_path).append(PROMPTS[1])
    repaired = shard.read_bytes()
    for cut in range(len(first), len(repaired) + 1):
        shard.write_bytes(repaired[:cut])
        again = reopen(tmp_path)
        again.extend(PROMPTS)
        assert list(again) == PROMPTS, cut


@each_row("bad", ['{"id": "x", "text"', "null", "[1]", '{"text": "no id"}', '{"id": 3, "text": "x"}', ""])
def test_damage_in_the_middle_names_file_and_line(tmp_path: Path, bad: str) -> None:
    shard = tmp_path / "part-0.jsonl"
    shard.write_text(f'{{"id": "a", "text": "a", "tags": {{}}}}\n{bad}\n{{"id": "b", "text": "b", "tags": {{}}}}\n')
    with pytest.raises(RecordError, match=r"Line 2 of .*part-0\.jsonl"):
        reopen(tmp_path).ids()
    with pytest.raises(RecordError, match=r"Line 2 of .*part-0\.jsonl"):
        list(reopen(tmp_path))


def test_a_record_of_the_wrong_shape_names_file_line_and_field(tmp_path: Path) -> None:
    (tmp_path / "part-0.jsonl").write_text('{"id": "a", "text": "fine", "tags": {}}\n{"id": "b", "tags": {}}\n')
    with pytest.raises(RecordError, match=r"Line 2 .*no Prompt.*text"):
        list(reopen(tmp_path))
    with pytest.raises(RecordError, match=r"Line 2 "):
        list(reopen(tmp_path).select(["b"]))


def test_the_first_of_two_with_the_same_id_wins_across_shards(tmp_path: Path) -> None:
    for writer in (0, 1):
        (tmp_path / f"part-{writer}.jsonl").write_text(
            f'{{"id": "same", "text": "{writer}", "tags": {{}}}}\n{{"id": "own-{writer}", "text": "", "tags": {{}}}}\n'
        )
    assert [prompt.text for prompt in reopen(tmp_path) if prompt.id == "same"] == ["0"]
    assert next(reopen(tmp_path).select(["same"])).text == "0"
    assert len(reopen(tmp_path)) == 3
    before = (tmp_path / "part-1.jsonl").read_bytes()
    reopen(tmp_path, writer=1).append(Prompt("own-0", "another"))
    assert (tmp_path / "part-1.jsonl").read_bytes() == before


def test_every_writer_has_a_shard_named_by_its_rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank, prompt in enumerate(PROMPTS):
        monkeypatch.setenv("RANK", str(rank))
        reopen(tmp_path).append(prompt)
    assert sorted(path.name for path in tmp_path.glob("part-*")) == [f"part-{rank}.jsonl" for rank in range(3)]
    assert list(reopen(tmp_path)) == PROMPTS
    assert [prompt.id for prompt in reopen(tmp_path).select(["c", "a"])] == ["c", "a"]
    with pytest.raises(RecordError, match="no record z"):
        list(reopen(tmp_path).select(["z"]))


def test_what_others_write_meanwhile_is_seen(tmp_path: Path) -> None:
    mine = reopen(tmp_path, writer=0)
    assert mine.ids() == set()
    (tmp_path / "part-1.jsonl").write_text('{"id": "a", "text": "first", "tags": {}}\n{"id": "b", "te')
    assert mine.ids() == {"a"}
    reopen(tmp_path, writer=1).append(PROMPTS[1])
    mine.extend(PROMPTS)
    assert mine.ids() == {"a", "b", "c"}
    assert [prompt.text for prompt in mine.select(["b", "c"])] == [PROMPTS[1].text, PROMPTS[2].text]
    assert len((tmp_path / "part-0.jsonl").read_bytes().splitlines()) == 1


def test_other_settings_are_refused_with_keys_and_way_out(tmp_path: Path) -> None:
    made_with = {"judge": {"retries": 2, "batch": 8}, "judges": [{"use": "a"}]}
    reopen(tmp_path, settings=made_with).append(PROMPTS[0])
    reopen(tmp_path, settings=made_with)
    other = {"judge": {"retries": 3, "batch": 8}, "judges": [{"use": "a"}, {"use": "b"}]}
    with pytest.raises(RecordError, match=r"--redo judge") as caught:
        reopen(tmp_path, settings=other, stage="judge")
    assert "judge.retries was 2 and is now 3" in str(caught.value)
    assert "judges.1.use was '(nothing)' and is now 'b'" in str(caught.value)
    assert "batch" not in str(caught.value)


def test_records_of_unknown_making_are_refused(tmp_path: Path) -> None:
    reopen(tmp_path).append(PROMPTS[0])
    with pytest.raises(RecordError, match=r"no settings\.json"):
        reopen(tmp_path, settings={"a": 1}, stage="judge")
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(RecordError, match="cannot be read"):
        reopen(tmp_path, settings={"a": 1}, stage="judge")


def test_opening_writes_nothing(tmp_path: Path) -> None:
    records = reopen(tmp_path / "new", settings={"a": 1})
    assert records.ids() == set()
    assert not records.done
    assert list(tmp_path.iterdir()) == []
    records.mark_done()
    assert records.done
    assert (tmp_path / "new/settings.json").exists()


def test_every_kind_of_record_comes_back_and_may_be_moved(tmp_path: Path) -> None:
    run = tmp_path / "run"
    image, other = run / "round-1/candidates/images/a.png", run / "round-1/candidates/images/other.png"
    candidate = Candidate("a", PROMPTS[1], image, (64, 32), 7, "thought", reference=other)
    question = Question(image, "what?", (0.0, 0.25, 0.5, 1.0), seed=2**31 - 1)
    exchanges = (Exchange("judge", question, "said \ud800 verbatim\n"),)
    regions = (Region("1", (0.0, 0.0, 1.0, 1.0), "all"),)
    judgement = Judgement("a", regions, (Score(-0.5, "1"), Score(1.0)), exchanges, (Unreadable(0, "no", "1"),))
    Records(run / "round-1/candidates", Candidate).append(candidate)
    Records(run / "round-1/regions", Grounding).append(Grounding("a", regions, exchanges))
    Records(run / "round-1/judgements", Judgement).append(judgement)
    assert list(Records(run / "round-1/candidates", Candidate)) == [candidate]
    assert list(Records(run / "round-1/regions", Grounding)) == [Grounding("a", regions, exchanges)]
    assert list(Records(run / "round-1/judgements", Judgement)) == [judgement]
    stored = json.loads((run / "round-1/judgements/part-0.jsonl").read_bytes())
    assert stored["exchanges"][0]["question"]["image"] == "../candidates/images/a.png"
    run.rename(tmp_path / "moved")
    moved = next(iter(Records(tmp_path / "moved/round-1/candidates", Candidate)))
    assert moved.image == tmp_path / "moved/round-1/candidates/images/a.png"
    assert moved.reference == tmp_path / "moved/round-1/candidates/images/other.png"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(), max_size=4), st.data())
def test_any_words_survive_any_cut(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("words")
    prompts = [Prompt(str(i), text, {text: text}) for i, text in enumerate(texts)]
    reopen(folder).extend(prompts)
    if prompts:
        shard = folder / "part-0.jsonl"
        os.truncate(shard, data.draw(st.integers(0, shard.stat().st_size)))
    reopen(folder).extend(prompts)
    assert list(reopen(folder)) == prompts


def test_an_atomic_write_leaves_the_old_or_the_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "deep/file.json"
    write_atomic(path, "old")

    def power_cut(handle: int) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "fsync", power_cut)
    with pytest.raises(OSError, match="power cut"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    monkeypatch.undo()
    with path.open() as reader:
        write_atomic(path, b"new")
        assert reader.read() == "old"
    assert path.read_text() == "new"
    write_list(tmp_path / "prompts.jsonl", PROMPTS)
    assert read_list(tmp_path / "prompts.jsonl", Prompt) == PROMPTS


def test_memory_does_not_grow_with_the_size_of_records(tmp_path: Path) -> None:
    size, count = 100_000, 40
    records = reopen(tmp_path)
    for i in range(count):
        records.append(Prompt(str(i), "x" * size))
    tracemalloc.start()
    for _ in reopen(tmp_path):
        pass
    assert len(list(map(id, reopen(tmp_path).select(map(str, range(count)))))) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < count * size / 4


def test_every_line_is_read_once_however_often_is_appended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store of many records is opened in one pass, and an append looks at what is new only."""
    many, more = 500, 100
    reopen(tmp_path).extend(Prompt(str(number), "x") for number in range(many))
    read: list[str] = []
    parse = store._parse
    monkeypatch.setattr(store, "_parse", lambda *what: read.append(what[1]) or parse(*what))
    records = reopen(tmp_path)
    for number in range(many - 10, many + more):
        records.append(Prompt(str(number), "x"))
        assert str(number) in records
    assert "z" not in records
    assert len(records) == many + more
    assert len(read) == many + more


def test_memory_for_a_record_is_an_id_and_a_place(tmp_path: Path) -> None:
    count = 3000
    reopen(tmp_path).extend(Prompt(f"{number:020}", "x" * 2000) for number in range(count))
    records = reopen(tmp_path)
    tracemalloc.start()
    assert len(records) == count
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 500 * count
