"""The method as the paper describes it, from one command: SAM proposes, the answerer verifies and judges."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from attrs import evolve
from safetensors.torch import load_file
from test_sam import PERMISSIVE, small_sam

from srum_core.cli.main import train_main
from srum_core.config import load_settings
from srum_core.config.settings import Settings
from srum_core.plugins import discover
from srum_core.runs.run import Run

GOLDEN = Path(__file__).parent / "golden" / "bagel" / "checkpoint"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.txt"
    things = ("cup", "boat", "lamp", "dog", "tree", "hat", "bowl", "kite")
    path.write_text("".join(f"a red {thing} left of a blue plate\n" for thing in things), encoding="utf-8")
    return path


@pytest.mark.slow
def test_sam_verification_and_the_rules_in_one_run(tmp_path: Path, words: Path) -> None:
    torch.save(small_sam().state_dict(), tmp_path / "sam.pth")
    arguments = [
        *("--adapter", "bagel", "--preset", "paper", "--checkpoint", str(GOLDEN), "--out", str(tmp_path / "run")),
        *(f"prompts={words}", "answerer=scripted", f"grounder.checkpoint={tmp_path / 'sam.pth'}", "grounder.top=3"),
        *(f"grounder.{name}={value}" for name, value in PERMISSIVE.items()),
        *("grounder.masks=true", "adapter.think_tokens=4", "adapter.sampling.steps=3", "adapter.size=[96, 64]"),
        *("lora.rank=2", "train.warmup=1", "train.steps=2", "train.max_cells=64"),
    ]
    assert train_main(arguments) == 0
    run = Run.open(tmp_path / "run")
    groundings, judgements = list(run.groundings(1)), list(run.judgements(1))
    assert all(1 <= len(each.regions) <= 3 and not each.failures and not each.unverified for each in groundings)
    assert all(region.mask is not None for each in groundings for region in each.regions)
    assert {each.asked_by for grounding in groundings for each in grounding.exchanges} == {"verify-boxes"}
    assert all(candidate.thought for candidate in run.candidates(1))
    scores = [score for each in judgements for score in each.scores]
    assert all(not each.failures for each in judgements)
    assert {score.judge for score in scores} == {"global-layout", "local-regions"}
    # The stand-in sees "something" everywhere, which no prompt names: nothing may earn more than the neutral band.
    assert max(score.value for score in scores if score.region) <= 0.4
    assert any("Semantic grounding" in rule for score in scores for rule in score.rules)
    assert load_file(run.stage_folder("train", 1) / "adapter_model.safetensors")


def test_without_sams_checkpoint_it_stops_before_it_draws(
    tmp_path: Path, words: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "empty"))
    out = tmp_path / "run"
    arguments = [
        "--adapter",
        "bagel",
        "--preset",
        "paper",
        "--checkpoint",
        str(GOLDEN),
        f"--out={out}",
        f"prompts={words}",
    ]
    assert train_main([*arguments, "answerer=scripted"]) == 2
    assert "sam_vit_h_4b8939.pth" in capsys.readouterr().err
    assert not (out / "round-1").exists()


@pytest.mark.parametrize("adapter", ["bagel", "blip3o", "omnigen2", "showo2"])
def test_the_preset_advantage_changes_the_map_and_the_losses_weight_alone(adapter: str) -> None:
    registry = discover()

    def read(*presets: str) -> Settings:
        return load_settings(adapter, presets, None, (), registry)

    first = ("paper",) if adapter in ("bagel", "showo2") else ()
    plain, ours = read(*first), read(*first, "advantage")
    assert (plain.map.use, plain.map.options["outside"], plain.loss.options["constraint"]) == ("paper", "value", 0.5)
    assert ours.map.use == "advantage"
    assert ours.loss.options["constraint"] == 0.3
    assert evolve(ours, map=plain.map, loss=plain.loss) == plain
