"""`srum eval prompts`: what is there of a benchmark's prompts, what is missing, and what is not the release's."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_data import (
    believed,
    compbench_folder,
    compbench_texts,
    geneval_folder,
    reasonbench_folder,
    wise_folder,
    write,
)

from srum_benchmarks.compbench import prompts as compbench
from srum_benchmarks.reasonbench import prompts as reasonbench
from srum_benchmarks.wise.prompts import LEGACY, VERIFIED
from srum_core.cli import main


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    code = main(["eval", "prompts", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out + captured.err


def test_a_complete_folder_can_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    wise_folder(wise_folder(tmp_path, LEGACY), VERIFIED)
    geneval_folder(tmp_path)
    reasonbench_folder(tmp_path)
    code, text = told(capsys, tmp_path)
    assert code == 0
    for name in ("wise", "wise-verified", "geneval", "reasonbench"):
        assert f'{name}: complete. Use it with benchmark={{use="{name}", data="{tmp_path}"}}.' in text
    assert "compbench" not in text
    assert "shapes" not in text


def test_what_is_missing_is_named_with_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = told(capsys, compbench_folder(tmp_path))
    assert code == 1
    assert "compbench: train_comp.json is missing. It is part of WayneJin0918/SRUM at a53ba18." in text
    assert "prompt 1999 is not the one of WayneJin0918/SRUM at a53ba18" in text
    assert "complete" not in text


def test_the_other_format_and_its_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    texts = compbench_texts(tmp_path)
    code, text = told(capsys, texts)
    assert code == 1
    assert f"{compbench.expected_text('test', 'color').places[0]} is missing" not in text
    assert "train_comp.json is missing" in text


def test_a_benchmark_that_is_asked_for_is_told_about_whatever_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = told(capsys, tmp_path, "--benchmark", "reasonbench")
    assert code == 1
    assert text.count("is missing. It is part of KaiyueSun98/T2I-ReasonBench at efc1d20.") == 8
    code, text = told(capsys, tmp_path, "--benchmark", "geneval")
    assert (code, text.count("is missing")) == (1, 1)


def test_files_that_cannot_be_read_or_do_not_fit_together_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    reasonbench_folder(tmp_path)
    write(tmp_path / reasonbench.DIMENSIONS["idiom"].criteria.places[0], [])
    code, text = told(capsys, tmp_path)
    assert code == 1
    assert "holds 0 prompts; the release has 200" in text
    reasonbench_folder(tmp_path)
    (tmp_path / reasonbench.DIMENSIONS["idiom"].prompts.places[0]).write_text("[{")
    assert "idiom_interpretation.json is not JSON" in told(capsys, tmp_path)[1]
    reasonbench_folder(tmp_path)
    path = tmp_path / reasonbench.DIMENSIONS["idiom"].prompts.places[0]
    path.write_text(path.read_text().replace('"id": 9,', '"id": 900,'))
    code, text = told(capsys, tmp_path)
    assert code == 1
    assert "has no questions about id 900" in text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("nowhere",), "nowhere is no folder here"),
        ((".",), "holds no prompt file of a benchmark that is known here (compbench, geneval"),
        ((".", "--benchmark", "shapes"), 'The benchmark "shapes" reads no prompts from a folder'),
        ((".", "--benchmark", "wice"), "wise"),
    ],
)
def test_where_there_is_nothing_to_look_at(
    arguments: tuple[str, ...],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = told(capsys, *arguments)
    assert code == 2
    assert sentence in " ".join(text.split())
