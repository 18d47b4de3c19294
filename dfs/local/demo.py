"""`python -m dfs demo`: a cluster for half a minute, to see that a dead node loses nothing."""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfs import logs, process
from dfs.client import Client
from dfs.errors import DfsError, SettingsError, StartError
from dfs.local.cluster import LOOPBACK, EmbeddedCluster, Options
from dfs.local.layout import ClusterDirectory, Layout, NodeSlot
from dfs.wire.client import HttpClient, TransportError
from dfs.wire.deadline import Deadline

NODES = 3
FACTOR = 2
MIB = 1 << 20
SMALL = {"DFS_API_WORKERS": "1"}
"""More processes would only make the start longer."""
GENERATED_BYTES = 64 * MIB
CELLS = 64
"""Most chunks that are drawn; above it only their numbers are told."""


class NotTheSame(Exception):
    """The file that came back is not the one that was stored."""


def _say(text: str) -> None:
    print(text, flush=True)


def _amount(size: int) -> str:
    return f"{size / MIB:.0f} MiB" if size >= MIB else f"{size:,} bytes"


def _speed(size: int, seconds: float) -> str:
    return f"{seconds:.2f} s, {size / 1e6 / seconds:.0f} MB/s" if size >= MIB else f"{seconds:.2f} s"


def _generate(file: Path) -> None:
    source = random.Random(2024)
    with open(file, "wb") as stream:
        for _ in range(GENERATED_BYTES // MIB):
            stream.write(source.randbytes(MIB))


def _chunks_of(nodes: Sequence[NodeSlot], file_id: str) -> dict[str, set[int]]:
    """By node, the chunks of the file that it says it has, asked of each node itself."""
    found: dict[str, set[int]] = {}
    client = HttpClient()
    deadline = Deadline(30)
    try:
        for slot in nodes:
            found[slot.node_id] = set()
            after: Any = 0
            while after is not None:
                target = f"/inventory?after={after}&limit=1000"
                with client.request(LOOPBACK, slot.port, "GET", target, deadline=deadline, stall=5) as answer:
                    page = answer.read_json()
                found[slot.node_id] |= {
                    chunk["chunk_index"] for chunk in page["chunks"] if chunk["file_id"] == file_id
                }
                after = page["next"]
    finally:
        client.close()
    return found


def _draw(places: dict[str, set[int]], count: int) -> None:
    for node_id, chunks in places.items():
        cells = "".join("#" if index in chunks else "." for index in range(count)) if count <= CELLS else ""
        _say(f"     {node_id}  {cells}  {len(chunks)} of {count} chunks")


def _show(cluster: EmbeddedCluster, file: Path, work: Path) -> None:
    client = Client(cluster.url)
    try:
        size = file.stat().st_size
        _say(f"2. Storing {file.name} ({_amount(size)}) ...")
        begin = time.monotonic()
        stored = client.put(file, "demo/file")
        _say(f"   done in {_speed(size, time.monotonic() - begin)}: on the disks of {FACTOR} nodes before we were told.")
        count = max(1, stored.chunks or 0)
        places = _chunks_of(cluster.layout.nodes, stored.file_id)
        _say(f"   It was cut into {count} chunk{'s' if count > 1 else ''}, and each lies on {FACTOR} nodes (#):")
        _draw(places, count)

        victim = max(places, key=lambda node_id: len(places[node_id]))
        _say(f"3. Killing {victim} (kill -9, as a crash would) ...")
        cluster.nodes[victim].kill()
        _say(f"   {len(places[victim])} of {count} chunks have lost one of their {FACTOR} copies.")

        _say("4. Reading the file back ...")
        copy = work / "read-back"
        begin = time.monotonic()
        client.get("demo/file", copy)
        seconds = time.monotonic() - begin
        if not filecmp.cmp(file, copy, shallow=False):
            raise NotTheSame(f"what came back is not what was stored: sha256 of the original {stored.sha256}")
        _say(f"   done in {_speed(size, seconds)}, and every byte is the same.")
        _say(f"   sha256 {stored.sha256}")

        _say(f"5. Storing another file while {victim} is dead ...")
        small = work / "small"
        small.write_bytes(b"still here\n")
        second = client.put(small, "demo/second")
        living = [slot for slot in cluster.layout.nodes if slot.node_id != victim]
        holders = [node_id for node_id, chunks in _chunks_of(living, second.file_id).items() if chunks]
        _say(f"   done: on {' and '.join(holders)}.")
    finally:
        client.close()


def _run(file: Path | None) -> None:
    work = Path(tempfile.mkdtemp(prefix="dfs-demo-"))
    try:
        if file is None:
            file = work / "generated.bin"
            _generate(file)
        directory = ClusterDirectory.open(work / "cluster")
        try:
            begin = time.monotonic()
            _say(f"1. Starting an API server and {NODES} storage nodes that keep {FACTOR} copies of everything ...")
            layout = Layout("sqlite", FACTOR, 0, ()).with_nodes(NODES)
            cluster = EmbeddedCluster(directory, layout, Options(strategy="sync", supervise=False, defaults=SMALL))
            try:
                cluster.start()
                _say(f"   up in {time.monotonic() - begin:.1f} s, at {cluster.url}")
                _show(cluster, file, work)
            finally:
                cluster.stop()
        finally:
            directory.close()
    finally:
        shutil.rmtree(work, ignore_errors=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 all went well, 1 it did not, 2 bad settings or usage, 130 interrupted."""
    parser = argparse.ArgumentParser(
        prog="dfs demo",
        description="Start a small cluster in a temporary directory, store a file, kill a node, read the file back.",
        allow_abbrev=False,
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="default: 64 MiB made up on the spot")
    file: Path | None = parser.parse_args(arguments).file
    if file is not None and not (file.is_file() and os.access(file, os.R_OK)):
        print(f"dfs demo: {file}: not a file that can be read", file=sys.stderr)
        return 2
    logs.configure("demo", "text", "critical")
    try:
        with process.Lifetime():
            _run(file)
    except process.Interrupted:
        print("\ndfs demo: interrupted, and cleaned up", file=sys.stderr)
        return 130
    except SettingsError as error:
        print(f"dfs demo: {error}", file=sys.stderr)
        return 2
    except (StartError, DfsError, TransportError, NotTheSame) as error:
        print(f"dfs demo: failed: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = error.strerror or error
        print(f"dfs demo: failed: {reason}; TMPDIR names another directory for its data", file=sys.stderr)
        return 1
    _say("All is well: a node died, and nothing was lost. Everything of this demo is gone again.")
    _say("To keep a cluster: python3 -m dfs up")
    return 0
