"""How well a model generates and judges the world of shapes: `python -m pretraining.measure --checkpoint DIR`.

Generation is scored by the exact checker on the model's images for held-out prompts. Judging is measured on these
images, and with `--lessons` on held-out rendered ones, clean and damaged: understanding before and after training
(paper, Table 2) on the same images. A checkpoint that training wrote is measured like any other:
`--checkpoint RUN/round-1/checkpoint` after full training, and after LoRA `--lora RUN/round-1/checkpoint` on top of the
checkpoint that was trained.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pretraining.examples import lesson
from pretraining.figures import Figure, share
from pretraining.judging import judging
from pretraining.scenes import WORLDS
from srum_benchmarks.shapes.appraisal import appraise
from srum_benchmarks.shapes.checker import Pixels, Verdict, check
from srum_benchmarks.shapes.world import crowded
from srum_core.errors import CheckpointError
from srum_core.evaluation.formatting import Grid, markdown
from srum_core.protocols import UnifiedModel
from srum_core.records import Prompt
from srum_core.runs.store import write_atomic

BATCH = 64
_ABOUT = ("split", "prompts", "images", "seed", "votes")


def measure(
    model: UnifiedModel,
    templates: tuple[str, str],
    split: str = "dev",
    count: int = 256,
    seed: int = 0,
    images: int = 1,
    lessons: int = 0,
    only: str | None = None,
    votes: int = 1,
    world: str = "shapes",
    category: str = "",
) -> dict[str, Any]:
    """Return figures with 95 % intervals over prompts: of generation, and of judging these images and rendered ones.

    count, images   prompts, and images of each
    lessons         rendered images to judge
    only            "drawing": ask nothing; "judging": generate nothing, and judge the lessons
    votes           as in `judging`
    category        of the prompts; "" = all"""
    figures: dict[str, Any] = {"split": split, "seed": seed} | ({"votes": votes} if votes > 1 else {})
    if only != "judging":
        figures |= {"prompts": count, "images": images}
        distinct = WORLDS[world].prompts(split, count, category=category)
        prompts = [prompt for prompt in distinct for _ in range(images)]
        prompt_of = np.arange(len(prompts)) // images
        drawings = draw_all(model, prompts, [seed_of(each, i % images, seed) for i, each in enumerate(prompts)])
        pairs = list(zip(drawings, prompts, strict=True))
        figures["drawing"] = drawing([check(image, prompt.tags) for image, prompt in pairs], prompts, prompt_of)
        if only != "drawing":
            own_lessons = [appraise(image, prompt) for image, prompt in pairs]
            figures["judging"] = judging(model, own_lessons, templates, prompt_of, votes)
    if lessons and only != "drawing":
        rng = np.random.default_rng(seed)
        rendered = [lesson(rng, split, world=world) for _ in range(lessons)]
        figures["lessons"] = judging(model, rendered, templates, votes=votes)
    return figures


def seed_of(prompt: Prompt, image: int, seed: int) -> int:
    """Return the seed (31 bits) of a prompt's n-th image, independent of its batch."""
    digest = hashlib.sha256(f"{seed}|{image}|{prompt.text}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def draw_all(model: UnifiedModel, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[Pixels]:
    images: list[Pixels] = []
    for start in range(0, len(prompts), BATCH):
        texts = [prompt.text for prompt in prompts[start : start + BATCH]]
        images += [np.asarray(sample.image) for sample in model.generate(texts, seeds[start : start + BATCH])]
    return images


def drawing(
    verdicts: Sequence[Verdict], prompts: Sequence[Prompt], prompt_of: np.ndarray
) -> dict[str, dict[str, Figure]]:
    """Return figures for all prompts and by category; `prompt_of` is the number of each image's prompt.

    correct         share of images that fulfil their prompt
    fidelity        mean share of the required objects that are there
    clean_things    share of all generated objects that are shapes of the world, required or not (no blobs)
    clean_images    share of images with objects, all of them clean
    objects         generated objects per required one, in the crowded world"""
    things = np.array([len(v.things) for v in verdicts])
    clean = np.array([sum(thing.shape is not None for thing in v.things) for v in verdicts])
    correct, fidelity = np.array([v.correct for v in verdicts]), np.array([v.fidelity for v in verdicts])
    categories = np.array([prompt.tags["category"] for prompt in prompts])
    crowd = all(crowded(prompt.tags) for prompt in prompts)
    need = np.array([len(prompt.tags["objects"]) for prompt in prompts])
    return {
        name: {
            "correct": share(correct[selection], prompt_of[selection]),
            "fidelity": share(fidelity[selection], prompt_of[selection]),
            **({"objects": share(things[selection], prompt_of[selection], need[selection])} if crowd else {}),
            "clean_things": share(clean[selection], prompt_of[selection], things[selection]),
            "clean_images": share((clean == things)[selection] & (things > 0)[selection], prompt_of[selection]),
        }
        for name in ("all", *(name for world in WORLDS.values() for name in world.CATEGORIES))
        if (selection := (categories == name) | (name == "all")).any()
    }


def as_json(figures: Mapping[str, Any]) -> str:
    """Return indented JSON, one line for each figure."""
    text = json.dumps(figures, indent=2)
    return re.sub(r"\{[^{}]*\}", lambda match: re.sub(r"\s+", " ", match[0]), text)


def as_markdown(figures: Mapping[str, Any]) -> str:
    """Tabulate generation by category, and every figure of judging, with interval and count."""
    tables = []
    if "drawing" in figures:
        names = [name.replace("_", " ") for name in figures["drawing"]["all"]]
        rows = [[name, *map(cell, of.values())] for name, of in figures["drawing"].items()]
        tables.append(Grid(["generation", *names], rows))
    titles = {"judging": "own images", "lessons": "rendered images"}
    columns = {title: dict(_flat(figures[name])) for name, title in titles.items() if name in figures}
    if columns:
        names = list(dict.fromkeys(name for column in columns.values() for name in column))
        rows = [[name, *(cell(column.get(name)) for column in columns.values())] for name in names]
        tables.append(Grid(["judging", *columns], rows))
    about = ", ".join(f"{name} {figures[name]}" for name in _ABOUT if name in figures)
    return markdown([f"{about}; 95 % intervals over prompts, number of cases in brackets", *tables])


def _flat(figures: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Figure]]:
    for name, figure in figures.items():
        title = before + name.replace("_", " ")
        yield from [(title, figure)] if "value" in figure else _flat(figure, f"{title}: ")


def cell(figure: Figure | None) -> str:
    if figure is None:
        return ""
    if figure["value"] is None:
        return f"– ({figure['count']})"
    ends = f" [{figure['low']:.3f}, {figure['high']:.3f}]" if "low" in figure else ""
    return f"{figure['value']:.3f}{ends} ({figure['count']})"


def load(adapter: str, options: Mapping[str, Any], lora_folder: Path | None) -> UnifiedModel:
    """Load a checkpoint and LoRA weights on top. Raises CheckpointError if the checkpoint holds LoRA weights."""
    from srum_core.models import trained
    from srum_core.options import Use
    from srum_core.plugins import discover

    folder = options["checkpoint"]
    if (Path(folder) / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder} holds LoRA weights, which change another checkpoint: name that one with --checkpoint (the run's "
            f"adapter.checkpoint) and this folder with --lora."
        )
    model: UnifiedModel = discover().create("adapter", Use(adapter, dict(options)))
    if lora_folder is not None:
        trained.apply(model, lora_folder)
    return model


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--adapter", default="bagel")
    parser.add_argument("--checkpoint", default="bundled:shapes", help="a model, or what full training wrote")
    parser.add_argument("--lora", type=Path, help="what LoRA training wrote, applied to the checkpoint")
    parser.add_argument("--layout-template", type=Path, required=True)
    parser.add_argument("--regions-template", type=Path, required=True)
    parser.add_argument("--world", choices=tuple(WORLDS), default="shapes")
    parser.add_argument("--split", default="dev")
    parser.add_argument("--category", default="", help="of the prompts (default: all)")
    parser.add_argument("--count", type=int, default=256, help="prompts")
    parser.add_argument("--images", type=int, default=4, help="of each prompt")
    parser.add_argument("--lessons", type=int, default=0, help="rendered images of the split to judge as well")
    parser.add_argument(
        "--only", choices=("drawing", "judging"), help="ask nothing, or generate nothing (needs --lessons)"
    )
    parser.add_argument("--votes", type=int, default=1, help="answers to each question; several are sampled")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--markdown", type=Path, help="a file for the same figures as Markdown tables")
    parser.add_argument("--steps", type=int, default=25, help="points of the sampler's time grid")
    parser.add_argument("--guidance", type=float, default=2.0)
    options = parser.parse_args(arguments)
    if options.only == "judging" and not options.lessons:
        parser.error("--only judging generates nothing, so it needs --lessons N: how many rendered images to judge")
    adapter = {
        "checkpoint": options.checkpoint, "dtype": "float32",
        "sampling": {"steps": options.steps, "guidance": options.guidance},
        **{name: [32, 32] for name in ("size", "generation_sides", "vision_sides")},
    }  # fmt: skip
    templates = (options.layout_template.read_text("utf-8"), options.regions_template.read_text("utf-8"))
    try:
        model = load(options.adapter, adapter, options.lora)
    except CheckpointError as error:
        parser.error(str(error))
    names = ("split", "count", "seed", "images", "lessons", "only", "votes", "world", "category")
    figures = measure(model, templates, **{name: getattr(options, name) for name in names})
    print(as_json(figures))
    if options.markdown:
        write_atomic(options.markdown, as_markdown(figures).encode())


if __name__ == "__main__":
    main()
