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
    text: str
    replacement: str
    tests: str
    """Names of the files in tests/ that should go red, without test_ and .py."""


BREAKAGES = [
    # ---- records, flow, options ----
    Breakage(
        "iou counts the common area twice",
        "srum_core/records.py",
        "return common / (area(one) + area(other) - common)",
        "return common / (area(one) + area(other))",
        "native sam",
    ),
    Breakage(
        "boxes are read in the stored size, whatever the model sees",
        "srum_core/records.py",
        "told.unit, told.seen or candidate.size",
        "told.unit, candidate.size",
        "native judges",
    ),
    Breakage(
        "the velocity's target has the wrong sign",
        "srum_core/flow.py",
        "target = [eps - x for",
        "target = [x - eps for",
        "flow",
    ),
    Breakage(
        "times are rounded down to their level",
        "srum_core/flow.py",
        "(time * self.levels).ceil()",
        "(time * self.levels).floor()",
        "flow golden/blip3o_training",
    ),
    Breakage(
        "a reference image is not pulled towards",
        "srum_core/flow.py",
        "own if pull is None else eps - pull.to(eps)",
        "own",
        "flow",
    ),
    Breakage(
        "true passes for a number",
        "srum_core/options.py",
        "if type(value) not in (int, float):",
        "if not isinstance(value, int | float):",
        "config",
    ),
    # ---- settings ----
    Breakage(
        "the configuration file wins over the command line",
        "srum_core/config/load.py",
        "between, file, line]",
        "between, line, file]",
        "config",
    ),
    Breakage(
        "another component keeps the options of the one before",
        "srum_core/config/load.py",
        "len(uses) == 2 and uses[0] != uses[1]",
        "len(uses) == 2 and uses[0] is None",
        "config",
    ),
    Breakage(
        "a round may change any option of the adapter",
        "srum_core/config/load.py",
        "if path[1:] and (path[1] in free or",
        "if path[1:] and (path[1] in known or",
        "rounds",
    ),
    # ---- plugins ----
    Breakage(
        "a clash of two plugins is settled silently",
        "srum_core/plugins/registry.py",
        "if len(found) == 1:\n            return found[0]",
        "if found:\n            return found[0]",
        "plugins",
    ),
    Breakage(
        "a plugin that failed at an event is called again",
        "srum_core/plugins/registry.py",
        "self._silenced.add((hook, each.plugin))",
        "self._silenced.discard((hook, each.plugin))",
        "plugins",
    ),
    # ---- runs ----
    Breakage(
        "a torn last line is not fenced off",
        "srum_core/runs/store.py",
        "data = _FENCE + data",
        'data = b"\\n" + data',
        "store",
    ),
    Breakage(
        "a setting that is gone does not count as a difference",
        "srum_core/runs/store.py",
        "if there.get(key, missing) != asked.get(key, missing)",
        "if key in asked and there.get(key, missing) != asked[key]",
        "store integrity",
    ),
    Breakage(
        "all rounds draw from the same seeds",
        "srum_core/runs/run.py",
        "self.derive_seed(purpose, None if round is None else round - 1, *what)",
        "self.derive_seed(purpose, *what)",
        "run",
    ),
    Breakage(
        "redo leaves the rounds that follow",
        "srum_core/runs/run.py",
        "if k is not None and k >= round), reverse=True)",
        "if k is not None and k == round), reverse=True)",
        "run rounds",
    ),
    Breakage(
        "prompts that were written down are read anew",
        "srum_core/runs/run.py",
        "return read_list(path, Prompt)",
        "pass",
        "run stages",
    ),
    Breakage(
        "options for speed make another run",
        "srum_core/runs/run.py",
        "if name not in speed}",
        "if name}",
        "run stages rounds",
    ),
    # ---- stages ----
    Breakage(
        "a chunk that was begun counts as finished",
        "srum_core/stages/chunks.py",
        "if not there.issuperset(chunk)]",
        "if there.isdisjoint(chunk)]",
        "stages",
    ),
    Breakage(
        "global generators are not seeded for a chunk",
        "srum_core/stages/chunks.py",
        "seed_everything(run.round_seed(step.stage, step.round, chunk[0]))",
        "pass",
        "stages",
    ),
    Breakage(
        "every round generates with the base model",
        "srum_core/stages/generate.py",
        "records.extend(draw(run.model(round - 1), items",
        "records.extend(draw(run.model(0), items",
        "rounds stages",
    ),
    Breakage(
        "near-duplicates are kept",
        "srum_core/stages/ground.py",
        "near_duplicate(region.box, kept, threshold)",
        "near_duplicate(region.box, kept[:0], threshold)",
        "grounding stages",
    ),
    # ---- the interview ----
    Breakage(
        "a retry has the seed of the first try",
        "srum_core/stages/interview.py",
        "self.name, index, times, *([vote]",
        "self.name, index, 1, *([vote]",
        "interview",
    ),
    Breakage(
        "one retry too few",
        "srum_core/stages/interview.py",
        "if vote.times[i] <= retries and",
        "if vote.times[i] < retries and",
        "interview",
    ),
    Breakage(
        "a minority of readable votes decides",
        "srum_core/stages/interview.py",
        "if 2 * len(read) < count:",
        "if not read:",
        "interview",
    ),
    Breakage(
        "doubt lowers negative scores",
        "srum_core/stages/interview.py",
        "value = middle * (1 - doubt * spread)",
        "value = middle - doubt * spread",
        "interview",
    ),
    # ---- training ----
    Breakage(
        "batches weigh alike, whatever their areas",
        "srum_core/training/trainer.py",
        "loss * (cells * world / total)",
        "loss * (world / len(step))",
        "train",
    ),
    Breakage(
        "the warm-up begins with a step that changes nothing",
        "srum_core/training/trainer.py",
        "rate = settings.lr * min(1.0, (self.done + 1) / max(self.warmup, 1))",
        "rate = settings.lr * min(1.0, self.done / max(self.warmup, 1))",
        "train",
    ),
    Breakage(
        "an image has the same noise in every step",
        "srum_core/training/trainer.py",
        'round_seed("noise", self.round, self.done, index)',
        'round_seed("noise", self.round, index)',
        "train",
    ),
    Breakage(
        "text is never dropped",
        "srum_core/training/trainer.py",
        "generator=rng) < settings.text_dropout",
        "generator=rng) < 0",
        "train",
    ),
    Breakage(
        "a resumed training averages from where it stands",
        "srum_core/training/trainer.py",
        'lora.copy_into(self.average.weights, state["average"], path)',
        "pass",
        "train resume",
    ),
    Breakage(
        "a log keeps the lines behind the saved state",
        "srum_core/training/checkpoint.py",
        "os.truncate(self.path, size)",
        "pass",
        "train resume",
    ),
    Breakage(
        "a guard of 0 stops at once",
        "srum_core/training/metrics.py",
        "if not self.factor or error <= self.factor * usual:",
        "if error <= self.factor * usual:",
        "train losses",
    ),
    Breakage(
        "a latent of another adapter is taken from the cache",
        "srum_core/training/latent_cache.py",
        "hashlib.sha256(self.made_by.encode())",
        "hashlib.sha256()",
        "latents",
    ),
    Breakage(
        "batches stay one image below the budget",
        "srum_core/training/batching.py",
        "sizes[index] > room:",
        "sizes[index] >= room:",
        "train",
    ),
    Breakage(
        "the average starts at its full decay",
        "srum_core/training/lora.py",
        "decay = min(self.decay, (1 + step) / (10 + step))",
        "decay = self.decay",
        "tuning train",
    ),
    Breakage(
        "centred scores are standardised too",
        "srum_core/training/selection.py",
        'fmean(values), spread if how == "standardise" else 1.0',
        "fmean(values), spread",
        "selection",
    ),
    Breakage(
        "a group's mean leaves out what was filtered",
        "srum_core/training/selection.py",
        "for pair in relative(pairs, settings.relative)",
        "for pair in relative(right, settings.relative)",
        "selection",
    ),
    # ---- losses and maps ----
    Breakage(
        "lambda is ignored",
        "losses/srum_losses/objectives.py",
        "reference = _reference(step, error)\n        total = reward + self.constraint * reference",
        "reference = _reference(step, error)\n        total = reward + reference",
        "losses",
    ),
    Breakage(
        "the bounded loss bends below the usual error too",
        "losses/srum_losses/objectives.py",
        "excess = (error - usual).clamp(min=0)",
        "excess = error - usual",
        "losses",
    ),
    Breakage(
        "negative-aware shares are not brought to [0, 1]",
        "losses/srum_losses/objectives.py",
        "share = (_weights(step) + 1) / 2",
        "share = _weights(step)",
        "losses",
    ),
    Breakage(
        "alpha is the global score itself",
        "losses/srum_losses/maps.py",
        "return (score + 1) / 2 * spread(",
        "return score * spread(",
        "maps",
    ),
    Breakage(
        "the advantage's means ignore how large latents are",
        "losses/srum_losses/maps.py",
        "inside.append((cells * (regional + covered * whole), cells * covered))",
        "inside.append((regional + covered * whole, covered))",
        "maps",
    ),
    Breakage(
        "weights leave [-1, 1]",
        "losses/srum_losses/maps.py",
        "return _tensor(cells.clip(-1, 1))",
        "return _tensor(cells)",
        "maps",
    ),
    # ---- judges, answerers, grounders ----
    Breakage(
        "thoughts are read along with the answer",
        "judges/srum_judges/parsing.py",
        "said = text[ends[-1] :] if ends else text",
        "said = text[ends[0] :] if ends else text",
        "parsing",
    ),
    Breakage(
        "of two different scores the lower one counts",
        "judges/srum_judges/parsing.py",
        'if len(values) > 1:\n        return Reading(None, f"Different',
        'if len(values) > 2:\n        return Reading(None, f"Different',
        "parsing",
    ),
    Breakage(
        "the neutral band drops the sign",
        "judges/srum_judges/rules/__init__.py",
        "value = max(-band, min(band, score.value))",
        "value = min(band, abs(score.value))",
        "directives judges",
    ),
    Breakage(
        "a damaged answer in the cache is used",
        "judges/srum_judges/answerers/answer_cache.py",
        'return known if there.get("check") == _check(key, known) else None',
        "return known",
        "remote",
    ),
    Breakage(
        "a server's error 500 is final",
        "judges/srum_judges/answerers/wire.py",
        "again = status in (408, 409, 429) or status >= 500",
        "again = status in (408, 409, 429)",
        "remote_replies remote",
    ),
    Breakage(
        "the local model answers in reversed batches",
        "judges/srum_local/answerer.py",
        "for start in range(0, len(questions), self.options.batch):",
        "for start in reversed(range(0, len(questions), self.options.batch)):",
        "local",
    ),
    Breakage(
        "diagonal neighbours always touch",
        "judges/srum_judges/grounders/components.py",
        "for shift in (0,) if connectivity == 4 else (-1, 0, 1):",
        "for shift in (-1, 0, 1):",
        "components",
    ),
    Breakage(
        "the smallest masks come first",
        "judges/srum_sam/grounder.py",
        '((-record["area"], _fraction',
        '((record["area"], _fraction',
        "sam",
    ),
    # ---- adapters ----
    Breakage(
        "BAGEL's guidance starts from the full branch",
        "adapters/srum_bagel/sampling.py",
        "guided = textless + drawing.guidance * (full - textless)",
        "guided = full + drawing.guidance * (full - textless)",
        "golden/bagel_drawing",
    ),
    Breakage(
        "BAGEL's positions count in the grid's own width",
        "adapters/srum_bagel/denoiser.py",
        "torch.arange(rows)[:, None] * self.side",
        "torch.arange(rows)[:, None] * columns",
        "golden/bagel_drawing",
    ),
    Breakage(
        "BLIP3-o's decoder is guided away from the prompt's own features",
        "adapters/srum_blip3o/decoder.py",
        "negative_pooled_prompt_embeds=negative.mean(1)",
        "negative_pooled_prompt_embeds=features.mean(1)",
        "golden/blip3o_drawing",
    ),
    # ---- benchmarks and statistics ----
    Breakage(
        "GenEval allows as many as are excluded",
        "benchmarks/srum_benchmarks/geneval/scoring.py",
        'if count >= clause["count"]:',
        'if count > clause["count"]:',
        "golden/benchmarks_geneval",
    ),
    Breakage(
        "in the shapes world nothing is one too many",
        "benchmarks/srum_benchmarks/shapes/checker.py",
        "if surplus:",
        "if not found:",
        "shapes",
    ),
    Breakage(
        "as many seeds are resampled as there are",
        "srum_core/evaluation/statistics.py",
        "max(size - 1, 1)",
        "size",
        "statistics",
    ),
    # ---- features ----
    Breakage(
        "arms with different training share what comes after it",
        "srum_core/ablation/plan.py",
        'if ("train", 1) not in needed:',
        'if ("train", 9) not in needed:',
        "ablate",
    ),
    Breakage(
        "a cluster's change is the base's less the model's",
        "srum_core/analysis/clusters.py",
        "difference(score(here, cluster)[None], score(base, cluster)[None])",
        "difference(score(base, cluster)[None], score(here, cluster)[None])",
        "analyze_numbers",
    ),
    Breakage(
        "the doctor shows the denoiser every clock's own time",
        "srum_core/doctor/flow_convention.py",
        "torch.full((len(noisy),), tell(time))",
        "torch.full((len(noisy),), time)",
        "doctor",
    ),
    Breakage(
        "an imported score outside of [-1, 1] is taken",
        "srum_core/interchange/incoming.py",
        "and not isinstance(value, bool) and -1 <= value <= 1:",
        "and not isinstance(value, bool):",
        "interchange",
    ),
    Breakage(
        "the share of negative scores is one of images",
        "srum_core/report/gather.py",
        "sum(value < 0 for value in local) / len(local)",
        "sum(value < 0 for value in local) / len(found)",
        "report",
    ),
    Breakage(
        "a model's images have other seeds than 0",
        "srum_core/api.py",
        "seeds = [0] * len(prompts) if seeds is None",
        "seeds = list(range(len(prompts))) if seeds is None",
        "api",
    ),
    Breakage(
        "an error that a person can fix ends with 1",
        "srum_core/cli/launching.py",
        'tell(f"srum: {told}")\n    return 2',
        'tell(f"srum: {told}")\n    return 1',
        "cli",
    ),
]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="those with one of these words in their name")
    words = parser.parse_args().only or [""]
    chosen = [each for each in BREAKAGES if any(word in each.name for word in words)]
    if wrong := [problem for each in chosen for problem in problems(each)]:
        print("\n".join(wrong))
        return 2
    red: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        copy(root)
        for number, each in enumerate(chosen, 1):
            whole = (root / each.file).read_text(encoding="utf-8")
            write(root / each.file, whole.replace(each.text, each.replacement), 2 * number)
            failed = run(root, test_files(each), "-x")
            write(root / each.file, whole, 2 * number + 1)
            print(f"{number:2}/{len(chosen)} {'caught  ' if failed else 'SURVIVED'} {each.name}", flush=True)
            if failed:
                red[each.name] = failed[0]
                print(f"               by {failed[0]}", flush=True)
        always = run(root, sorted(set(red.values()))) if red else []
    caught = [name for name, test in red.items() if test not in always]
    for test in always:
        print(f"{test} is red without any mistake: it shows nothing.")
    print(f"{len(caught)} of {len(chosen)} mistakes are caught.")
    return 0 if len(caught) == len(chosen) else 1


def problems(each: Breakage) -> list[str]:
    count = (ROOT / each.file).read_text(encoding="utf-8").count(each.text)
    missing = [path for path in test_files(each) if not (ROOT / path).is_file()]
    found = [] if count == 1 else [f'"{each.name}": {each.file} holds its text {count} times, not once.']
    return found + [f'"{each.name}": there is no {path}.' for path in missing]


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
    done = shared().run(command, root, environment)
    failed = re.findall(r"^(?:FAILED|ERROR) ([^\s\[]+::[^\s\[]+)", done.output, re.MULTILINE)  # of all parameters
    if done.returncode not in (0, 1) or bool(failed) != (done.returncode == 1):
        raise RuntimeError(f"pytest ended with {done.returncode}:\n{done.output[-3000:]}")
    return failed


if __name__ == "__main__":
    sys.exit(main())
