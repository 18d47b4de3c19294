"""What only dfs is asked: the seed protocol, a node down, long listings, memory."""

from __future__ import annotations

import json
import threading
import time
from urllib.parse import quote

from tests.bench import load, machine, preload, targets
from tests.bench.bench import Bench
from tests.bench.load import Phase
from tests.bench.report import GIB, KIB, MIB, figure_name, size_name
from tests.bench.stores.dfs import Dfs

SEED_CONNECTIONS = 64
TRANSFERS = 32
PAGE = 1000


def seed(bench: Bench) -> None:
    """The seed protocol: 1,024-byte chunks, each with a request of its own, over 64 connections."""
    if not (bench.wants(targets.SEED_UP) or bench.wants(targets.SEED_DOWN)):
        return
    chunks = 4096 if bench.quick else 16384
    server = bench.dfs("seed")
    with bench.running(server):
        for _ in range(bench.runs):
            with bench.attempt("seed protocol"):
                _seed_once(bench, server, chunks)


def _seed_once(bench: Bench, server: Dfs, chunks: int) -> None:
    wish = {"filename": "bench", "size": chunks * KIB, "chunk_size": KIB}
    plan = load.call_json(server.port, "POST", "/init-upload", wish)
    up = [_path_of(item["url"]) for item in plan["upload_targets"]]
    phase = Phase("PUT", server.port, "", KIB, SEED_CONNECTIONS, 0.0, targets=up)
    bench.keep(targets.SEED_UP, "dfs", bench.phase(server, phase)[1])
    load.call_json(server.port, "POST", "/finalize-upload", {"file_id": plan["file_id"]})
    stored = load.call_json(server.port, "GET", f"/download-plan?file_id={plan['file_id']}")
    down = [_path_of(item["url"]) for item in stored]
    for number in range(0, chunks, chunks // 16):
        load.fetch(server.port, down[number], number, KIB)
    phase = Phase("GET", server.port, "", KIB, SEED_CONNECTIONS, 0.0, targets=down)
    bench.keep(targets.SEED_DOWN, "dfs", bench.phase(server, phase)[1])


def _path_of(url: str) -> str:
    return "/" + url.split("/", 3)[3]


def degraded(bench: Bench) -> None:
    """The same before and after one of three nodes is killed; what was stored before is read after. The API
    keeps no chunks in memory, which would hide that a node is missing."""
    sizes = [size for size in (KIB, MIB) if any(bench.wants(figure_name(m, size, 8) + targets.ONE_DOWN) for m in ("PUT", "GET"))]
    if not sizes:
        return
    for run in range(1 if bench.quick else bench.runs):
        server = bench.dfs("degraded", cached=False, supervise=False)
        with bench.attempt("one node down"), bench.running(server):
            line = server.lines[0]
            stored = {size: bench.both(server, line, f"before{run}-{size}", size, 8, targets.BEFORE) for size in sizes}
            began = time.monotonic()
            server.kill(server.node_ids()[-1])
            bench.report.note("a killed node counts as dead after, s", time.monotonic() - began)
            for size in sizes:
                puts, gets = (figure_name(method, size, 8) + targets.ONE_DOWN for method in ("PUT", "GET"))
                bench.keep(puts, line.key, bench.put(server, line, f"after{run}-{size}", size, 8)[1])
                bench.keep(gets, line.key, bench.get(server, line, f"before{run}-{size}", size, 8, stored[size]))


def listing(bench: Bench) -> None:
    """100,000 paths of one prefix, page by page."""
    if not bench.wants(targets.LISTED):
        return
    paths = (20 if bench.quick else 100) * PAGE
    server = bench.dfs("listing")
    with bench.attempt("listing"):
        with bench.running(server):
            nodes = server.node_ids()
        preload.fill_metadata(server.directory / "cluster", nodes, "list", paths, KIB)
        with bench.running(server):
            for _ in range(bench.runs):
                times = _pages(server, paths)
                tenth = max(1, len(times) // 10)
                bench.report.note(targets.LISTED, paths / sum(times))
                bench.report.note(targets.FLAT, sum(times[-tenth:]) / sum(times[:tenth]))
            machine.say(f"{targets.LISTED}: {bench.report.value(targets.LISTED):,.0f}")


def _pages(server: Dfs, expected: int) -> list[float]:
    """Seconds that each page took. Raises LoadFailed when paths are missing, repeated or out of order."""
    times, found, last, cursor = [], 0, "", ""
    with load.Talk(server.port) as talk:
        while True:
            began = time.perf_counter()
            answer = talk.call("GET", f"/files?prefix=list/&limit={PAGE}{cursor}")
            times.append(time.perf_counter() - began)
            page = json.loads(answer)
            for entry in page["files"]:
                if entry["path"] <= last:
                    raise load.LoadFailed(f"{entry['path']} was listed after {last}")
                last = entry["path"]
            found += len(page["files"])
            if page["cursor"] is None:
                break
            cursor = f"&cursor={quote(page['cursor'], safe='')}"
    if found != expected:
        raise load.LoadFailed(f"{found} paths listed, {expected} are there")
    return times


def memory(bench: Bench) -> None:
    """Resident memory of the processes while 32 big files go up at once, and while 32 come down."""
    if not bench.wants(targets.API_RSS):
        return
    server = bench.dfs("memory")
    with bench.attempt("memory of 32 transfers"), bench.running(server):
        line = server.lines[0]
        size = _transfer_size(bench)
        if size < GIB and not bench.quick:
            bench.leave_out(f"32 transfers of 1 GiB: the disk has room for {size_name(size)} each; --data DIR chooses another")
        with _Watch(server) as watch:
            phase = Phase("PUT", server.port, line.put_target("big"), size, TRANSFERS, 0.0, most=TRANSFERS)
            up, sample = bench.phase(server, phase)
            bench.keep(figure_name("PUT", size, TRANSFERS), line.key, sample)
            load.fetch(server.port, line.get_target("big"), up.numbers[0], size)
            phase = Phase("GET", server.port, line.get_target("big"), size, TRANSFERS, 0.0, numbers=up.numbers)
            _, sample = bench.phase(server, phase)
            bench.keep(figure_name("GET", size, TRANSFERS), line.key, sample)
        bench.report.note(targets.API_RSS, watch.most["api"] / MIB)
        bench.report.note(targets.NODE_RSS, watch.most["node"] / MIB)
        bench.report.note("bytes of each of the 32 transfers, MiB", size / MIB)
        machine.say(f"most resident: API {watch.most['api'] / MIB:,.0f} MiB, a node {watch.most['node'] / MIB:,.0f} MiB")


def _transfer_size(bench: Bench) -> int:
    if bench.quick:
        return 16 * MIB
    room = machine.free_bytes(bench.directory) * 8 // 10
    return min(GIB, room // (2 * TRANSFERS) // (64 * MIB) * 64 * MIB)


class _Watch:
    """Looks at a cluster's memory twenty times a second. `most`: bytes of all API processes together, and
    of the largest node."""

    def __init__(self, server: Dfs) -> None:
        self._api, self._nodes = server.pids("api"), server.pids("node")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.most = {"api": 0, "node": 0}

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while True:
            self.most["api"] = max(self.most["api"], sum(machine.resident(self._api)))
            self.most["node"] = max(self.most["node"], *machine.resident(self._nodes), 0)
            if self._done.wait(0.05):
                return
