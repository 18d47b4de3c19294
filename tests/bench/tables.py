"""The report for people: the same tables as text for a terminal and as Markdown for a document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.report import MIB, Report, Sample, size_name
from tests.bench.targets import TARGETS, Verdict


@dataclass(frozen=True)
class Table:
    """A table; the first column is text, the others are figures, or (`prose`) sentences."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    prose: bool = False

    def text(self) -> str:
        """For a terminal."""
        if self.prose:
            named = [(row[0], zip(self.header[1:], row[1:], strict=True)) for row in self.rows]
            lines_of = [[f"  {name}", *(f"    {what}: {words}" for what, words in cells)] for name, cells in named]
            return "\n".join([self.title, *(line for lines in lines_of for line in lines)])
        lines = [self.header, *self.rows]
        widths = [max(len(line[column]) for line in lines) for column in range(len(self.header))]
        shown = [self.title]
        for line in lines:
            cells = [line[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))]
            shown.append("  " + "  ".join(cells).rstrip())
        return "\n".join(shown)

    def markdown(self) -> str:
        """For a document."""
        rule = ["---", *["---" if self.prose else "---:"] * (len(self.header) - 1)]
        lines = [" | ".join(cell.replace("|", "\\|") for cell in line) for line in (self.header, rule, *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(f"| {line} |" for line in lines)


def number(value: float) -> str:
    """Three digits or more: `0.125`, `1.25`, `12.5`, `125`, `1,250`."""
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.9995 else f"{value:.3f}"


def tables(report: Report) -> list[Table]:
    """Every table that the report has figures for."""
    made = [_targets(report), _rates(report), _latencies(report), _processor(report), _limits(report), _values(report)]
    made += [_promises(report)]
    made += [_curve(name, points) for name, points in report.curves.items()]
    return [table for table in made if table.rows]


def text(report: Report) -> str:
    """The whole report for a terminal."""
    parts = [about(report), *(table.text() for table in tables(report)), *_sentences(report)]
    return "\n\n".join(parts)


def markdown(report: Report) -> str:
    """The whole report for a document."""
    return "\n\n".join([about(report), *(table.markdown() for table in tables(report)), *_sentences(report)])


def about(report: Report) -> str:
    """Where, with what and how often it was measured."""
    machine = report.machine
    return (
        f"{machine.get('cores')} cores of {machine.get('processor')}, {machine.get('memory_mib', 0) / 1024:.0f} GiB of memory, "
        f"{machine.get('file_system')}, {machine.get('system')}, Python {machine.get('python')}, dfs {machine.get('commit')}; "
        f"median of {report.options.get('runs')} run(s)"
    )


def _sentences(report: Report) -> list[str]:
    found = [f"Left out: {sentence}." for sentence in report.left_out]
    return found + [f"FAILED: {sentence}" for sentence in report.failed]


def _titles(report: Report, lines: Sequence[str]) -> list[str]:
    return [str(report.stores[line]["title"]) for line in lines]


def _amount(sample: Sample, figure: str) -> str:
    """Requests a second for small objects, bytes for big ones."""
    if " MiB," in figure or " GiB," in figure:
        return f"{number(sample.mb)} MB/s"
    return f"{number(sample.rate)}/s"


def _rates(report: Report) -> Table:
    lines = report.lines()
    rows = []
    for figure in report.figures():
        dfs = report.sample(figure, "dfs")
        cells = []
        for line in lines:
            sample = report.sample(figure, line)
            if sample is None:
                cells.append("")
            elif line == "dfs" or dfs is None:
                cells.append(_amount(sample, figure))
            else:
                cells.append(f"{_amount(sample, figure)} (×{number(dfs.rate / sample.rate)})")
        rows.append([figure, *cells])
    return Table("Rates; in brackets: dfs ÷ this one", ["", *_titles(report, lines)], rows)


def _latencies(report: Report) -> Table:
    lines = report.lines()
    rows = []
    for figure in report.figures():
        found = [report.sample(figure, line) for line in lines]
        rows.append([figure, *("" if s is None else f"{number(s.median_ms)} / {number(s.p99_ms)}" for s in found)])
    return Table("Latency in ms, median / 99 of 100", ["", *_titles(report, lines)], rows)


def _processor(report: Report) -> Table:
    lines = report.lines()
    rows = []
    for figure in report.figures():
        found = [report.sample(figure, line) for line in lines]
        loads = [s.load_us for s in found if s is not None]
        rows.append([figure, *("" if s is None else _cost(s) for s in found), f"{number(sum(loads) / len(loads))} µs"])
    return Table("Processor time a request (and for 10^9 bytes), all processes of the store", ["", *_titles(report, lines), "the load itself"], rows)  # fmt: skip


def _cost(sample: Sample) -> str:
    size = sample.mb / sample.rate * 1e6
    each = f"{number(sample.cpu)} µs"
    return f"{each} ({number(sample.cpu * 1e3 / size)} s/GB)" if size > MIB // 2 else each


def _limits(report: Report) -> Table:
    rows = [[name, number(report.value(name) or 0.0)] for name in report.limits]
    return Table("What the machine does without a store", ["", "median"], rows)


def _values(report: Report) -> Table:
    rows = [[name, number(report.value(name) or 0.0)] for name in report.values]
    return Table("Other figures", ["", "median"], rows)


def _promises(report: Report) -> Table:
    rows = [[str(about["title"]), str(about["promise"]), str(about["reads"])] for about in report.stores.values()]
    return Table("What had been done when it answered", ["", "a PUT", "a GET had checked"], rows, prose=True)


def _targets(report: Report) -> Table:
    rows: list[list[str]] = []
    verdicts = [(target, target.judge(report)) for target in TARGETS]
    if not any(verdict for _, verdict in verdicts):
        return Table("Targets", [""], rows)
    for target, verdict in verdicts:
        if verdict is None and report.options.get("only"):
            continue
        if verdict is None:
            rows.append([target.row, target.asked, "", "", "", "not measured"])
        else:
            against = "" if verdict.against is None else number(verdict.against)
            ratio = "" if verdict.against is None else f"×{number(verdict.ratio)}"
            rows.append([target.row, target.asked, number(verdict.found), against, ratio, _answer(verdict)])
    return Table("Targets", ["", "target", "dfs", "against", "ratio", ""], rows)


def _answer(verdict: Verdict) -> str:
    return "met" if verdict.met else "MISSED"


def _curve(name: str, points: Sequence[dict[str, float]]) -> Table:
    keys = list(points[0]) if points else []
    rows = [[_coordinate(keys[0], point), *(number(point[key]) for key in keys[1:])] for point in points]
    return Table(f"Curve: {name}", keys, rows)


def _coordinate(key: str, point: dict[str, float]) -> str:
    return size_name(int(point[key])) if key == "file size" else f"{int(point[key]):,}"
