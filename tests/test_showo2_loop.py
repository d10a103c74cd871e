"""The main job with Show-o2: `srum-train --adapter showo2 --checkpoint DIR`, from image to another image."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from adapter_runs import generated, same, stored_images
from showo2_layouts import CHECKPOINT, WEIGHTS, copied, sharded, stored, tied
from warm import shared

from srum_core.cli.main import main, train_main
from srum_core.runs.run import Run

pytestmark = pytest.mark.slow
TINY = [
    "adapter.device=cpu", "adapter.sampling.steps=3", "generate.limit=3", "train.steps=2", "train.warmup=0",
    "train.lr=1e-2", "train.max_cells=50", "answerer=scripted",
]  # fmt: skip


def words(folder: Path, *arguments: str, checkpoint: Path = CHECKPOINT) -> list[str]:
    return ["--adapter", "showo2", "--checkpoint", str(checkpoint), *TINY, *arguments, "--out", str(folder)]


def run(folder: Path, *arguments: str, checkpoint: Path = CHECKPOINT) -> Run:
    assert train_main(words(folder, *arguments, checkpoint=checkpoint)) == 0
    return Run.open(folder)


def changed(checkpoint: Path, base: Path = CHECKPOINT) -> set[str]:
    before, after = stored(base), stored(checkpoint)
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_the_whole_loop(tmp_path: Path) -> None:
    """generate, ground, judge, train the head, save, reload; then it generates something else."""
    done = run(tmp_path / "run")
    folder = done.round_folder(1)
    for stage in ("prompts.jsonl", "candidates", "regions", "judgements", "checkpoint", "metrics.jsonl"):
        assert (folder / stage).exists()
    assert done.settings.grounder.use == "grid"
    assert all(judged.scores and not judged.failures for judged in done.judgements(1))
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in metrics] == [1, 2]
    assert same(stored_images(done), generated(done, CHECKPOINT))
    assert not same(stored_images(done), generated(done, folder / "checkpoint"))
    names = changed(folder / "checkpoint")
    assert "diffusion_head_b.linear.weight" in names
    assert all(name.startswith(("diff_proj.", "diffusion_head_")) for name in names)


@pytest.mark.parametrize("train", ["stage-1", "all"])
def test_what_is_trained_is_a_setting(tmp_path: Path, train: str) -> None:
    done = run(tmp_path / "run", f"adapter.train={train}", "generate.limit=2")
    names = {name.split(".")[0] for name in changed(done.stage_folder("train", 1))}
    more = {"showo", "und_trans", "image_embedder_und", "position_embedding"} if train == "all" else set()
    stage = {"image_embedder_gen", "fusion_proj", "time_embed", "time_embed_proj"}
    assert names == {"diff_proj", "diffusion_head_a", "diffusion_head_b"} | stage | more
    assert "showo.lm_head.weight" not in changed(done.stage_folder("train", 1))


def test_another_form_of_the_layout_over_two_rounds(tmp_path: Path) -> None:
    """Shards, no output matrix; round 2 generates with round 1's weights."""
    checkpoint = sharded(tied(copied(tmp_path)))
    done = run(tmp_path / "run", "rounds=2", "generate.limit=2", "train.steps=1", checkpoint=checkpoint)
    first = done.stage_folder("train", 1)
    assert {path.name for path in first.iterdir()} >= {path.name for path in checkpoint.iterdir()}
    again = Run.open(done.folder)
    plan = again.planned(2)
    model = again.registry.create("adapter", again.settings.adapter, checkpoint=str(first))
    samples = model.generate([item.prompt.text for item in plan], [item.seed for item in plan])
    assert same(stored_images(done, 2), [np.asarray(sample.image) for sample in samples])


def test_low_rank_adapters_and_an_export(tmp_path: Path) -> None:
    """On the head's projections; merged, the export is a checkpoint by itself."""
    done = run(tmp_path / "run", "train.method=lora", "lora.rank=2")
    assert (done.stage_folder("train", 1) / "adapter_config.json").is_file()
    out = tmp_path / "out"
    assert main(["export", str(done.folder), "--out", str(out), "--to", "checkpoint"]) == 0
    names = changed(out)
    assert names
    assert all(name.startswith("diffusion_head_a.") and "_proj." in name for name in names)
    assert not same(stored_images(done), generated(done, out))
    assert (out / WEIGHTS).is_file()


def test_it_is_evaluated_without_training(tmp_path: Path) -> None:
    """`srum eval run`: what a row of Table 1 takes."""
    settings = ["--checkpoint", str(CHECKPOINT), "adapter.sampling.steps=3", "adapter.size=[32,32]"]
    benchmark = ["--benchmark", '{use="shapes", count=2}', "--out", str(tmp_path / "out")]
    assert main(["eval", "run", "--adapter", "showo2", *settings, *benchmark]) == 0
    assert list((tmp_path / "out").rglob("table.json"))


def lines(folder: Path) -> dict[str, list[str]]:
    """Metrics and records, byte for byte; shards may be written in any order."""
    return {
        str(path.relative_to(folder)): sorted(path.read_text().splitlines())
        for path in sorted(folder.rglob("*.jsonl"))
        if path.name != "speed.jsonl"
    }


@pytest.mark.parametrize("there", ["round-1/candidates/part-0.jsonl", "round-1/training/state.pt"])
def test_killed_and_resumed_gives_the_same(tmp_path: Path, there: str) -> None:
    settings = ["train.steps=3", "train.save_every=1", "generate.batch=1", "generate.limit=2"]
    whole, folder = run(tmp_path / "whole", *settings), tmp_path / "run"
    code = f"import sys; from srum_core.cli.main import train_main; sys.exit(train_main({words(folder, *settings)!r}))"

    def kill(process: int) -> None:
        while not (folder / there).exists() and Path(f"/proc/{process}/exe").exists():
            time.sleep(0.01)
        os.kill(process, signal.SIGKILL)

    assert shared().run(["-c", code], tmp_path, os.environ, kill).returncode == -signal.SIGKILL
    done = run(folder, *settings)
    assert lines(done.folder) == lines(whole.folder)
    ours, theirs = (stored(each.stage_folder("train", 1)) for each in (done, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
