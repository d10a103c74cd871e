"""Who answers: the model itself, another adapter, or an answerer; and what is checked before anything is drawn."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_stages import WORDS, make
from toy import COMPONENTS, ToyModel

from srum_core import plugins
from srum_core.cli.main import train_main
from srum_core.config import load_settings
from srum_core.errors import ConfigError, RecordError
from srum_core.options import Use
from srum_core.stages import preflight
from srum_core.stages.chunks import Step

GOLDEN = Path(__file__).parent / "golden" / "bagel" / "checkpoint"
SHAPES = {
    "checkpoint": "bundled:shapes", "dtype": "float32", "size": [32, 32], "generation_sides": [32, 32],
    "vision_sides": [32, 32],
}  # fmt: skip


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    path.write_text("\n".join(WORDS[:2]) + "\n")
    return path


def test_the_model_itself_answers_unless_somebody_else_is_named(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts)
    assert isinstance(run.answerer(0), ToyModel)
    assert run.answerer(0) is run.model(0)


def test_another_adapter_can_answer(tmp_path: Path, prompts: Path) -> None:
    registry = plugins.discover()
    settings = load_settings(
        "toy:ToyModel", (), None, [f"answerer={{use = 'bagel', checkpoint = '{GOLDEN}'}}"], registry
    )
    assert settings.answerer is not None
    assert settings.answerer.options["sampling"]["steps"] == 50  # its options are checked and filled in
    run = make(tmp_path / "run", prompts, answerer=Use("bagel", SHAPES))
    assert type(run.answerer(0)).__name__ == "Bagel"
    assert isinstance(run.model(0), ToyModel)


def test_an_unknown_answerer_is_told_of_both_kinds() -> None:
    with pytest.raises(
        ConfigError, match=r'the answerer "scriptd"\. Did you mean "scripted"\? There are bagel, .*remote'
    ):
        load_settings("toy:ToyModel", (), None, ["answerer=scriptd"], plugins.discover())


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("judges=[{use='local-regions', template='nowhere.txt'}]", 'template "nowhere.txt" is neither'),
        ("grounder={use='file', path='nowhere.json'}", "nowhere.json"),
        ("verifier={use='verify-boxes', template='nowhere.txt'}", 'template "nowhere.txt" is neither'),
        ("answerer={use='remote', model='m'}", "OPENAI_BASE_URL"),
    ],
)
def test_what_is_missing_stops_a_run_before_it_draws(
    setting: str,
    message: str,
    tmp_path: Path,
    prompts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    parts = [part for part in COMPONENTS if not part.startswith(setting.split("=")[0])]
    out = tmp_path / "run"
    assert train_main([*parts, f"prompts={prompts}", "evaluate.before=false", f"--out={out}", setting]) == 2
    assert message in capsys.readouterr().err
    assert not (out / "round-1").exists()


def test_two_judges_of_one_kind_are_told_apart(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, judges=(Use("zoom"), Use("toy:ToyJudge"), Use("zoom", {"margin": 0.5})))
    assert [name for name, _ in run.judges()] == ["zoom", "toy:ToyJudge", "zoom 2"]


def test_a_judge_that_cannot_be_made_is_named(tmp_path: Path, prompts: Path) -> None:
    run = make(tmp_path / "run", prompts, judges=(Use("no_such_module:Judge"),))
    (message,) = preflight.problems(run, [Step("judge", 1)])
    assert "no_such_module" in message


def test_a_run_goes_on_at_another_address_but_not_with_another_model(tmp_path: Path, prompts: Path) -> None:
    def asking(**options: object) -> Use:
        return Use("remote", {"model": "eye", "url": "http://localhost:1/v1", "cache": "off", **options})

    run = make(tmp_path / "run", prompts, answerer=asking())
    run.judgements(1).mark_done()
    make(run.folder, prompts, answerer=asking(url="http://localhost:2/v1", concurrency=3, timeout=5.0)).check()
    with pytest.raises(RecordError, match=r"answerer.model was 'eye' and is now 'other'"):
        make(run.folder, prompts, answerer=asking(model="other")).check()
