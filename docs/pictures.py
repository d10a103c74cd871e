"""The pictures of these pages, out of a run: `python docs/pictures.py runs/tutorial docs/tutorial`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from srum_core.records import Candidate, Judgement
from srum_core.run import Run
from srum_core.stages.evaluate import scored

SIDE, GAP, TEXT = 160, 12, 48
COUNT, ACROSS = 5, 8


def main(folder: Path, out: Path) -> None:
    """candidates.png, regions.png and rewards.png: the first pictures of the run's first round. before-after.png, of
    a run that was evaluated: what became right and what became wrong between the first round and the last one."""
    out.mkdir(parents=True, exist_ok=True)
    run = Run.open(folder)
    ids = [item.id for item in run.planned(0)][:COUNT]
    candidates, judgements = list(run.candidates(0).select(ids)), list(run.judgements(0).select(ids))
    weigh = run.registry.create("map", run.settings.map)
    save(out / "candidates.png", candidates, lambda _, canvas: canvas)
    save(out / "regions.png", candidates, lambda index, canvas: boxes(canvas, judgements[index]))
    save(out / "rewards.png", candidates, lambda index, canvas: heat(canvas, weigh(judgements[index], (4, 4)).tolist()))
    if run.settings.benchmark:
        before_after(run, out / "before-after.png")


def before_after(run: Run, path: Path) -> None:
    """Before above after, from the same noise, framed green where the benchmark calls them right: the first ACROSS
    pictures that became right, and below them the first that became wrong. Says how many there are of either."""
    every = zip(*(list(scored(run, round)) for round in (None, run.settings.round_count - 1)), strict=True)
    pairs = [(pair, pair[1].values["correct"] - pair[0].values["correct"]) for pair in every]
    gained, lost = ([pair for pair, change in pairs if change == wanted] for wanted in (1, -1))
    print(f"{len(gained)} became right and {len(lost)} wrong of {len(pairs)}.")
    rows = list(zip(*gained[:ACROSS], *lost[:ACROSS], strict=True))

    def both(index: int, after: Image.Image) -> Image.Image:
        with Image.open(rows[0][index].candidate.image) as image:
            before = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST)
        canvas = Image.new("RGB", (SIDE, 2 * SIDE + GAP), "white")
        for row, picture in enumerate((before, after)):
            right = rows[row][index].values["correct"] == 1
            outline = "#0a7d32" if right else "#c0221f"
            ImageDraw.Draw(picture).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=outline, width=4)
            canvas.paste(picture, (0, row * (SIDE + GAP)))
        return canvas

    save(path, [found.candidate for found in rows[1]], both, 2 * SIDE + GAP)


def save(
    path: Path, candidates: Sequence[Candidate], paint: Callable[[int, Image.Image], Image.Image], height: int = SIDE
) -> None:
    """Rows of up to ACROSS pictures with their prompts below."""
    band = height + TEXT
    size = (min(ACROSS, len(candidates)) * (SIDE + GAP) - GAP, band * -(-len(candidates) // ACROSS))
    sheet = Image.new("RGB", size, "white")
    for index, candidate in enumerate(candidates):
        with Image.open(candidate.image) as image:
            canvas = paint(index, image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.NEAREST))
        left, top = index % ACROSS * (SIDE + GAP), index // ACROSS * band
        sheet.paste(canvas, (left, top))
        ImageDraw.Draw(sheet).multiline_text(
            (left, top + height + 4), wrapped(candidate.prompt.text), "black", font(11)
        )
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
    """Each latent cell's weight over a pale picture: green is kept, red is driven away."""
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


def wrapped(text: str, width: int = 27) -> str:
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
