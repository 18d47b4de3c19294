"""Plots are well-formed SVG that shows what it is given."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from tests.bench import curves, plot
from tests.bench.report import KIB, MIB, Report, Sample, figure_name

SVG = "{http://www.w3.org/2000/svg}"


def _report() -> Report:
    report = Report()
    for rank, line in enumerate(("dfs", "nginx", "swift")):
        report.stores[line] = {"title": f"{line} <&> 'x'", "promise": "", "reads": ""}
        for size in (KIB, 64 * KIB, MIB, 64 * MIB):
            rate = 1000.0 / (rank + 1)
            report.add(figure_name("PUT", size, 8), line, Sample(rate, rate * size / 1e6, 1, 2, 10, 5))
    report.add(figure_name("GET", KIB, 8), "dfs", Sample(5.0, 1.0, 1, 2, 10, 5))
    return report


def test_bars_are_as_long_as_the_figures_are_big() -> None:
    root = ET.fromstring(plot.bars(_report()))
    widths = [float(bar.attrib["width"]) for bar in root.iter(f"{SVG}rect") if bar.attrib.get("rx")]
    assert len(widths) == 3 * 4 + 1
    assert widths[1] * 2 == widths[0]
    assert abs(widths[2] * 3 - widths[0]) < 0.5
    words = [text.text for text in root.iter(f"{SVG}text")]
    assert "1,000/s" in words
    assert "500/s   ×2.00" in words


def test_everything_is_inside_the_picture() -> None:
    root = ET.fromstring(plot.bars(_report()))
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for text in root.iter(f"{SVG}text"):
        assert 0 <= float(text.attrib["x"]) <= width
        assert 0 <= float(text.attrib["y"]) <= height


def test_curves_have_a_line_for_each_column(tmp_path: Path) -> None:
    points = [{"file size": float(KIB << (2 * n)), "PUT": 2.0 * 4**n, "GET": 10.0 * 4**n} for n in range(9)]
    report = Report(curves={curves.BY_SIZE: points, curves.BY_NODES: [{"nodes": 2.0, "PUT 1 KiB": 7.0}]})
    for path in curves.draw(report, tmp_path):
        root = ET.fromstring(path.read_text(encoding="utf-8"))
        name = curves.BY_SIZE if "size" in path.name else curves.BY_NODES
        lines = list(root.iter(f"{SVG}polyline"))
        assert len(lines) == len(report.curves[name][0]) - 1
        assert all(len(line.attrib["points"].split()) == len(report.curves[name]) for line in lines)


def test_a_value_of_nothing_is_left_out_of_a_curve() -> None:
    root = ET.fromstring(plot.curve("x", [{"n": 0.0, "a": 0.0}, {"n": 5.0, "a": 3.0}], unit="/s"))
    assert len(list(root.iter(f"{SVG}circle"))) == 1
