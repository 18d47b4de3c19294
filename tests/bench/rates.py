"""PUT and GET of several sizes, at one client and at eight, by every store that runs here."""

from __future__ import annotations

import contextlib
import dataclasses

from tests.bench import limits, machine
from tests.bench.bench import Bench, caches
from tests.bench.peers import peers
from tests.bench.report import KIB, MIB, figure_name
from tests.bench.stores.nginx import Nginx
from tests.bench.stores.server import Line, Server

SIZES = (KIB, 64 * KIB, MIB, 64 * MIB)
CLIENTS = (1, 8)
FIRST = "dfs-first"
"""The cluster that keeps no chunks in memory and whose objects nobody has read before."""


def measure(bench: Bench, with_peers: bool) -> None:
    """All sizes, `bench.runs` times, the stores taking turns and each run beginning with another one."""
    wanted = [(size, clients) for size in SIZES for clients in CLIENTS
              if any(bench.wants(figure_name(method, size, clients)) for method in ("PUT", "GET"))]  # fmt: skip
    if not wanted:
        return
    servers: list[Server] = [bench.dfs("dfs")]
    if caches():
        servers.append(_uncached(bench))
    servers.append(Nginx(bench.place("nginx")))
    if with_peers:
        servers += peers(bench)
    for size, clients in wanted:  # the tables' order, whoever is measured first
        for method in ("PUT", "GET"):
            bench.report.samples.setdefault(figure_name(method, size, clients), {})
    with contextlib.ExitStack() as stack:
        contenders = [(server, line) for server in servers if stack.enter_context(bench.running(server)) for line in server.lines]
        for run in range(bench.runs):
            for name, value in limits.measure(bench.directory, (64 if bench.quick else 512) * MIB).items():
                bench.report.limits.setdefault(name, []).append(value)
            machine.say(f"--- run {run + 1} of {bench.runs}")
            for turn, (size, clients) in enumerate(wanted):
                start = (run + turn) % len(contenders)
                for server, line in contenders[start:] + contenders[:start]:
                    with bench.attempt(f"{line.key}, {figure_name('PUT and GET', size, clients)}"):
                        _one(bench, server, line, f"r{run}-{line.key}-{size}-{clients}", size, clients)


def _uncached(bench: Bench) -> Server:
    """A cluster whose every GET asks a node, and finds large chunks on the disk only."""
    server = bench.dfs(FIRST, cached=False, key=FIRST, title="dfs, first read")
    server.lines = tuple(dataclasses.replace(line, measures=frozenset({"GET"})) for line in server.lines)
    return server


def _one(bench: Bench, server: Server, line: Line, prefix: str, size: int, clients: int) -> None:
    puts, gets = (figure_name(method, size, clients) for method in ("PUT", "GET"))
    stores, reads = "PUT" in line.measures and bench.wants(puts), "GET" in line.measures and bench.wants(gets)
    if not (stores or reads):
        return
    server.prepare(prefix)
    numbers, sample = bench.put(server, line, prefix, size, clients if stores else 8)
    if stores:
        bench.keep(puts, line.key, sample)
    if reads:
        if line.key != FIRST:
            bench.read_once(server, line, prefix, size, numbers)
        bench.keep(gets, line.key, bench.get(server, line, prefix, size, clients, numbers))
    server.forget(prefix)
