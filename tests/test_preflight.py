"""What would stop a run is found before its first image, all at once, and by --dry-run too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from rows import each_row
from toy import COMPONENTS, ToyJudge

from srum_core.cli import main
from srum_core.cli.main import train_main
from srum_core.records import Score
from srum_core.training import trackers

BAGEL = ("--adapter", "bagel", "--preset", "shapes")
BLIP3O = ("--adapter", "blip3o", "--preset", "shapes")
BUNDLED = Path(__file__).parent.parent / "adapters"


@pytest.fixture(autouse=True)
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder, an empty cache, and no packages beyond the plain installation."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    for package in ("wandb", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: None)
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 0)


def partial(adapter: str, *left_out: str) -> str:
    """A copy of a bundled checkpoint that lacks some files."""
    for path in (BUNDLED / f"srum_{adapter}" / "shapes").iterdir():
        Path("partial").mkdir(exist_ok=True)
        if path.name not in left_out:
            Path("partial", path.name).symlink_to(path)
    return "adapter.checkpoint=partial"


FAULTS = [
    ((*BAGEL, "train.trackers=['wandb']"), "package wandb is not installed"),
    ((*BAGEL, "train.optimizer=adamw8bit"), "needs the package bitsandbytes"),
    ((*BAGEL, "train.optimizer=adamw8bit", "--launch", "fsdp2"), "does not work on sharded weights"),
    ((*BAGEL, "adapter.offload=cpu", "--launch", "fsdp2"), "adapter.offload=cpu works with one process"),
    ((*BAGEL, "adapter.offload=cpu", "--launch", "ddp"), "Leave out --launch"),
    ((*BAGEL, "adapter.device_map=auto", "--launch", "ddp"), "uses all accelerators from one process"),
    ((*BAGEL, "adapter.device_map=auto", "adapter.offload=cpu"), "cannot be used together"),
    ((*BAGEL, "adapter.quantize=nf4"), "adapter.quantize=nf4 needs the package bitsandbytes"),
    ((*BAGEL, "--checkpoint", "nowhere"), "nowhere is neither a directory here nor a repository"),
    ((*BAGEL, "--checkpoint", "/nowhere/at/all"), "/nowhere/at/all is neither a directory here"),
    ((*BAGEL, "--checkpoint", "/nowhere"), "/nowhere is neither a directory here"),
    ((*BAGEL, "--checkpoint", "./nowhere"), "nowhere is neither a directory here"),
    ((*BAGEL, "adapter.device=meta"), "meta"),
    ((*BAGEL, "--checkpoint", "bundled:shaped"), "no such bundled model"),
    ((*BAGEL, "adapter.device=gpu"), 'adapter.device="gpu" is not known to torch'),
    ((*BAGEL, "adapter.device=cuda"), 'adapter.device="cuda" is not available'),
    ((*BAGEL, "adapter.size=[33,31]"), "33x31 cannot be generated"),
    ((*BAGEL, "adapter.think_template=nowhere.txt"), "nowhere.txt"),
    (("--adapter", "bagel", "grounder=grid"), "this machine has no accelerator"),
    ((*BLIP3O, "adapter.size=[33,31]"), "33x31 cannot be generated"),
    ((*BLIP3O, "adapter.decoder=nowhere"), "nowhere has no unet"),
    ((*BAGEL, "prompts=nowhere.txt"), "neither a list that an installed plugin knows"),
    ((*BAGEL, "benchmark={use='wise', data='nowhere'}"), 'data = "nowhere"'),
    ((*BAGEL, "answerer={use='local', checkpoint='nowhere'}"), "answerer.checkpoint=nowhere is neither"),
    ((*BAGEL, "answerer={use='local', checkpoint='.'}"), "answerer.checkpoint=. could not be loaded"),
    ((*BAGEL, "answerer=remote"), "OPENAI_BASE_URL"),
    ((*BAGEL, "judges=[{use='zoom', template='mine.txt'}]"), 'template "mine.txt" is neither'),
    ((*BAGEL, "grounder=sam"), "sam_vit_h_4b8939.pth"),
    ((*BAGEL, "start=nowhere"), "nowhere is not the folder of a run"),
]


@each_row("typed, message", FAULTS)
def test_what_would_stop_a_run_is_told_before_its_first_image(
    typed: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for dry, status in ((["--dry-run"], 1), ([], 2)):
        assert train_main([*typed, "--out", "run", *dry]) == status
        assert message in capsys.readouterr().err
    assert not list(Path("run").glob("[!.]*"))


@pytest.mark.parametrize(
    ("adapter", "file", "message"),
    [
        ("bagel", "ema.safetensors", "holds no ema.safetensors or model.safetensors"),
        ("bagel", "ae.safetensors", "holds no ae.safetensors"),
        ("bagel", "vit_config.json", "has no vit_config.json"),
        ("blip3o", "model.safetensors", "holds no model.safetensors"),
        ("blip3o", "diffusion-decoder", "has no unet"),
        ("blip3o", "eva_clip_vision_tower", "feature tower"),
    ],
)
def test_a_checkpoint_that_is_incomplete(
    adapter: str, file: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--adapter", adapter, "--preset", "shapes", partial(adapter, file), "--dry-run"]
    assert train_main(given) == 1
    assert message in capsys.readouterr().err


class Looks(ToyJudge):
    """Loads a model of its own when it is made."""

    def __init__(self) -> None:
        raise AssertionError("it was made")

    def score_many(self, candidates: object, regions: object) -> list[list[Score]]:
        return []


def test_a_judge_with_a_model_of_its_own_is_not_made_for_it() -> None:
    assert train_main([*BAGEL, "judges='test_preflight:Looks'", "--dry-run"]) == 0


def test_everything_is_told_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    faults = ["train.trackers=['wandb']", "prompts=nowhere.txt", "grounder=sam", "adapter.size=[33,31]"]
    assert train_main([*BAGEL, *faults, "--out", "run"]) == 2
    said = capsys.readouterr().err
    assert all(word in said for word in ("wandb", "nowhere.txt", "sam_vit_h", "33x31"))
    assert len(said.strip().splitlines()) == 5


@pytest.mark.parametrize("typed", [(*BAGEL,), (*BLIP3O,), ("--adapter", "bagel", "--checkpoint", "some/where")])
def test_a_run_that_would_start(typed: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    """Also with a checkpoint that may be on the hub: nothing is downloaded to find out."""
    assert train_main([*typed, "--dry-run"]) == 0
    assert "would not start" not in capsys.readouterr().err


def test_no_hub_may_be_asked(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert train_main(["--adapter", "bagel", "--checkpoint", "some/where", "--dry-run"]) == 1
    assert "some/where is neither a directory here" in capsys.readouterr().err


def test_only_what_the_steps_need_is_looked_at() -> None:
    parts = [part for part in COMPONENTS if not part.startswith(("grounder", "benchmark"))]
    assert train_main([*parts, "grounder=sam", "--dry-run", "--only", "train"]) == 0
    assert train_main([*parts, "train.trackers=['wandb']", "--dry-run", "--only", "generate"]) == 0


def test_nothing_is_deleted_for_a_run_that_cannot_start(tmp_path: Path) -> None:
    there = tmp_path / "run" / "round-1" / "judgements" / "DONE"
    there.parent.mkdir(parents=True)
    there.touch()
    assert train_main([*BAGEL, "train.trackers=['wandb']", "--out", "run", "--redo", "judge"]) == 2
    assert there.exists()


@pytest.mark.parametrize("action", ["run", "generate"])
@each_row(
    "typed, message",
    [
        (("adapter.checkpoint=nowhere",), "nowhere is neither"),
        (("adapter.size=[33,31]",), "33x31"),
        (("adapter.device=gpu",), '"gpu" is not known'),
        (("--benchmark", "{use='wise', data='nowhere'}"), 'data = "nowhere"'),
    ],
)
def test_an_evaluation_too(
    action: str, typed: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["eval", action, *BAGEL, "--benchmark", "shapes", *typed, "--out", "run"]
    assert main.main([*given, "--dry-run"]) == 1
    assert message in capsys.readouterr().err
    assert main.main(given) == 2
    assert message in capsys.readouterr().err
    assert not list(Path("run").glob("[!.]*"))


def test_an_ablation_too(capsys: pytest.CaptureFixture[str]) -> None:
    given = ["ablate", *BAGEL, "--arms", "paper", "--dry-run", "--out", "run"]
    assert main.main(given) == 0
    assert main.main([*given, "train.trackers=['wandb']"]) == 1
    assert "would not start: train.trackers names" in capsys.readouterr().err
