"""Charts as SVG, in a page or as files; lines differ by style, marker and label, never by colour alone.

Colours are those of charts.css: the page has it, and a chart that stands alone has it inside.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import ceil, floor, log10
from pathlib import Path
from statistics import fmean

from markupsafe import Markup, escape

from srum_core.evaluation import formatting
from srum_core.evaluation.formatting import estimate
from srum_core.evaluation.statistics import Estimate
from srum_core.records import Row

STYLE = Path(__file__).with_name("charts.css")
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 540, 52, 124, 18, 34
_MOST = 300
"""Points of a line; with more steps each is the mean of several."""
_WINDOW = 20
"""A smoothed value is the mean over 1/20 of the steps, those around it."""
_EQUAL = 1e-6
"""An axis needs numbers that differ by at least this share."""
_LABEL_GAP = 13.0
"""Pixels between the labels at the ends of lines."""

Points = Sequence[tuple[float, float | None]]
"""(x, y); y is None where there is nothing to measure."""


def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    """Return a function from values in [low, high] to pixels."""
    size = (end - start) / (high - low) if high > low else 0.0
    return lambda value: round(start + (value - low) * size if size else (start + end) / 2, 2)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Return round numbers that span [low, high]; the number itself where both are equal but for rounding."""
    if high - low <= _EQUAL * max(abs(low), abs(high)):
        return [low]
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def number(value: float) -> str:
    """Format a number, short, and never as -0."""
    text = f"{value:z.3g}" if abs(value) < 1e5 and (value == 0 or abs(value) >= 1e-3) else f"{value:.1e}"
    return re.sub("^-", "−", text)


def thin(points: Points) -> Points:
    """Return at most `_MOST` points, each the mean of equally many neighbours."""
    size = ceil(len(points) / _MOST) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in part), _mean([y for _, y in part])) for part in parts]


def smoothed(points: Points, breaks: Sequence[float]) -> Points:
    """Return centred means over neighbours of the same round; empty if there are too few points."""
    reach = len(points) // (2 * _WINDOW)
    parts = [sum(x >= start for start in breaks) for x, _ in points] if reach else []
    out: list[tuple[float, float | None]] = []
    for place, part in enumerate(parts):
        near = range(max(0, place - reach), min(len(points), place + reach + 1))
        x, value = points[place]
        out.append((x, value if value is None else _mean([points[k][1] for k in near if parts[k] == part])))
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def line_chart(
    title: str,
    lines: Mapping[str, Sequence[tuple[float, Estimate | float | None]]],
    breaks: Mapping[float, str] | None = None,
    height: int = 210,
    smooth: bool = False,
    axis: str = "training step",
    alone: bool = False,
) -> Markup:
    """Draw a line for each label; estimates get a dot and their interval. Empty if there is no number.

    breaks      names of rounds, by the x where they begin
    smooth      draw smoothed lines over the raw ones
    alone       return a file of its own, not an element of the page"""
    breaks = breaks or {}
    values: dict[str, Points] = {}
    bars: dict[str, list[tuple[float, float, float]]] = {}
    for label, points in lines.items():
        plain = [(x, y.value if isinstance(y, Estimate) else y) for x, y in sorted(points, key=lambda point: point[0])]
        if any(y is not None for _, y in plain):
            values[label] = thin(plain)
            estimates = [(x, y.low, y.high) for x, y in points if isinstance(y, Estimate)]
            bars[label] = [(x, low, high) for x, low, high in estimates if low is not None and high is not None]
    if not values:
        return Markup("")
    xs = [x for points in values.values() for x, _ in points]
    ys = [y for points in values.values() for _, y in points if y is not None]
    ys += [end for each in bars.values() for _, *ends in each for end in ends]
    marks = ticks(min(0.0, *ys) if min(ys) < 0.5 * max(ys) else min(ys), max(ys))
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    across = scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT, right)
    up = scale(marks[0], marks[-1], bottom, TOP)
    parts = []
    for mark in marks:
        parts.append(f'<path class="{"axis" if mark == 0 else "grid"}" d="M{LEFT} {up(mark)}H{right}"/>')
        parts.append(_text(LEFT - 7, up(mark) + 4, number(mark), "end"))
    for x, words in breaks.items():
        parts.append(f'<path class="break" d="M{across(x)} {TOP}V{bottom}"/>')
        parts.append(_text(across(x), TOP - 6, words, "start"))
    integers = all(x == int(x) for x in xs)
    labelled = [x for x in ticks(min(xs), max(xs), 6) if min(xs) <= x <= max(xs) and (x == int(x) or not integers)]
    parts += [_text(across(x), bottom + 14, number(x), "middle") for x in labelled]
    parts.append(_text((LEFT + right) / 2, height - 4, axis, "middle"))
    labels, message = [], []
    for index, (label, line) in enumerate(values.items()):
        style, shift = f"s{index % 6}", 3 * index * bool(bars[label])  # so that no interval hides another
        numbers = [y for _, y in line if y is not None]
        message.append(f"{label} from {number(numbers[0])} to {number(numbers[-1])}")
        means = smoothed(line, list(breaks)) if smooth else []
        for kind, each in [(f"{style} raw", line), (style, means)] if means else [(style, line)]:
            path = [(across(x) + shift, y) for x, y in each]
            parts.append(f'<path class="line {kind}" d="{_path(path, up)}"/>')
        parts += [f'<path class="bar" d="M{across(x) + shift} {up(low)}V{up(high)}"/>' for x, low, high in bars[label]]
        dots = [(x, y) for x, y in path if y is not None]
        for x, y in dots if bars[label] else dots[-1:]:
            parts.append(f'<circle class="dot {style}" cx="{x}" cy="{up(y)}" r="2.5"/>')
        labels.append((up(dots[-1][1]), style, f"{label} {number(dots[-1][1])}"))
    labels.sort(key=lambda each: each[0])
    for (y, style, label), place in zip(labels, _label_places([y for y, *_ in labels], bottom), strict=True):
        parts.append(f'<path class="lead" d="M{right + 4} {y}L{right + 12} {place:.1f}"/>')
        parts.append(f'<path class="line {style}" d="M{right + 12} {place:.1f}h16"/>')
        parts.append(_text(right + 32, place + 3.5, label, "start", "label"))
    return _svg(title, "; ".join(message), height, parts, alone)


def _path(points: Points, up: Callable[[float], float]) -> str:
    """Return the path of a line: a gap where a number is missing, a short dash for a number between gaps."""
    pen, out = False, []
    for x, y in points:
        if y is not None:
            out.append(f"{'L' if pen else 'M'}{x} {up(y)}" + ("" if pen else "h0.5"))
        pen = y is not None
    return "".join(out)


def _label_places(places: Sequence[float], bottom: float) -> list[float]:
    """Move sorted places apart just enough for labels, and keep them above the bottom."""
    out: list[float] = []
    for place in places:
        out.append(max(place, out[-1] + _LABEL_GAP) if out else place)
    return [place - max(0.0, out[-1] - bottom) for place in out]


def dumbbells(
    title: str, tables: Mapping[str, Mapping[str, Row | Estimate]], percent: bool = False, change: bool = False
) -> Markup:
    """Draw the value of every measure in each table, with its 95 % interval; the marker of the last table is filled.

    percent     write numbers in percent
    change      values are changes: a file of its own, with a line at zero and the numbers at the right"""
    every = [{name: estimate(row) for name, row in rows.items()} for rows in tables.values()]
    cells = [row for rows in every for row in rows.values()]
    if not cells:
        return Markup("")
    ends = [end for row in cells for end in (row.value, row.low, row.high) if end is not None] + [0.0] * change
    marks = ticks(min(ends), max(ends), 6)
    names = dict.fromkeys(name for rows in every for name in rows)
    left, row_height = 170, 16 + 10 * len(every)
    height = row_height * len(names) + TOP + BOTTOM
    across = scale(marks[0], marks[-1], left, WIDTH - 24 - 128 * change)
    parts = []
    for mark in marks:
        kind = "axis" if change and mark == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{across(mark)} {TOP}V{height - BOTTOM}"/>')
        parts.append(_text(across(mark), height - BOTTOM + 15, number((100 if percent else 1) * mark), "middle"))
    for index, name in enumerate(names):
        y = TOP + row_height * (index + 0.5)
        parts.append(_text(left - 14, y + 4, name, "end", "label"))
        values = [(place, rows[name]) for place, rows in enumerate(every) if name in rows]
        if len(values) > 1:
            parts.append(f'<path class="joint" d="M{across(values[0][1].value)} {y}H{across(values[-1][1].value)}"/>')
        for place, row in values:
            at = y + 9 * (place - (len(every) - 1) / 2)
            if row.low is not None and row.high is not None:
                parts.append(f'<path class="bar" d="M{across(row.low)} {at}H{across(row.high)}"/>')
            parts.append(marker(place, len(every), across(row.value), at))
            if change:
                parts.append(_text(WIDTH - 8, y + 4, formatting.number(row, percent, True), "end", "label"))
    message = "; ".join(
        f"{table}: " + ", ".join(f"{name} {formatting.number(row, percent, change)}" for name, row in rows.items())
        for table, rows in tables.items()
    )
    return _svg(title, message, height, parts, alone=change)


def marker(place: int, count: int, x: float, y: float) -> str:
    """The first table is an open circle, the last a filled one, those between open squares and diamonds."""
    if place in (0, count - 1):
        return f'<circle class="mark{" last" if place else ""}" cx="{x}" cy="{y}" r="5"/>'
    turn = f' transform="rotate(45 {x} {y})"' if place % 2 == 0 else ""
    return f'<rect class="mark" x="{x - 4}" y="{y - 4}" width="8" height="8"{turn}/>'


def key(names: Sequence[str]) -> Markup:
    """The markers of `dumbbells`, by name."""
    item = '<span><svg viewBox="0 0 14 14" width="14" height="14" aria-hidden="true">{}</svg> {}</span>'
    items = [Markup(item).format(Markup(marker(place, len(names), 7, 7)), name) for place, name in enumerate(names)]
    return Markup('<p class="key">{}</p>').format(Markup("").join(items))


def _text(x: float, y: float, words: str, anchor: str, kind: str = "tick") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'


def _svg(title: str, message: str, height: float, parts: Sequence[str], alone: bool) -> Markup:
    label = escape(f"{title}. {message}.")
    if not alone:
        head = f'<svg class="chart" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{label}">'
        return Markup(f"{head}{''.join(parts)}</svg>")
    over = 26
    head = f'<svg xmlns="http://www.w3.org/2000/svg" class="chart" viewBox="0 {-over} {WIDTH} {height + over}"'
    lines = [
        f'{head} width="{WIDTH}" role="img">',
        f"<title>{label}</title>",
        f"<style>{_style_without_variables()}</style>",
    ]
    return Markup("\n".join([*lines, _text(WIDTH / 2, 10 - over, title, "middle", "label"), *parts, "</svg>\n"]))


def _style_without_variables() -> str:
    """Return charts.css with colours in place of variables, which some programs that show SVG do not know."""
    style = STYLE.read_text(encoding="utf-8")
    colours = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((\S+), (\S+)\);", style)}
    rules = "svg { background: var(--paper); }\n" + style.partition("}\n")[2]
    light, dark = (re.sub(r"var\(--(\w+)\)", lambda match: colours[match[1]][at], rules) for at in (0, 1))  # noqa: B023
    return f"{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
