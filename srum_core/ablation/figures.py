"""Two figures as SVG, after the paper's Figure 3."""

from __future__ import annotations

from html import escape

from srum_core.ablation.tables import Row, Tables
from srum_core.evaluation.statistics import Estimate
from srum_core.report.charts import Scale
from srum_core.report.figures import WIDTH, Figure, chart, ends, figure, labelled, path, scale_of, shown, text, whisker


def drops(tables: Tables) -> Figure | None:
    """Figure 3, left: the change of every marked arm against the reference arm; None without any."""
    rows = [(row, row.drop) for row in tables.rows if row.arm.drop and row.drop is not None]
    if not rows:
        return None
    name = f"Change in {tables.measures[0]} against {tables.reference}"
    left, top, step = 170, 44, 30
    height = top + step * len(rows) + 40
    scale = scale_of([0.0, *(end for _, each in rows for end in ends(each))], left, WIDTH - 90)
    bottom = top + step * len(rows)
    parts = [text(WIDTH / 2, 20, name, anchor="middle", bold=True)]
    for tick in labelled(scale):
        parts.append(path([(scale(tick), top - 8), (scale(tick), bottom)], opacity=0.15))
        parts.append(text(scale(tick), bottom + 18, shown(tick, signed=True), anchor="middle"))
    parts.append(path([(scale(0), top - 8), (scale(0), bottom)]))
    for number, (row, change) in enumerate(rows):
        parts += _bar(row, change, scale, left, top + step * number + step / 2)
    return figure("ablation-drop.svg", name, height, parts)


def _bar(row: Row, change: Estimate, scale: Scale, left: float, y: float) -> list[str]:
    x0, x1 = sorted((scale(0), scale(change.value)))
    low, high = ends(change)
    place = f'x="{x0:.1f}" y="{y - 8:.1f}" width="{x1 - x0:.1f}" height="16"'
    told = f"{row.arm.name}: {shown(change.value, signed=True)} [{shown(low, True)}, {shown(high, True)}]"
    return [
        f"<g><title>{escape(told)}</title>",
        text(left - 10, y + 4, row.arm.name, anchor="end"),
        f'<rect {place} fill="currentColor" fill-opacity="0.3"/>',
        *whisker(scale(low), y, scale(high), y),
        text(WIDTH - 80, y + 4, shown(change.value, signed=True)),
        "</g>",
    ]


def curves(tables: Tables, axis: str) -> Figure | None:
    """Figure 3, right: the first measure against a setting, a line for every way of drawing; None without any."""
    lines: dict[str, list[tuple[float, Estimate]]] = {}
    for row in tables.rows:
        if row.arm.curve and tables.measures and tables.measures[0] in row.means:
            lines.setdefault(row.arm.curve.line, []).append((row.arm.curve.x, row.means[tables.measures[0]]))
    if not any(len(points) > 1 for points in lines.values()):
        return None
    return chart("ablation-curve.svg", f"{tables.measures[0]} against {axis}", axis, lines)
