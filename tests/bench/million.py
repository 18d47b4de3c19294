"""A store that holds a million chunks, against an empty one."""

from __future__ import annotations

import random
import signal
import time

from tests.bench import load, machine, preload, targets
from tests.bench.bench import Bench
from tests.bench.report import KIB, MIB, figure_name
from tests.bench.stores.dfs import Dfs

CHUNKS = 1_000_000
PREFIX = "old"


def measure(bench: Bench, chunks: int = CHUNKS) -> None:
    """1 KiB files: the same cluster empty, then holding `chunks` of them. Its API keeps no chunks in memory,
    which would hide what the nodes do."""
    server = bench.dfs("million", cached=False)
    with bench.attempt(f"{chunks:,} chunks stored"):
        with bench.running(server):
            nodes = server.node_ids()
            for run in range(bench.runs):
                _rates(bench, server, f"empty{run}", targets.EMPTY)
            empty = max(server.rss("node"))
        began = time.monotonic()
        preload.fill(server.directory / "cluster", nodes, PREFIX, chunks, KIB)
        bench.report.note("filling the stopped cluster, s", time.monotonic() - began)
        with bench.running(server):
            _spot_checks(server, chunks)
            for run in range(bench.runs):
                count = _rates(bench, server, f"filled{run}", targets.FILLED)
                # As many as were just put and read, so that both find the same share in caches.
                old = random.Random(run).sample(range(chunks), count)
                _read(bench, server, PREFIX, targets.FILLED_OLD, old)
            bench.report.note(targets.ROW_GROWTH, (max(server.rss("node")) - empty) / MIB)
            for name, number in ((targets.RESTART_KILLED, signal.SIGKILL), (targets.RESTART_CLEAN, signal.SIGTERM)):
                for node in nodes:
                    bench.report.note(name, server.restart(node, number))
                machine.say(f"{name}: {bench.report.value(name):.2f}")


def _rates(bench: Bench, server: Dfs, prefix: str, suffix: str) -> int:
    """PUT and GET; how many files that made."""
    numbers, sample = bench.put(server, server.lines[0], prefix, KIB, 8)
    bench.keep(figure_name("PUT", KIB, 8) + suffix, "dfs", sample)
    _read(bench, server, prefix, suffix, numbers)
    return len(numbers)


def _read(bench: Bench, server: Dfs, prefix: str, suffix: str, numbers: list[int]) -> None:
    line = server.lines[0]
    bench.read_once(server, line, prefix, KIB, numbers)
    bench.keep(figure_name("GET", KIB, 8) + suffix, line.key, bench.get(server, line, prefix, KIB, 8, numbers))


def _spot_checks(server: Dfs, chunks: int) -> None:
    target = server.lines[0].get_target(PREFIX)
    for number in range(0, chunks, max(1, chunks // 50)):
        load.fetch(server.port, target, number, KIB)
