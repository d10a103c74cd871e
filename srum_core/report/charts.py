"""Charts as SVG, in a page or as files; lines differ by style, marker and label, never by colour alone.

Colours are those of charts.css: the page has it, and a chart that stands alone has it inside.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from math import ceil, floor, log10
from pathlib import Path
from statistics import fmean

from attrs import evolve, frozen
from markupsafe import Markup, escape

from srum_core.evaluation import formatting
from srum_core.evaluation.statistics import Estimate
from srum_core.records import Row

STYLE = Path(__file__).with_name("charts.css")
WIDTH, LEFT, RIGHT, TOP, BOTTOM = 540, 52, 124, 18, 34
_MOST = 300
"""Points of a line; with more steps each is the mean of several."""
_WINDOW = 20
"""A smoothed line is the mean over about one in so many steps around each."""
_EQUAL = 1e-6
"""Numbers that differ by a smaller share make no scale."""
_APART = 13.0
"""Pixels between the labels at the ends of lines."""

Points = Sequence[tuple[float, float | None]]
"""(x, y); y is None where there is nothing to measure."""


@frozen
class Line:
    """y over x."""

    label: str
    points: Points
    ends: Sequence[tuple[float, float, float]] = ()
    """(x, low, high) of intervals; such a line has a dot at every point."""

    @property
    def there(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if y is not None]


@frozen
class Scale:
    """From values in [low, high] to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 2)


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers that span [low, high]; the number itself where all are equal but for rounding."""
    if high - low <= _EQUAL * max(abs(low), abs(high)):
        return [low]
    rough = (high - low) / about
    power = 10.0 ** floor(log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first, last = floor(low / step + 1e-9), ceil(high / step - 1e-9)
    return [float(f"{index * step:.10g}") for index in range(first, last + 1)]


def number(value: float) -> str:
    """Short, and never -0."""
    text = f"{value:.3g}" if abs(value) < 1e5 and (value == 0 or abs(value) >= 1e-3) else f"{value:.1e}"
    return "0" if text == "-0" else text.replace("-", "−", 1) if text.startswith("-") else text


def thin(points: Points) -> Points:
    """At most `_MOST` points, each the mean of as many neighbours."""
    size = ceil(len(points) / _MOST) or 1
    parts = [points[start : start + size] for start in range(0, len(points), size)]
    return [(fmean(x for x, _ in part), _mean([y for _, y in part])) for part in parts]


def smoothed(points: Points, breaks: Sequence[float]) -> Points:
    """Centred means over neighbours of the same round; empty with too few points for them."""
    reach = len(points) // (2 * _WINDOW)
    parts = [sum(x >= start for start in breaks) for x, _ in points] if reach else []
    out: list[tuple[float, float | None]] = []
    for place, part in enumerate(parts):
        near = range(max(0, place - reach), min(len(points), place + reach + 1))
        x, own = points[place]
        out.append((x, own if own is None else _mean([points[k][1] for k in near if parts[k] == part])))
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def curves(title: str, axis: str, lines: Mapping[str, Sequence[tuple[float, Estimate]]], alone: bool = True) -> Markup:
    """Values and their intervals over x, a line each."""
    made = []
    for label, points in lines.items():
        points = sorted(points, key=lambda point: point[0])
        ends = [(x, each.low, each.high) for x, each in points if each.low is not None and each.high is not None]
        made.append(Line(label, [(x, each.value) for x, each in points], ends))
    return line_chart(title, made, {}, 300, axis=axis, alone=alone)


def line_chart(
    title: str,
    lines: Sequence[Line],
    breaks: Mapping[float, str],
    height: int = 210,
    smooth: bool = False,
    axis: str = "training step",
    alone: bool = False,
) -> Markup:
    """`breaks`: where a round begins, by x. `smooth`: over the raw lines. `alone`: as a file of its own. Empty without
    a number to show."""
    lines = [evolve(line, points=thin(line.points)) for line in lines if line.there]
    if not lines:
        return Markup("")
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.there]
    ys += [end for line in lines for _, *ends in line.ends for end in ends]
    marks = ticks(min(0.0, *ys) if min(ys) < 0.5 * max(ys) else min(ys), max(ys))
    right, bottom = WIDTH - RIGHT, height - BOTTOM
    across = Scale(min(xs), max(xs) if max(xs) > min(xs) else min(xs) + 1, LEFT, right)
    up = Scale(marks[0], marks[-1], bottom, TOP)
    parts = []
    for mark in marks:
        parts.append(f'<path class="{"axis" if mark == 0 else "grid"}" d="M{LEFT} {up(mark)}H{right}"/>')
        parts.append(_text(LEFT - 7, up(mark) + 4, number(mark), "end"))
    for x, words in breaks.items():
        parts.append(f'<path class="break" d="M{across(x)} {TOP}V{bottom}"/>')
        parts.append(_text(across(x), TOP - 6, words, "start"))
    whole = all(x == int(x) for x in xs)
    wanted = [x for x in ticks(min(xs), max(xs), 6) if min(xs) <= x <= max(xs) and (x == int(x) or not whole)]
    parts += [_text(across(x), bottom + 14, number(x), "middle") for x in wanted]
    parts.append(_text((LEFT + right) / 2, height - 4, axis, "middle"))
    labels = []
    for index, line in enumerate(lines):
        style = f"s{index % 6}"
        if smooth and (means := smoothed(line.points, list(breaks))):
            parts.append(f'<path class="line {style} raw" d="{_path(line.points, across, up)}"/>')
            line = Line(line.label, means)
        shift = 3 * index * bool(line.ends)  # so that intervals at the same place do not hide one another
        along = evolve(across, start=across.start + shift, end=across.end + shift)
        parts.append(f'<path class="line {style}" d="{_path(line.points, along, up)}"/>')
        parts += [f'<path class="bar" d="M{along(x)} {up(low)}V{up(high)}"/>' for x, low, high in line.ends]
        for x, y in line.there if line.ends else line.there[-1:]:
            parts.append(f'<circle class="dot {style}" cx="{along(x)}" cy="{up(y)}" r="2.5"/>')
        labels.append((up(line.there[-1][1]), style, f"{line.label} {number(line.there[-1][1])}"))
    labels.sort(key=lambda label: label[0])
    for (y, style, label), place in zip(labels, _spread([label[0] for label in labels], bottom), strict=True):
        parts.append(f'<path class="lead" d="M{right + 4} {y}L{right + 12} {place:.1f}"/>')
        parts.append(f'<path class="line {style}" d="M{right + 12} {place:.1f}h16"/>')
        parts.append(_text(right + 32, place + 3.5, label, "start", "label"))
    message = "; ".join(
        f"{each.label} from {number(each.there[0][1])} to {number(each.there[-1][1])}" for each in lines
    )
    return _svg(title, message, height, parts, alone)


def _path(points: Points, across: Scale, up: Scale) -> str:
    """A gap where there is no number; a number on its own becomes a short dash."""
    pen, out = False, []
    for x, y in points:
        if y is not None:
            out.append(f"{'L' if pen else 'M'}{across(x)} {up(y)}" + ("" if pen else "h0.5"))
        pen = y is not None
    return "".join(out)


def _spread(places: Sequence[float], bottom: float) -> list[float]:
    """Sorted places, moved apart just enough for labels, and kept above the bottom."""
    out: list[float] = []
    for place in places:
        out.append(max(place, out[-1] + _APART) if out else place)
    return [place - max(0.0, out[-1] - bottom) for place in out]


def dumbbells(
    title: str,
    tables: Mapping[str, Mapping[str, Row | Estimate]],
    percent: bool = False,
    change: bool = False,
    alone: bool = False,
) -> Markup:
    """For every measure its value in each table, with its 95 % interval; the last is filled.

    `percent` is how numbers are written. A `change` has a line at zero, and its value at the end of its line."""
    every = [
        {name: formatting.estimate(row) if isinstance(row, Row) else row for name, row in rows.items()}
        for rows in tables.values()
    ]
    found = [row for rows in every for row in rows.values()]
    if not found:
        return Markup("")
    ends = [end for row in found for end in (row.value, row.low, row.high) if end is not None] + [0.0] * change
    marks = ticks(min(ends), max(ends), 6)
    names = dict.fromkeys(name for rows in every for name in rows)
    left, row_height = 170, 16 + 10 * len(every)
    height = row_height * len(names) + TOP + BOTTOM
    across = Scale(marks[0], marks[-1], left, WIDTH - 24 - 128 * change)
    parts = []
    for mark in marks:
        kind = "axis" if change and mark == 0 else "grid"
        parts.append(f'<path class="{kind}" d="M{across(mark)} {TOP}V{height - BOTTOM}"/>')
        parts.append(_text(across(mark), height - BOTTOM + 15, number((100 if percent else 1) * mark), "middle"))
    for index, name in enumerate(names):
        y = TOP + row_height * (index + 0.5)
        parts.append(_text(left - 14, y + 4, name, "end", "label"))
        shown = [(place, rows[name]) for place, rows in enumerate(every) if name in rows]
        if len(shown) > 1:
            parts.append(f'<path class="joint" d="M{across(shown[0][1].value)} {y}H{across(shown[-1][1].value)}"/>')
        for place, row in shown:
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
    return _svg(title, message, height, parts, alone)


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
    shown = [f'{head} width="{WIDTH}" role="img">', f"<title>{label}</title>", f"<style>{_own_style()}</style>"]
    return Markup("\n".join([*shown, _text(WIDTH / 2, 10 - over, title, "middle", "label"), *parts, "</svg>\n"]))


def _own_style() -> str:
    """charts.css with colours in place of variables, which not every program that shows SVG knows."""
    style = STYLE.read_text(encoding="utf-8")
    colours = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((\S+), (\S+)\);", style)}
    rules = "svg { background: var(--paper); }\n" + style.partition("}\n")[2]

    def shade(at: int) -> str:
        return re.sub(r"var\(--(\w+)\)", lambda found: colours[found[1]][at], rules)

    return f"{shade(0)}@media (prefers-color-scheme: dark) {{\n{shade(1)}}}\n"
