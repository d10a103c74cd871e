"""The images of these pages, out of a run or an ablation: `python docs/images.py runs/tutorial docs/tutorial`."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from srum_core.evaluation.stage import scored
from srum_core.records import Candidate, Judgement
from srum_core.runs.run import Run
from srum_core.training.latent_cache import Latents
from srum_core.training.selection import choose

SIDE, GAP, TEXT = 120, 10, 60
COUNT, ACROSS = 5, 8


def main(folder: Path, out: Path) -> None:
    """Of a run candidates.png, regions.png and rewards.png: the first images of its first round. Of an ablation
    arms.png: the first prompts on which its arms differ."""
    out.mkdir(parents=True, exist_ok=True)
    if not (folder / "run.toml").is_file():
        arms(folder, out / "arms.png")
        return
    run = Run.open(folder)
    images, latents = choose(run, 1), Latents(run.round_folder(1) / "latents", "")
    weigh = run.registry.create("map", run.at("train", 1).settings.map)
    latents.fit(weigh, images)
    ids = [item.id for item in run.planned(1)][:COUNT]
    candidates, judgements = list(run.candidates(1).select(ids)), list(run.judgements(1).select(ids))
    save(out / "candidates.png", candidates, lambda _, canvas: canvas)
    save(out / "regions.png", candidates, lambda index, canvas: boxes(canvas, judgements[index]))
    save(out / "rewards.png", candidates, lambda index, canvas: heat(canvas, weigh(judgements[index], (4, 4)).tolist()))


def arms(folder: Path, path: Path) -> None:
    """A row for every arm of the first training seed, from the same noise, framed green where the benchmark calls an
    image right: the first ACROSS prompts on which the arms differ."""
    seed = min(folder.glob("seed-*"), key=lambda each: int(each.name.partition("-")[2]))
    table = json.loads((folder / "ablation.json").read_bytes())
    names = [row["arm"] for row in table["rows"]]
    runs = [Run.open(seed / name) for name in names]
    last = [run.settings.round_count if run.done("train", 1) else None for run in runs]
    found = [scored(*each) for each in zip(runs, last, strict=True)]
    differ = [row for row in zip(*found, strict=True) if len({each.values["correct"] for each in row}) > 1]
    print(f"The arms differ on {len(differ)} of {len(found[0])} images.")
    left, shown = 90, differ[:ACROSS]
    sheet = Image.new("RGB", (left + len(shown) * (SIDE + GAP), len(names) * (SIDE + GAP) + TEXT), "white")
    draw = ImageDraw.Draw(sheet)
    for row, name in enumerate(names):
        draw.text((4, row * (SIDE + GAP) + SIDE // 2), name, "black", font(15))
        for column, item in enumerate(shown):
            with Image.open(item[row].candidate.image) as image:
                canvas = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
            outline = "#0a7d32" if item[row].values["correct"] == 1 else "#c0221f"
            ImageDraw.Draw(canvas).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=outline, width=4)
            sheet.paste(canvas, (left + column * (SIDE + GAP), row * (SIDE + GAP)))
    for column, item in enumerate(shown):
        place = (left + column * (SIDE + GAP), len(names) * (SIDE + GAP))
        draw.multiline_text(place, wrapped(item[0].candidate.prompt.text), "black", font(11))
    sheet.save(path, optimize=True)


def save(path: Path, candidates: Sequence[Candidate], paint: Callable[[int, Image.Image], Image.Image]) -> None:
    """Rows of up to ACROSS images with their prompts below."""
    band = SIDE + TEXT
    size = (min(ACROSS, len(candidates)) * (SIDE + GAP) - GAP, band * -(-len(candidates) // ACROSS))
    sheet = Image.new("RGB", size, "white")
    for index, candidate in enumerate(candidates):
        with Image.open(candidate.image) as image:
            canvas = paint(index, image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST))
        left, top = index % ACROSS * (SIDE + GAP), index // ACROSS * band
        sheet.paste(canvas, (left, top))
        ImageDraw.Draw(sheet).multiline_text((left, top + SIDE + 4), wrapped(candidate.prompt.text), "black", font(11))
    sheet.save(path, optimize=True)


def boxes(canvas: Image.Image, judgement: Judgement) -> Image.Image:
    """Each region's box with its score."""
    scores = {score.region: score.value for score in judgement.scores}
    draw = ImageDraw.Draw(canvas)
    for region in judgement.regions:
        x0, y0, x1, y1 = (value * SIDE for value in region.box)
        value = scores.get(region.id)
        colour = "#888888" if value is None else "#0a7d32" if value > 0 else "#c0221f"
        draw.rectangle((x0, y0, x1 - 1, y1 - 1), outline=colour, width=3)
        label = "?" if value is None else f"{value:+.1f}"
        draw.rectangle((x0, y0, x0 + 32, y0 + 18), fill="white", outline=colour)
        draw.text((x0 + 4, y0 + 2), label, colour, font(13))
    return canvas


def heat(canvas: Image.Image, weights: Sequence[Sequence[float]]) -> Image.Image:
    """Each latent cell's weight over a pale image: green is kept, red is driven away."""
    canvas = Image.blend(canvas, Image.new("RGB", canvas.size, "white"), 0.6)
    draw = ImageDraw.Draw(canvas, "RGBA")
    step = SIDE / len(weights)
    for row, values in enumerate(weights):
        for column, value in enumerate(values):
            colour = (10, 125, 50) if value > 0 else (192, 34, 31)
            place = (column * step, row * step, (column + 1) * step, (row + 1) * step)
            draw.rectangle(place, fill=(*colour, round(170 * min(1, abs(value)))), outline=(255, 255, 255, 255))
            if abs(value) >= 0.005:
                draw.text((place[0] + 4, place[1] + 12), f"{value:+.2f}", "black", font(11))
    return canvas


def wrapped(text: str, width: int = 20) -> str:
    lines = [""]
    for word in text.split():
        if len(lines[-1]) + len(word) >= width:
            lines.append("")
        lines[-1] += f"{word} "
    return "\n".join(lines)


def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
