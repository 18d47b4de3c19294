"""How cost grows: rates over the size of a file, over the files stored, over the number of nodes."""

from __future__ import annotations

from pathlib import Path

from tests.bench import machine, plot, preload
from tests.bench.bench import Bench
from tests.bench.load import LoadFailed
from tests.bench.report import KIB, MIB, Report
from tests.bench.stores.dfs import Dfs

SIZES = [KIB << (2 * step) for step in range(9)]
STORED = (0, 10_000, 100_000, 300_000, 1_000_000)
NODES = (2, 3, 4, 5, 6)

BY_SIZE = "rates over file size"
BY_STORED = "rates over files stored"
MEMORY = "memory and restart over files stored"
BY_NODES = "rates over nodes"

UNITS = {
    BY_SIZE: "MB/s, 8 clients",
    BY_STORED: "requests of 1 KiB a second, 8 clients",
    MEMORY: "largest node's resident MiB; seconds from kill -9 until ready",
    BY_NODES: "requests a second, 8 clients, 2 copies",
}
FILES = {BY_SIZE: "curve-size", BY_STORED: "curve-stored", MEMORY: "curve-memory", BY_NODES: "curve-nodes"}


def measure(bench: Bench) -> None:
    """All of them."""
    with bench.attempt(BY_SIZE):
        _over_size(bench)
    with bench.attempt(BY_STORED):
        _over_stored(bench)
    with bench.attempt(BY_NODES):
        _over_nodes(bench)


def _point(bench: Bench, name: str, point: dict[str, float]) -> None:
    bench.report.curves.setdefault(name, []).append(point)
    machine.say(f"{name}: " + ", ".join(f"{key} {value:,.2f}" for key, value in point.items()))


def _rates(bench: Bench, server: Dfs, size: int) -> tuple[float, float]:
    """(PUT, GET) requests a second: the median of the runs."""
    puts, gets = [], []
    for run in range(bench.runs):
        prefix = f"curve-{size}-{run}"
        numbers, stored = bench.put(server, server.lines[0], prefix, size, 8)
        puts.append(stored.rate)
        gets.append(bench.get(server, server.lines[0], prefix, size, 8, numbers).rate)
    if not puts:
        raise LoadFailed("no runs")
    return sorted(puts)[len(puts) // 2], sorted(gets)[len(gets) // 2]


def _over_size(bench: Bench) -> None:
    server = bench.dfs("curve-size")
    with bench.running(server):
        for size in SIZES:
            put, get = _rates(bench, server, size)
            _point(bench, BY_SIZE, {"file size": size, "PUT": put * size / 1e6, "GET": get * size / 1e6})


def _over_stored(bench: Bench) -> None:
    for stored in STORED[:3] if bench.quick else STORED:
        server = bench.dfs("curve-stored", cached=False)
        with bench.running(server):
            nodes = server.node_ids()
        if stored:
            preload.fill(server.directory / "cluster", nodes, "old", stored, KIB)
        with bench.running(server):
            put, get = _rates(bench, server, KIB)
            old = list(range(0, stored, max(1, stored // 20_000))) if stored else []
            point = {"files stored": float(stored), "PUT": put, "GET of new files": get}
            if old:
                point["GET of any file"] = bench.get(server, server.lines[0], "old", KIB, 8, old).rate
            else:
                point["GET of any file"] = get
            _point(bench, BY_STORED, point)
            rss = max(server.rss("node")) / MIB
            restart = sorted(server.restart(node, 9) for node in nodes)[len(nodes) // 2]
            _point(bench, MEMORY, {"files stored": float(stored), "node RSS, MiB": rss, "restart, s": restart})


def _over_nodes(bench: Bench) -> None:
    for count in NODES:
        server = bench.dfs("curve-nodes", nodes=count)
        with bench.running(server):
            point = {"nodes": float(count)}
            for size, name in ((KIB, "1 KiB"), (MIB, "1 MiB")):
                point[f"PUT {name}"], point[f"GET {name}"] = _rates(bench, server, size)
            _point(bench, BY_NODES, point)


def draw(report: Report, folder: Path) -> list[Path]:
    """A plot of each curve that was measured, into `folder`."""
    drawn = []
    for name, points in report.curves.items():
        path = folder / f"{FILES[name]}.svg"
        path.write_text(plot.curve(name.capitalize(), points, unit=UNITS[name]), encoding="utf-8")
        drawn.append(path)
    return drawn
