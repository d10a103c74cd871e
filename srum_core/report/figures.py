"""Figures as SVG files. Lines are told apart by markers and dashes, in the colour of the text around."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from attrs import frozen

from srum_core.evaluation.statistics import Estimate
from srum_core.report.charts import Scale, ticks

WIDTH = 640
_STYLE = (
    "svg:root{color:#1f2328;background:#fff}"
    "@media (prefers-color-scheme:dark){svg:root{color:#e6edf3;background:#0d1117}}"
)
"""Only where the picture stands alone; inside a page it takes the page's colour."""
_DASHES = ("", "6 4", "2 3", "8 3 2 3")


@frozen
class Figure:
    file: str
    title: str
    svg: str


def labelled(scale: Scale) -> list[float]:
    """The round numbers within a scale."""
    return [value for value in ticks(scale.low, scale.high) if scale.low <= value <= scale.high]


def scale_of(values: Sequence[float], start: float, end: float) -> Scale:
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.01
    return Scale(low - margin, high + margin, start, end)


def chart(file: str, name: str, axis: str, lines: Mapping[str, Sequence[tuple[float, Estimate]]]) -> Figure:
    """A value with its interval over x, a line each."""
    every = [point for points in lines.values() for point in points]
    across = scale_of([x for x, _ in every], 70, WIDTH - 130)
    down = scale_of([end for _, each in every for end in ends(each)], 300, 44)
    parts = [text(WIDTH / 2, 20, name, anchor="middle", bold=True)]
    for tick in labelled(down):
        parts.append(path([(70, down(tick)), (WIDTH - 130, down(tick))], opacity=0.15))
        parts.append(text(62, down(tick) + 4, f"{tick:g}".replace("-", "−"), anchor="end"))
    for x in sorted({x for x, _ in every}):
        parts.append(path([(across(x), 300), (across(x), 305)]))
        parts.append(text(across(x), 322, f"{x:g}", anchor="middle"))
    parts += [path([(70, 300), (WIDTH - 130, 300)]), text((WIDTH - 60) / 2, 344, axis, anchor="middle")]
    for number, (line, points) in enumerate(lines.items()):
        parts += _curve(line, sorted(points, key=lambda point: point[0]), number, across, down)
    return figure(file, name, 356, parts)


def _curve(line: str, points: Sequence[tuple[float, Estimate]], number: int, across: Scale, down: Scale) -> list[str]:
    shift = 3 * number  # so that intervals at the same place do not hide one another
    places = [(across(x) + shift, down(each.value)) for x, each in points]
    parts = [f"<g><title>{escape(line)}</title>", path(places, dash=_DASHES[number % len(_DASHES)], width=2)]
    for (x, y), (_, each) in zip(places, points, strict=True):
        low, high = ends(each)
        parts += [*whisker(x, down(low), x, down(high)), _marker(x, y, number)]
    x, y = places[-1]
    return [*parts, text(x + 12, y + 4, line), "</g>"]


def ends(estimate: Estimate) -> tuple[float, float]:
    low, high = estimate.low, estimate.high
    return (estimate.value, estimate.value) if low is None or high is None else (low, high)


# ---- pieces ---------------------------------------------------------------------------------------------------------


def figure(file: str, title: str, height: float, parts: Sequence[str]) -> Figure:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" width="{WIDTH}" height="{height:g}" '
        f'role="img" font-family="system-ui, sans-serif" font-size="13">'
    )
    body = "\n".join([head, f"<title>{escape(title)}</title>", f"<style>{_STYLE}</style>", *parts, "</svg>"])
    return Figure(file, title, body + "\n")


def text(x: float, y: float, words: str, anchor: str = "start", bold: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="currentColor"{weight}>{escape(words)}</text>'


def path(points: Sequence[tuple[float, float]], dash: str = "", width: float = 1, opacity: float = 1) -> str:
    way = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dashes = f' stroke-dasharray="{dash}"' if dash else ""
    look = f'stroke="currentColor" stroke-width="{width:g}" stroke-opacity="{opacity:g}"{dashes}'
    return f'<path d="{way}" fill="none" {look}/>'


def whisker(x0: float, y0: float, x1: float, y1: float) -> list[str]:
    """An interval with a bar at each end."""
    flat = y0 == y1
    dx, dy = (0, 4) if flat else (4, 0)
    ends = [path([(x - dx, y - dy), (x + dx, y + dy)]) for x, y in ((x0, y0), (x1, y1))]
    return [path([(x0, y0), (x1, y1)]), *ends]


def _marker(x: float, y: float, number: int) -> str:
    """A disc, a square, a triangle, a diamond, in turn."""
    if number % 4 == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="currentColor"/>'
    shapes = {
        1: [(-4, -4), (4, -4), (4, 4), (-4, 4)],
        2: [(0, -5), (5, 4), (-5, 4)],
        3: [(0, -6), (6, 0), (0, 6), (-6, 0)],
    }
    corners = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in shapes[number % 4])
    return f'<polygon points="{corners}" fill="currentColor"/>'


def shown(value: float, signed: bool = False) -> str:
    return f"{value:{'+' if signed else ''}.3f}".replace("-", "−")
