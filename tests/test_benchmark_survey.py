"""`srum eval prompts`: what is there of a benchmark's prompts, what is missing, and what is not the release's."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import huggingface_hub
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
from rows import each_row

from srum_benchmarks.compbench import prompts as compbench
from srum_benchmarks.reasonbench import prompts as reasonbench
from srum_benchmarks.wise.prompts import LEGACY, VERIFIED
from srum_core.cli.main import main
from srum_core.evaluation.commands import prompts as fetching


def message(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
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
    code, text = message(capsys, tmp_path)
    assert code == 0
    for name in ("wise", "wise-verified", "geneval", "reasonbench"):
        assert f'{name}: complete. Use it with benchmark={{use="{name}", data="{tmp_path}"}}.' in text
    assert "compbench" not in text
    assert "shapes" not in text


def test_what_is_missing_is_named_with_its_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, text = message(capsys, compbench_folder(tmp_path))
    assert code == 1
    assert "compbench: train_comp.json is missing. It is part of WayneJin0918/SRUM at a53ba18." in text
    assert "prompt 1999 is not the one of WayneJin0918/SRUM at a53ba18" in text
    assert "complete" not in text


def test_the_other_format_and_its_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    texts = compbench_texts(tmp_path)
    code, text = message(capsys, texts)
    assert code == 1
    assert f"{compbench.TEST['color'].text.places[0]} is missing" not in text
    assert "train_comp.json is missing" in text


def test_a_benchmark_that_is_asked_for_is_told_about_whatever_is_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = message(capsys, tmp_path, "--benchmark", "reasonbench")
    assert code == 1
    assert text.count("is missing. It is part of KaiyueSun98/T2I-ReasonBench at efc1d20.") == 8
    code, text = message(capsys, tmp_path, "--benchmark", "geneval")
    assert (code, text.count("is missing")) == (1, 1)


def test_files_that_cannot_be_read_or_do_not_fit_together_are_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    reasonbench_folder(tmp_path)
    write(tmp_path / reasonbench.DIMENSIONS["idiom"].criteria.places[0], [])
    code, text = message(capsys, tmp_path)
    assert code == 1
    assert "holds 0 prompts; the release has 200" in text
    reasonbench_folder(tmp_path)
    (tmp_path / reasonbench.DIMENSIONS["idiom"].prompts.places[0]).write_text("[{")
    assert "idiom_interpretation.json is not JSON" in message(capsys, tmp_path)[1]
    reasonbench_folder(tmp_path)
    path = tmp_path / reasonbench.DIMENSIONS["idiom"].prompts.places[0]
    path.write_text(path.read_text().replace('"id": 9,', '"id": 900,'))
    code, text = message(capsys, tmp_path)
    assert code == 1
    assert "has no questions about id 900" in text


@each_row(
    "arguments, sentence",
    [
        (("nowhere",), "nowhere is not a folder, not a git address"),
        ((".",), "holds no prompt file of a known benchmark (compbench, geneval"),
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
    code, text = message(capsys, *arguments)
    assert code == 2
    assert sentence in " ".join(text.split())


# ---- repositories ----------------------------------------------------------------------------------------------------


@pytest.fixture
def repository(tmp_path: Path) -> str:
    """A git repository of GenEval's prompts in two states: the release, tagged "good", and one with a prompt less."""
    origin = tmp_path / "djghosh13" / "geneval"
    geneval_folder(origin)
    (origin / "weights.pth").touch()
    who = ["-c", "user.name=n", "-c", "user.email=e@x"]
    path = origin / "prompts" / "evaluation_metadata.jsonl"
    for words in (["init", "-q"], ["add", "."], [*who, "commit", "-qm", "one"], ["tag", "good"]):
        subprocess.run(["git", "-C", str(origin), *words], check=True)
    path.write_text(path.read_text().split("\n", 1)[1])
    subprocess.run(["git", "-C", str(origin), *who, "commit", "-qam", "two"], check=True)
    return origin.as_uri()


def test_a_git_repository_is_cloned_in_the_state_that_is_asked_for_and_once(
    repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    monkeypatch.chdir(tmp_path)
    code, text = message(capsys, repository, "--revision", "good")
    assert (code, 'data="checkouts/geneval"' in text) == (0, True)
    assert not list((tmp_path / "checkouts").glob(".*"))
    assert [path.name for path in (tmp_path / "checkouts/geneval").iterdir() if path.name != ".git"] == ["prompts"]
    monkeypatch.setattr(fetching, "_clone", lambda *_: pytest.fail("cloned again"))
    assert message(capsys, repository, "--revision", "good") == (code, text)
    monkeypatch.undo()
    believed(monkeypatch)
    code, text = message(capsys, repository, "--revision", "HEAD", "--to", tmp_path / "new")
    assert code == 1
    assert "holds 552 prompts; the release has 553" in text


def test_a_repository_that_is_known_is_got_as_it_was_looked_at(
    repository: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = message(capsys, repository)
    assert code == 2
    assert f"{repository} has no revision af4902f" in text  # this one is not the real one
    assert not (tmp_path / "checkouts" / "geneval").exists()


def test_what_cannot_be_downloaded_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = message(capsys, (tmp_path / "none").as_uri())
    assert (code, "cannot be cloned" in text, "Check the network" in text) == (2, True, True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, text = message(capsys, "somebody/prompts")
    assert code == 2
    assert "not a data set that could be downloaded from the Hugging Face hub" in text
    assert "or download the files in another way and name the folder." in text
    monkeypatch.setenv("PATH", "")
    assert "git is not installed" in message(capsys, "https://localhost/x/y.git")[1]
    assert not list(tmp_path.rglob("*.json"))


def test_a_data_set_of_the_hub_is_downloaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    believed(monkeypatch)
    monkeypatch.chdir(tmp_path)
    asked: list[dict[str, Any]] = []

    def download(repository: str, **asks: Any) -> str:
        asked.append({"repository": repository, **asks})
        return str(geneval_folder(asks["local_dir"]))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    code, text = message(capsys, "somebody/prompts", "--revision", "v1")
    assert (code, 'data="checkouts/prompts"' in text) == (0, True)
    (one,) = asked
    assert (one["repository"], one["repo_type"], one["revision"]) == ("somebody/prompts", "dataset", "v1")
    assert "*.jsonl" in one["allow_patterns"]
