"""The main job, for real: `srum-train --adapter bagel` on the bundled model and on a checkpoint directory."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from warm import shared

from srum_bagel.model import Bagel
from srum_bagel.options import Options
from srum_core.cli.main import train_main
from srum_core.runs.run import Run

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parent / "golden" / "bagel" / "checkpoint"
SHORT = [
    "--adapter", "bagel", "--preset", "shapes", "prompts=shapes:train:4", "evaluate.limit=4",
    "adapter.sampling.steps=4",
    "train.steps=3", "train.save_every=1", "generate.batch=4", "judge.batch=4", "judge.retries=1",
    "judges.0.max_new_tokens=60", "judges.1.max_new_tokens=120",
]  # fmt: skip
TINY = [
    "adapter.size=[64, 64]",
    "adapter.generation_sides=[64, 64]",
    "adapter.vision_sides=[56, 56]",
    "adapter.sampling.steps=3",
]


def run(folder: Path, *arguments: str) -> Path:
    assert train_main([*arguments, "--out", str(folder)]) == 0
    return folder


def what_a_repeat_must_give(folder: Path) -> dict[str, object]:
    """Metrics, tables and records byte for byte (records sorted: shards may be written in any order)."""
    out: dict[str, object] = {}
    for path in sorted(folder.rglob("*.jsonl")):
        if path.name != "speed.jsonl":
            out[str(path.relative_to(folder))] = sorted(path.read_text().splitlines())
    return out | {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("table.json"))}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("first") / "run", *SHORT)


def test_the_bundled_model_runs_the_whole_loop(first: Path) -> None:
    for stage in ("prompts.jsonl", "candidates", "regions", "judgements", "checkpoint", "evaluation", "metrics.jsonl"):
        assert (first / "round-1" / stage).exists()
    metrics = [json.loads(line) for line in (first / "round-1" / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in metrics] == [1, 2, 3]
    assert (first / "base" / "evaluation" / "tables" / "rules" / "table.json").is_file()


def test_the_same_command_twice_gives_the_same_metrics(first: Path, tmp_path: Path) -> None:
    assert what_a_repeat_must_give(run(tmp_path / "again", *SHORT)) == what_a_repeat_must_give(first)
    other = run(tmp_path / "other", *SHORT, "seed=1")
    assert what_a_repeat_must_give(other) != what_a_repeat_must_give(first)


@pytest.mark.slow
@pytest.mark.parametrize(
    "there", ["base/evaluation/images/part-0.jsonl", "round-1/candidates/part-0.jsonl", "round-1/training/state.pt"]
)
def test_killed_and_resumed_gives_the_same(first: Path, tmp_path: Path, there: str) -> None:
    """SIGKILL as soon as a file is there, that is in the middle of a stage or right after its first batch."""
    folder = tmp_path / "run"
    given = [*SHORT, "--out", str(folder)]
    code = f"import sys; from srum_core.cli.main import train_main; sys.exit(train_main({given!r}))"

    def kill(process: int) -> None:
        while not (folder / there).exists() and Path(f"/proc/{process}/exe").exists():
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)

    assert shared().run(["-c", code], tmp_path, os.environ, kill).returncode == -signal.SIGKILL
    assert what_a_repeat_must_give(run(folder, *SHORT)) == what_a_repeat_must_give(first)


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_checkpoint_directory_is_trained_and_loads_again(tmp_path: Path, method: str) -> None:
    folder = run(
        tmp_path / "run", "--adapter", "bagel", "--checkpoint", str(GOLDEN), "answerer=scripted", "generate.limit=3",
        "train.steps=2", "train.warmup=0", "train.lr=1e-3", f"train.method={method}", *TINY,
    )  # fmt: skip
    result = folder / "round-1" / "checkpoint"
    if method == "lora":
        assert (result / "adapter_config.json").is_file()
        assert (result / "adapter_model.safetensors").is_file()
        return
    with safe_open(GOLDEN / "ema.safetensors", "pt") as before, safe_open(result / "ema.safetensors", "pt") as after:
        assert set(before.keys()) == set(after.keys())
        changed = {key for key in before.keys() if not before.get_tensor(key).equal(after.get_tensor(key))}  # noqa: SIM118
    assert "llm2vae.weight" in changed
    assert not {key for key in changed if key.startswith(("vit_model", "connector", "language_model.lm_head"))}
    Bagel(Options(checkpoint=str(result), device="cpu"))


def test_sizes_follow_the_checkpoint() -> None:
    """With nothing set, a small checkpoint draws, encodes and looks at what its position tables hold."""
    model = Bagel(Options(checkpoint=str(GOLDEN), device="cpu"))
    most = model.denoiser.side
    assert model.grid(model.options.size) == (most, most)
    image = Image.new("RGB", (1500, 700), "red")
    assert max(model.encode([image])[0].shape[:2]) <= most
    assert len(model.look([image])[0]) <= model.eye.side**2


def test_a_model_that_cannot_speak_is_not_trained_on_guesses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Random weights answer nothing readable: the run stops with a sentence, and no failure became a score."""
    code = train_main([
        "--adapter", "bagel", "--checkpoint", str(GOLDEN), "generate.limit=2", "judge.retries=0",
        "judges.0.max_new_tokens=5", "judges.1.max_new_tokens=5", "judges.0.think=false", "judges.1.think=false",
        "--out", str(tmp_path / "run"), *TINY,
    ])  # fmt: skip
    assert code == 2
    assert "nothing to train on" in capsys.readouterr().err
    judged = [json.loads(line) for line in (tmp_path / "run/round-1/judgements/part-0.jsonl").read_text().splitlines()]
    assert all(each["failures"] and not each["scores"] for each in judged)


def test_round_one_draws_with_what_round_zero_has_learnt(tmp_path: Path) -> None:
    """Its stored images are those of round 1's checkpoint, and not those of the base."""
    folder = run(tmp_path / "run", *SHORT, "rounds=2", "train.lr=1e-3", "train.warmup=0", "evaluate.before=false")
    taken = Run.open(folder)
    plan = taken.planned(2)
    images = folder / "round-2" / "candidates" / "images"
    stored = [np.asarray(Image.open(images / f"{item.id}.png")) for item in plan]

    def generated(checkpoint: str) -> list[np.ndarray]:
        model = taken.registry.create("adapter", taken.settings.adapter, checkpoint=checkpoint)
        some = [plan[start : start + 4] for start in range(0, len(plan), 4)]  # as the run did: sizes of batches show
        samples = [model.generate([i.prompt.text for i in each], [i.seed for i in each]) for each in some]
        return [np.asarray(sample.image) for each in samples for sample in each]

    trained, base = generated(str(folder / "round-1" / "checkpoint")), generated("bundled:shapes")
    assert all((a == b).all() for a, b in zip(stored, trained, strict=True))
    assert any((a != b).any() for a, b in zip(stored, base, strict=True))
