"""Plots as SVG, by the standard library alone: bars that compare stores, curves that show growth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from xml.sax.saxutils import escape

from tests.bench.report import KIB, MIB, Report, Sample, figure_name, size_name
from tests.bench.tables import number

COLOURS = {
    "dfs": "#1f5fa8",
    "dfs-first": "#7fb0dd",
    "nginx": "#8a8f98",
    "seaweedfs": "#2e8b57",
    "seaweedfs-fsync": "#8fcaa8",
    "swift": "#c8553d",
}
_SERIES = ("#1f5fa8", "#c8553d", "#2e8b57", "#8a5fb0", "#b08a2e")
_FONT = "font-family='DejaVu Sans, Helvetica, Arial, sans-serif'"
_BAR, _GAP, _GROUP_GAP = 15, 4, 22
_WIDTH, _LEFT, _RIGHT = 560, 150, 150


def _text(x: float, y: float, words: str, *, size: int = 12, anchor: str = "start", colour: str = "#222", bold: bool = False) -> str:
    weight = " font-weight='bold'" if bold else ""
    return f"<text x='{x:.1f}' y='{y:.1f}' font-size='{size}' text-anchor='{anchor}' fill='{colour}'{weight}>{escape(words)}</text>"


def _document(width: float, height: float, parts: Sequence[str], title: str) -> str:
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' width='{width:.0f}' height='{height:.0f}' "
        f"viewBox='0 0 {width:.0f} {height:.0f}' role='img' {_FONT}>"
        f"<title>{escape(title)}</title><rect width='100%' height='100%' fill='#ffffff'/>{''.join(parts)}</svg>\n"
    )


def bars(report: Report, clients: int = 8) -> str:
    """For each size and method a group of bars, one for each store; the longest of a group is the fastest."""
    columns = []
    for method in ("PUT", "GET"):
        groups = []
        for size in (KIB, 64 * KIB, MIB, 64 * MIB):
            found = [(line, report.sample(figure_name(method, size, clients), line)) for line in report.lines()]
            present = [(line, sample) for line, sample in found if sample is not None]
            if present:
                groups.append((size, present))
        columns.append((method, groups))
    heights = [sum(len(present) * (_BAR + _GAP) + _GROUP_GAP for _, present in groups) for _, groups in columns]
    height = 96 + max(heights)
    title = f"Requests a second, {clients} clients: each group's longest bar is its fastest store"
    parts = [_text(20, 30, title, size=16, bold=True)]
    parts.append(_text(20, 50, "Behind each bar its figure, and how many times as fast dfs is. What each store had promised "
                       "differs: see the table.", colour="#555"))  # fmt: skip
    for column, (method, groups) in enumerate(columns):
        left = column * _WIDTH
        parts.append(_text(left + 20, 78, "PUT" if method == "PUT" else "GET", size=15, bold=True))
        y = 90.0
        for size, present in groups:
            y = _group(parts, report, left, y, size, present)
    return _document(2 * _WIDTH, height, parts, title)


def _group(parts: list[str], report: Report, left: float, y: float, size: int, present: Sequence[tuple[str, Sample]]) -> float:
    fastest = max(sample.rate for _, sample in present)
    own = next((sample.rate for line, sample in present if line == "dfs"), None)
    room = _WIDTH - _LEFT - _RIGHT
    parts.append(_text(left + 20, y + _BAR - 3, size_name(size), bold=True))
    for line, sample in present:
        length = max(1.0, room * sample.rate / fastest)
        amount = f"{number(sample.mb)} MB/s" if size >= MIB else f"{number(sample.rate)}/s"
        ratio = f"   ×{number(own / sample.rate)}" if own and line != "dfs" else ""
        parts.append(_text(left + _LEFT - 6, y + _BAR - 3, str(report.stores[line]["title"]).replace("OpenStack ", "")
                           .replace("SeaweedFS, ?fsync=true", "Seaweed, fsync"), size=11, anchor="end"))  # fmt: skip
        parts.append(f"<rect x='{left + _LEFT:.1f}' y='{y:.1f}' width='{length:.1f}' height='{_BAR}' rx='2' "
                     f"fill='{COLOURS.get(line, '#444')}'/>")  # fmt: skip
        parts.append(_text(left + _LEFT + length + 6, y + _BAR - 3, amount + ratio, size=11, bold=line == "dfs"))
        y += _BAR + _GAP
    return y + _GROUP_GAP - _GAP


def curve(name: str, points: Sequence[dict[str, float]], *, unit: str) -> str:
    """A line for each column after the first, whose values stand at equal distances; upwards the scale is
    logarithmic where it spans more than a factor of 20."""
    keys = list(points[0])
    values = [point[key] for point in points for key in keys[1:] if point[key] > 0]
    left, top, width, height = 80, 74, 560, 300
    places = [left + width * (n / (len(points) - 1) if len(points) > 1 else 0.5) for n in range(len(points))]
    scale = _Scale(values, top + height, height)
    parts = [_text(20, 30, name, size=16, bold=True), _text(20, 50, unit, colour="#555")]
    for value in scale.ticks():
        y = scale(value)
        parts.append(f"<line x1='{left}' x2='{left + width}' y1='{y:.1f}' y2='{y:.1f}' stroke='#e3e6ea'/>")
        parts.append(_text(left - 8, y + 4, number(value) if value else "0", size=11, anchor="end", colour="#555"))
    for x, point in zip(places, points, strict=True):
        words = size_name(int(point[keys[0]])) if keys[0] == "file size" else f"{int(point[keys[0]]):,}"
        parts.append(_text(x, top + height + 20, words, size=11, anchor="middle", colour="#555"))
    parts.append(_text(left + width / 2, top + height + 40, keys[0], anchor="middle"))
    for place, key in enumerate(keys[1:]):
        colour = _SERIES[place % len(_SERIES)]
        dots = [(x, scale(point[key])) for x, point in zip(places, points, strict=True) if point[key] > 0]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        parts.append(f"<polyline points='{path}' fill='none' stroke='{colour}' stroke-width='2.5'/>")
        parts += [f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3.5' fill='{colour}'/>" for x, y in dots]
        parts.append(f"<rect x='{left + width + 20}' y='{top + 8 + place * 22}' width='12' height='12' fill='{colour}'/>")
        parts.append(_text(left + width + 38, top + 18 + place * 22, key))
    return _document(left + width + 230, top + height + 60, parts, name)


class _Scale:
    """Values to heights: from 0, or logarithmic where they span more than a factor of 20."""

    def __init__(self, values: Sequence[float], bottom: float, height: float) -> None:
        self._log = bool(values) and max(values) / min(values) > 20
        self._low, self._high = 0.0, max(values, default=1.0) * 1.1
        if self._log:
            self._low = 10 ** math.floor(math.log10(min(values)))
            self._high = 10 ** math.ceil(math.log10(max(values)))
        self._bottom, self._height = bottom, height

    def _place(self, value: float) -> float:
        return math.log10(value) if self._log else value

    def __call__(self, value: float) -> float:
        low, high = self._place(self._low), self._place(self._high)
        return self._bottom - self._height * (self._place(value) - low) / (high - low)

    def ticks(self) -> list[float]:
        """Round values to draw lines at."""
        if self._log:
            first, last = round(math.log10(self._low)), round(math.log10(self._high))
            return [float(10**power) for power in range(first, last + 1)]
        step = 10 ** math.floor(math.log10(self._high))
        step = next(s for s in (step / 5, step / 2, step, step * 2) if self._high / s <= 8)
        return [step * count for count in range(int(self._high / step) + 1)]
