"""Deliberate mistakes in the product, to see whether the fast tests notice them.

    python tests/breakages.py [--only NAME ...]

Each mistake is made by itself in a temporary copy of the working tree, in which the test files that should go red then
run, up to the first failure. At the end all tests that went red must pass in the copy without any mistake.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from warm import shared

ROOT = Path(__file__).parents[1]
PATHS = ("", "adapters", "judges", "losses", "benchmarks")
"""Where the packages are, below the root."""


class Breakage(NamedTuple):
    """A mistake: `text`, which the file holds once, becomes `replacement`."""

    name: str
    file: str
    tests: str
    """Names of the files in tests/ that should go red, without test_ and .py."""
    text: str
    replacement: str


BREAKAGES = [
    # ---- records, flow, options ----
    Breakage("iou counts the common area twice", "srum_core/records.py", "native sam",
             "return common / (area(one) + area(other) - common)", "return common / (area(one) + area(other))"),
    Breakage("boxes are read in the stored size, whatever the model sees", "srum_core/records.py", "native judges",
             "boxes.unit, boxes.seen or candidate.size", "boxes.unit, candidate.size"),
    Breakage("the velocity's target has the wrong sign", "srum_core/flow.py", "flow",
             "target = [eps - x for", "target = [x - eps for"),
    Breakage("times are rounded down to their level", "srum_core/flow.py", "flow golden/blip3o_training",
             "(time * self.levels).ceil()", "(time * self.levels).floor()"),
    Breakage("a reference image is not pulled towards", "srum_core/flow.py", "flow",
             "own if pull is None else eps - pull.to(eps)", "own"),
    Breakage("true passes for a number", "srum_core/options.py", "config",
             "if type(value) not in (int, float):", "if not isinstance(value, int | float):"),
    # ---- settings ----
    Breakage("the configuration file wins over the command line", "srum_core/config/load.py", "config",
             "between, file, line]", "between, line, file]"),
    Breakage("another component keeps the options of the one before", "srum_core/config/load.py", "config",
             "len(uses) == 2 and uses[0] != uses[1]", "len(uses) == 2 and uses[0] is None"),
    Breakage("a round may change any option of the adapter", "srum_core/config/load.py", "rounds",
             "if path[1:] and (path[1] in free or", "if path[1:] and (path[1] in known or"),
    # ---- plugins ----
    Breakage("a clash of two plugins is settled silently", "srum_core/plugins/registry.py", "plugins",
             "if len(offers) == 1:\n            return offers[0]", "if offers:\n            return offers[0]"),
    Breakage("a plugin that failed at an event is called again", "srum_core/plugins/registry.py", "plugins",
             "self._silenced.add((event, hook.plugin))", "self._silenced.discard((event, hook.plugin))"),
    # ---- runs ----
    Breakage("a torn last line is not fenced off", "srum_core/runs/store.py", "store",
             "data = _FENCE + data", 'data = b"\\n" + data'),
    Breakage("a setting that is gone does not count as a difference", "srum_core/runs/store.py", "store integrity",
             "for key in sorted(old.keys() | new.keys())", "for key in sorted(new.keys())"),
    Breakage("all rounds draw from the same seeds", "srum_core/runs/run.py", "run",
             "self.derive_seed(purpose, None if round is None else round - 1, *what)",
             "self.derive_seed(purpose, *what)"),
    Breakage("redo leaves the rounds that follow", "srum_core/runs/run.py", "run rounds",
             "if k >= round), reverse=True)", "if k == round), reverse=True)"),
    Breakage("prompts that were written down are read anew", "srum_core/runs/run.py", "run stages",
             "return read_list(path, Prompt)", "pass"),
    Breakage("options for speed make another run", "srum_core/runs/run.py", "run stages rounds",
             "if name not in speed}", "if name}"),
    # ---- stages ----
    Breakage("a chunk that was begun counts as finished", "srum_core/stages/chunks.py", "stages",
             "if not there.issuperset(chunk)]", "if there.isdisjoint(chunk)]"),
    Breakage("global generators are not seeded for a chunk", "srum_core/stages/chunks.py", "stages",
             "in missing:\n            seed_everything(run.round_seed(step.stage, step.round, chunk[0]))",
             "in missing:"),
    Breakage("every round generates with the base model", "srum_core/stages/generate.py", "rounds stages",
             "generate_images(run.sampler(round - 1), items", "generate_images(run.sampler(0), items"),
    Breakage("near-duplicates are kept", "srum_core/stages/ground.py", "grounding stages",
             "near_duplicate(region.box, unique, threshold)", "near_duplicate(region.box, [], threshold)"),
    # ---- the interview ----
    Breakage("a retry has the seed of the first try", "srum_core/stages/interview.py", "interview",
             "self.name, index, times, *([vote]", "self.name, index, 1, *([vote]"),
    Breakage("one retry too few", "srum_core/stages/interview.py", "interview",
             "vote[i].times <= retries and", "vote[i].times < retries and"),
    Breakage("a minority of readable votes decides", "srum_core/stages/interview.py", "interview",
             "if 2 * len(read) < count:", "if not read:"),
    Breakage("doubt lowers negative scores", "srum_core/stages/interview.py", "interview",
             "value = middle * (1 - doubt * spread)", "value = middle - doubt * spread"),
    # ---- training ----
    Breakage("batches weigh alike, whatever their areas", "srum_core/training/trainer.py", "train",
             "loss * (cells * world / total)", "loss * (world / len(step))"),
    Breakage("the warm-up begins with a step that changes nothing", "srum_core/training/trainer.py", "train",
             "rate = settings.lr * min(1.0, (self.done + 1) / max(self.warmup, 1))",
             "rate = settings.lr * min(1.0, self.done / max(self.warmup, 1))"),
    Breakage("an image has the same noise in every step", "srum_core/training/trainer.py", "train",
             'round_seed("noise", self.round, self.done, index)', 'round_seed("noise", self.round, index)'),
    Breakage("text is never dropped", "srum_core/training/trainer.py", "train",
             "generator=rng) < self.settings.text_dropout", "generator=rng) < 0"),
    Breakage("a resumed training averages from where it stands", "srum_core/training/trainer.py", "optimizers",
             'lora.copy_into(self.average.weights, state["average"], path)', "pass"),
    Breakage("a log keeps the lines behind the saved state", "srum_core/training/checkpoint.py", "optimizers",
             "os.truncate(self.path, size)", "pass"),
    Breakage("a guard of 0 stops at once", "srum_core/training/metrics.py", "train",
             "if not self.factor or error <= self.factor * usual:", "if error <= self.factor * usual:"),
    Breakage("a latent of another adapter is taken from the cache", "srum_core/training/latent_cache.py", "latents",
             "hashlib.sha256(self.made_by.encode())", "hashlib.sha256()"),
    Breakage("batches stay one image below the budget", "srum_core/training/batching.py", "packing",
             "largest * (len(batches[-1]) + 1) > budget:", "largest * (len(batches[-1]) + 1) >= budget:"),
    Breakage("the average starts at its full decay", "srum_core/training/lora.py", "tuning train",
             "decay = min(self.decay, (1 + step) / (10 + step))", "decay = self.decay"),
    Breakage("centred scores are standardised too", "srum_core/training/selection.py", "selection",
             'fmean(values), deviation if how == "standardise" else 1.0', "fmean(values), deviation"),
    Breakage("a group's mean leaves out what was filtered", "srum_core/training/selection.py", "selection",
             "for pair in relative(pairs, settings.relative)", "for pair in relative(right, settings.relative)"),
    # ---- losses and maps ----
    Breakage("lambda is ignored", "losses/srum_losses/objectives.py", "losses",
             "total = reward + self.constraint * reference", "total = reward + reference"),
    Breakage("the bounded loss bends below the usual error too", "losses/srum_losses/objectives.py", "losses",
             "excess = (error - usual).clamp(min=0)", "excess = error - usual"),
    Breakage("negative-aware shares are not brought to [0, 1]", "losses/srum_losses/objectives.py", "losses",
             "share = (_weights(step) + 1) / 2", "share = _weights(step)"),
    Breakage("alpha is the global score itself", "losses/srum_losses/maps.py", "maps",
             "return (score + 1) / 2 * spread(", "return score * spread("),
    Breakage("the advantage's means ignore how large latents are", "losses/srum_losses/maps.py", "maps",
             "inside.append((cells * (regional + covered * whole), cells * covered))",
             "inside.append((regional + covered * whole, covered))"),
    Breakage("weights leave [-1, 1]", "losses/srum_losses/maps.py", "maps",
             "torch.from_numpy(cells.clip(-1, 1))", "torch.from_numpy(cells)"),
    # ---- judges, answerers, grounders ----
    Breakage("thoughts are read along with the answer", "judges/srum_judges/parsing.py", "parsing",
             "text = text[ends[-1] :] if ends else text", "text = text[ends[0] :] if ends else text"),
    Breakage("of two different scores the lower one counts", "judges/srum_judges/parsing.py", "parsing",
             'if len(values) > 1:\n        return Reading(None, f"Different',
             'if len(values) > 2:\n        return Reading(None, f"Different'),
    Breakage("the neutral band drops the sign", "judges/srum_judges/rules/__init__.py", "directives judges",
             "value = max(-band, min(band, score.value))", "value = min(band, abs(score.value))"),
    Breakage("a damaged answer in the cache is used", "adapters/srum_remote/cache.py", "remote",
             'return answer if entry.get("check") == _check(key, answer) else None', "return answer"),
    Breakage("a server's error 500 is final", "adapters/srum_remote/wire.py", "remote_replies remote",
             "again = status in (408, 409, 429) or status >= 500", "again = status in (408, 409, 429)"),
    Breakage("the local model answers in reversed batches", "judges/srum_local/answerer.py", "local",
             "for start in range(0, len(questions), self.options.batch):",
             "for start in reversed(range(0, len(questions), self.options.batch)):"),
    Breakage("diagonal neighbours always touch", "judges/srum_judges/grounders/components.py", "components",
             "for shift in (0,) if connectivity == 4 else (-1, 0, 1):", "for shift in (-1, 0, 1):"),
    Breakage("the smallest masks come first", "judges/srum_sam/grounder.py", "sam",
             '[(-record["area"], _fraction', '[(record["area"], _fraction'),
    # ---- adapters ----
    Breakage("BAGEL's guidance starts from the full branch", "adapters/srum_bagel/sampling.py",
             "golden/bagel_generation",
             "guided = textless + sampling.guidance * (full - textless)",
             "guided = full + sampling.guidance * (full - textless)"),
    Breakage("BAGEL's positions count in the grid's own width",
             "adapters/srum_bagel/attention.py", "golden/bagel_generation",
             "torch.arange(rows)[:, None] * self.side", "torch.arange(rows)[:, None] * columns"),
    Breakage("BLIP3-o's decoder is guided away from the prompt's own features",
             "adapters/srum_blip3o/decoder.py", "golden/blip3o_generation",
             "negative_pooled_prompt_embeds=negative.mean(1)", "negative_pooled_prompt_embeds=features.mean(1)"),
    Breakage("an attention mask stays on the first device", "adapters/srum_bagel/attention.py", "placement",
             "None if self.mask is None else self.mask.to(device)", "self.mask"),
    Breakage("torch's cache counts as taken", "srum_core/models/placement.py", "placement",
             "module.empty_cache()", "module.mem_get_info(device)"),
    Breakage("PEFT's layers are taken for 8-bit ones", "srum_core/models/small_memory.py", "offload",
             'each._parameters.get("weight")', 'getattr(each, "weight", None)'),
    Breakage("the head stays on the device while questions are answered", "adapters/srum_blip3o/model.py", "offload",
             'self.parts.only("language model")\n        return qwen_vl.answer(',
             'self.parts.only("language model", "denoiser")\n        return qwen_vl.answer('),
    # ---- benchmarks and statistics ----
    Breakage("GenEval allows as many as are excluded",
             "benchmarks/srum_benchmarks/geneval/scoring.py", "golden/benchmarks_geneval",
             'if count >= clause["count"]:', 'if count > clause["count"]:'),
    Breakage("in the shapes world nothing is one too many", "benchmarks/srum_benchmarks/shapes/checker.py", "shapes",
             "if surplus:", "if not things:"),
    Breakage("as many seeds are resampled as there are", "srum_core/evaluation/statistics.py", "statistics",
             "max(size - 1, 1)", "size"),
    # ---- features ----
    Breakage("arms with different training share what comes after it", "srum_core/ablation/plan.py", "ablate",
             'if ("train", 1) not in stages:', 'if ("train", 9) not in stages:'),
    Breakage("a cluster's change is the base's less the model's", "srum_core/analysis/activations.py", "analyze",
             "difference(score(values, cluster)[None], score(base, cluster)[None])",
             "difference(score(base, cluster)[None], score(values, cluster)[None])"),
    Breakage("the doctor shows the denoiser every clock's own time", "srum_core/doctor/flow_convention.py", "doctor",
             "torch.full((len(noisy),), tell(time))", "torch.full((len(noisy),), time)"),
    Breakage("an imported score outside of [-1, 1] is taken", "srum_core/interchange/incoming.py", "interchange",
             "and not isinstance(value, bool) and -1 <= value <= 1:", "and not isinstance(value, bool):"),
    Breakage("the share of negative scores is one of images", "srum_core/report/gather.py", "report",
             "value in local_scores) / len(local_scores)", "value in local_scores) / len(judgements)"),
    Breakage("a compared run's change is the first's less its own", "srum_core/report/comparison.py",
             "report_comparison", "difference(runs[first], rows[first], rows[name], both[name])",
             "difference(runs[first], rows[name], rows[first], both[name])"),
    Breakage("runs with other prompts are compared", "srum_core/report/comparison.py", "report_comparison",
             "    if ours != theirs:\n        raise RecordError(\n            f\"{first} and {name} do not",
             "    if not ours:\n        raise RecordError(\n            f\"{first} and {name} do not"),
    Breakage("trackers get a box's sides in another order", "srum_core/training/trackers.py", "trackers",
             '("minX", "minY", "maxX", "maxY")', '("minY", "minX", "maxY", "maxX")'),
    Breakage("a model's images have other seeds than 0", "srum_core/api.py", "api",
             "seeds = [0] * len(prompts) if seeds is None", "seeds = list(range(len(prompts))) if seeds is None"),
    Breakage("an error that a person can fix ends with 1", "srum_core/cli/launching.py", "cli",
             'tell(f"srum: {message}")\n    return 2', 'tell(f"srum: {message}")\n    return 1'),
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="those with one of these words in their name")
    words = parser.parse_args().only or [""]
    selection = [each for each in BREAKAGES if any(word in each.name for word in words)]
    if wrong := [problem for each in selection for problem in problems(each)]:
        print("\n".join(wrong))
        return 2
    red: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy(root)
        for number, each in enumerate(selection, 1):
            text = (root / each.file).read_text(encoding="utf-8")
            write(root / each.file, text.replace(each.text, each.replacement), 2 * number)
            failed = run(root, test_files(each), "-x")
            write(root / each.file, text, 2 * number + 1)
            print(f"{number:2}/{len(selection)} {'caught  ' if failed else 'SURVIVED'} {each.name}", flush=True)
            if failed:
                red[each.name] = failed[0]
                print(f"               by {failed[0]}", flush=True)
        always = run(root, sorted(set(red.values()))) if red else []
    caught = [name for name, test in red.items() if test not in always]
    for test in always:
        print(f"{test} is red without any mistake: it shows nothing.")
    print(f"{len(caught)} of {len(selection)} mistakes are caught.")
    return 0 if len(caught) == len(selection) else 1


def problems(each: Breakage) -> list[str]:
    file = ROOT / each.file
    count = file.read_text(encoding="utf-8").count(each.text) if file.is_file() else 0
    missing = [path for path in test_files(each) if not (ROOT / path).is_file()]
    mismatches = [] if count == 1 else [f'"{each.name}": {each.file} holds its text {count} times, not once.']
    return mismatches + [f'"{each.name}": there is no {path}.' for path in missing]


def test_files(each: Breakage) -> list[str]:
    paths = [Path("tests", name) for name in each.tests.split()]
    return [str(path.with_name(f"test_{path.name}.py")) for path in paths]


def copy(root: Path) -> None:
    """The working tree without what git ignores."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\0"):
        if name and (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, root / name)


def write(path: Path, text: str, later: int) -> None:
    """So many seconds later than the file is now: bytecode is told apart by whole seconds."""
    time = path.stat().st_mtime + later
    path.write_text(text, encoding="utf-8")
    os.utime(path, (time, time))


def run(root: Path, tests: list[str], *options: str) -> list[str]:
    """The fast tests that fail. Raises RuntimeError where tests cannot be run."""
    paths = [str(root / path) for path in PATHS] + [os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = ["-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", *options, *tests]
    process = shared().run(command, root, environment)
    failed = re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+::[^\s\[]+)", process.output, re.MULTILINE)  # of all parameters
    if process.returncode not in (0, 1) or bool(failed) != (process.returncode == 1):
        raise RuntimeError(f"pytest ended with {process.returncode}:\n{process.output[-3000:]}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
