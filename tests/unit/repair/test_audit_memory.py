"""Memory of an audit does not grow with the number of chunks."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dfs import errors
from dfs.cluster.nodeanswers import InventoryEntry, InventoryPage, Verified
from dfs.cluster.upkeep import BadPage
from dfs.model import ChunkReplica, FileRecord, FileState, NodeInfo
from dfs.repair.audit import Audit, Order
from dfs.repair.auditresult import Verdict
from dfs.repair.sorting import CACHE_KIB
from tests.unit.cluster.fakes import info
from tests.unit.repair.audit_world import found

ROOT = Path(__file__).resolve().parents[3]
NAMES = ("a", "b")
SUM = "ab" * 32
CHUNKS_PER_FILE = 30
SHORT_EVERY = 100


def file_id(number: int) -> str:
    text = f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}{number:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Endless:
    """Metadata and nodes with any number of files, made as they are asked for. Of every SHORT_EVERYth file
    node b lacks all chunks."""

    def __init__(self, files: int) -> None:
        self.files = files

    def list_nodes(self) -> list[NodeInfo]:
        return [info(name) for name in NAMES]

    def scan_rows(self) -> Iterator[FileRecord | ChunkReplica]:
        for number in range(self.files):
            yield self.record(number)
            yield from self.rows(number, 0, CHUNKS_PER_FILE - 1)

    def record(self, number: int) -> FileRecord:
        size = CHUNKS_PER_FILE * 10
        return FileRecord(
            file_id(number), FileState.COMMITTED, "default", f"files/{number}", size, 10, CHUNKS_PER_FILE, "x", None,
            "f", 1, 1, 1, modified=1,
        )  # fmt: skip

    def rows(self, number: int, first: int, last: int) -> Iterator[ChunkReplica]:
        for index in range(first, last + 1):
            for name in NAMES:
                yield ChunkReplica(file_id(number), index, name, SUM, 10, "primary", 1)

    def get_file(self, wanted: str) -> FileRecord:
        return self.record(int(wanted.replace("-", "")[16:], 16))

    def replicas(self, wanted: str, first: int, last: int) -> Iterator[ChunkReplica]:
        return self.rows(int(wanted.replace("-", "")[16:], 16), first, last)

    def transact(self, steps: Sequence[object]) -> None:
        assert len(steps) == 2

    def inventory(self, node: NodeInfo, after: int, limit: int, *, deadline: object) -> InventoryPage:
        end = min(after + limit, self.files * CHUNKS_PER_FILE)
        page = tuple(
            InventoryEntry(sequence, file_id(number), index, 10, SUM, 1)
            for sequence in range(after + 1, end + 1)
            for number, index in [divmod(sequence - 1, CHUNKS_PER_FILE)]
            if number % SHORT_EVERY or node.node_id == "a"
        )
        return InventoryPage(page, end if end < self.files * CHUNKS_PER_FILE else None)

    def bad_chunks(self, node: NodeInfo, **_: object) -> BadPage:
        return BadPage((), None)

    def verify_many(
        self, node: NodeInfo, keys: Sequence[object], *, deadline: object
    ) -> list[Verified | errors.DfsError]:
        return [errors.NotFound("no such chunk") for _ in keys]

    def notes(self, node: NodeInfo, notes: Sequence[bytes], *, deadline: object) -> None:
        assert notes


def run(files: int) -> None:
    """Audit so many files."""
    world: Any = Endless(files)
    result = Audit(Order("a", "x", 2, 0.0), world, world, stopping=threading.Event(), upkeep=world).run()
    short = -(-files // SHORT_EVERY) * CHUNKS_PER_FILE
    assert (result.verdict, result.chunks) == (Verdict.DEGRADED, files * CHUNKS_PER_FILE)
    assert found(result) == {"missing": short, "under": short}
    assert result.marked_short == short


def peak(files: int) -> int:
    """Most memory (bytes) of a process that audits so many files."""
    code = (
        "import resource, sys; from tests.unit.repair.test_audit_memory import run; run(int(sys.argv[1])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, str(files)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return int(said.stdout) * 1024


def test_three_hundred_thousand_replicas_take_hardly_more_memory_than_three_thousand() -> None:
    few, many = peak(50), peak(5_000)
    print(f"peaks: {few / 1e6:.1f} MB for 3,000 replicas, {many / 1e6:.1f} MB for 300,000")
    assert many < few + CACHE_KIB * 1024 + 16_000_000, "the database's cache, and a few pages"
