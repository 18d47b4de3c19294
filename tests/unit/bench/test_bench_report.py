"""Medians, ratios, targets, tables and the document they go into."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import document, limits, tables, targets
from tests.bench.load import Outcome
from tests.bench.report import GIB, KIB, MIB, Report, Sample, figure_name, middle, size_name


def sample(rate: float, size: int = KIB, **cpu: float) -> Sample:
    return Sample(rate, rate * size / 1e6, 1000 / rate, 3000 / rate, 100, 20.0, cpu)


def a_report() -> Report:
    report = Report(options={"runs": 3}, machine={"cores": 2, "processor": "a processor"})
    for line in ("dfs", "nginx", "seaweedfs"):
        report.stores[line] = {"title": line.title(), "promise": f"{line} promises", "reads": "nothing"}
    for rate in (100.0, 300.0, 200.0):
        report.add(figure_name("GET", KIB, 8), "dfs", sample(rate, api=10.0, node=20.0))
        report.add(figure_name("GET", KIB, 8), "nginx", sample(500.0, nginx=5.0))
        report.add(figure_name("GET", KIB, 8), "seaweedfs", sample(50.0, filer=50.0))
        report.add(figure_name("PUT", 64 * MIB, 1), "dfs", sample(5.0, 64 * MIB, api=100.0))
    report.limits[limits.RAW_WRITE] = [1000.0, 1200.0, 1100.0]
    report.note(targets.LISTED, 60_000.0)
    report.note(targets.API_RSS, 300.0)
    return report


def test_names_of_sizes_and_figures() -> None:
    assert [size_name(n) for n in (1, 1000, KIB, 64 * KIB, MIB, 64 * MIB, GIB)] == [
        "1 B", "1000 B", "1 KiB", "64 KiB", "1 MiB", "64 MiB", "1 GiB",
    ]  # fmt: skip
    assert figure_name("PUT", KIB, 8) == "PUT 1 KiB, 8 clients"
    assert figure_name("GET", MIB, 1) == "GET 1 MiB, 1 client"


def test_a_sample_is_made_of_an_outcome() -> None:
    outcome = Outcome(seconds=2.0, latencies=[0.001] * 98 + [0.005, 0.010], cpu=0.01)
    made = Sample.of(outcome, MIB, {"api": 0.2, "node": 0.1})
    assert made.rate == 50
    assert made.mb == pytest.approx(50 * MIB / 1e6)
    assert made.median_ms == pytest.approx(1.0)
    assert made.p99_ms == pytest.approx(10.0)
    assert made.load_us == pytest.approx(100)
    assert made.cpu_us == pytest.approx({"api": 2000, "node": 1000})
    assert made.cpu == pytest.approx(3000)


def test_the_middle_is_the_median_of_each_part() -> None:
    found = middle([sample(100, api=9.0), sample(300, api=1.0), sample(200, node=4.0)])
    assert found.rate == 200
    assert found.median_ms == pytest.approx(5.0)
    assert found.cpu_us == {"api": 1.0, "node": 0.0}  # a role that was not there used nothing


def test_targets_are_judged_by_ratios_within_the_report() -> None:
    report = a_report()
    found = {(t.row, t.asked): t.judge(report) for t in targets.TARGETS}
    against_nginx = found["1 KiB GET, 8 clients", "≥ 0.5 × nginx"]
    assert against_nginx is not None
    assert (against_nginx.found, against_nginx.against) == (200, 500)
    assert against_nginx.ratio == pytest.approx(0.4)
    assert not against_nginx.met
    against_seaweedfs = found["1 KiB GET, 8 clients", "≥ 3 × SeaweedFS"]
    assert against_seaweedfs is not None and against_seaweedfs.met
    raw = found["64 MiB PUT, 1 client", "≥ 0.5 × (raw write rate ÷ 2)"]
    assert raw is not None
    assert raw.ratio == pytest.approx(5 * 64 * MIB / 1e6 / 550)
    listed = found["listing 100,000 paths", "≥ 50,000 paths/s"]
    assert listed is not None and listed.met and listed.against is None
    rss = found["32 transfers of 1 GiB, API RSS", "≤ 256 MiB"]
    assert rss is not None and not rss.met
    assert found["1 KiB PUT, 8 clients", "≥ 12 × Swift"] is None


def test_every_target_is_asked_once() -> None:
    names = [(target.row, target.asked) for target in targets.TARGETS]
    assert len(set(names)) == len(names)


def test_a_report_survives_being_written(tmp_path: Path) -> None:
    report = a_report()
    report.curves["a curve"] = [{"nodes": 2.0, "PUT": 3.0}]
    report.left_out.append("nginx: is not here")
    report.write(tmp_path / "bench.json")
    assert Report.read(tmp_path / "bench.json") == report


@pytest.mark.parametrize("text", ["[]", '{"format": 99}', "{"])
def test_other_files_are_no_report(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(ValueError):
        Report.read(tmp_path / "x.json")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1251, "0.125"), (1.256, "1.26"), (12.34, "12.3"), (9.999, "10.0"), (99.96, "100"), (1234.5, "1,234"), (0, "0.000")],
)
def test_numbers_have_three_digits_or_more(value: float, shown: str) -> None:
    assert tables.number(value) == shown


def test_the_tables_have_ratios_answers_promises_and_costs() -> None:
    report = a_report()
    report.left_out.append("swift: is not here; `pip install swift` would help")
    text = tables.text(report)
    for words in ("500/s (×0.400)", "50.0/s (×4.00)", "MISSED", "met", "not measured", "seaweedfs promises",
                  "Left out: swift", "30.0 µs", "s/GB)"):  # fmt: skip
        assert words in text, words


def test_a_part_of_the_bench_shows_no_targets_that_it_cannot_judge() -> None:
    report = a_report()
    report.options["only"] = "GET 1 KiB"
    assert "not measured" not in tables.text(report)


def test_a_report_of_curves_alone_has_no_targets() -> None:
    report = Report(curves={"rates": [{"file size": 1024.0, "PUT": 3.0}, {"file size": 4096.0, "PUT": 5.0}]})
    assert [table.title for table in tables.tables(report)] == ["Curve: rates"]
    assert tables.text(report).splitlines()[-1].split() == ["4", "KiB", "5.00"]


def test_markdown_tables_have_a_rule_and_equal_rows() -> None:
    for table in tables.tables(a_report()):
        lines = table.markdown().splitlines()[2:]
        assert len({line.count("|") for line in lines}) == 1, table.title
        assert set(lines[1]) <= set("|-: ")


def test_the_document_keeps_what_is_outside_its_marks(tmp_path: Path) -> None:
    path = tmp_path / "performance.md"
    path.write_text(f"before\n{document.BEGIN}\nold\n{document.END}\nafter\n")
    document.refresh(path, "new")
    document.refresh(path, "newer")
    assert path.read_text() == f"before\n{document.BEGIN}\n\nnewer\n\n{document.END}\nafter\n"


def test_without_marks_the_figures_are_the_document(tmp_path: Path) -> None:
    document.refresh(tmp_path / "new.md", "figures")
    assert (tmp_path / "new.md").read_text() == "figures\n"


@pytest.mark.parametrize("text", [document.BEGIN, document.END + document.BEGIN, document.BEGIN * 2 + document.END])
def test_broken_marks_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="once"):
        document.replaced(text, "new")
