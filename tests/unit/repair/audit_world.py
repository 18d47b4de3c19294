"""Metadata in SQLite and nodes in memory for tests of the audit; moments in the middle can be acted in."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dfs import errors
from dfs.cluster.nodeanswers import InventoryEntry, InventoryPage, NodeFailed, Verified
from dfs.cluster.upkeep import BadChunk, BadPage
from dfs.metadata.contract import GcKind
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import PutFile, PutReplica, Step
from dfs.model import ChunkReplica, FileRecord, FileState, NodeInfo, new_file_id
from dfs.repair.audit import Audit, Order
from dfs.repair.auditresult import AuditResult
from tests.unit.cluster.fakes import info

NOW = 10_000_000
SETTLE = 900.0
OLD = NOW - 1_000_000
"""Before anything that may be under way."""

Key = tuple[str, int]


@dataclass
class HeldNode:
    """What one node holds."""

    held: dict[Key, InventoryEntry] = field(default_factory=dict)
    corrupt: dict[Key, str] = field(default_factory=dict)
    known_bad: set[Key] = field(default_factory=set)
    notes: list[dict[str, Any]] = field(default_factory=list)
    down: bool = False
    deaf: set[str] = field(default_factory=set)


class Nodes:
    """`UpkeepCalls` and `NodeCalls` over HeldNodes. `before(call, node_id)` may act, or raise."""

    def __init__(self, *names: str) -> None:
        self.nodes = {name: HeldNode() for name in names}
        self.before: Callable[[str, str], None] = lambda call, node_id: None
        self.asked: list[tuple[str, str]] = []
        self.page = 3
        self.aside: list[tuple[str, str, int]] = []

    def _of(self, call: str, node: NodeInfo) -> HeldNode:
        self.asked.append((call, node.node_id))
        self.before(call, node.node_id)
        found = self.nodes[node.node_id]
        if found.down or call in found.deaf:
            raise NodeFailed(node.node_id, "refused", sent=False)
        return found

    def inventory(self, node: NodeInfo, after: int, limit: int, *, deadline: object) -> InventoryPage:
        entries = sorted(self._of("inventory", node).held.values(), key=lambda entry: entry.sequence)
        page = [entry for entry in entries if entry.sequence > after][: self.page]
        return InventoryPage(tuple(page), page[-1].sequence if len(page) == self.page else None)

    def bad_chunks(self, node: NodeInfo, *, after: Key | None, limit: int, deadline: object) -> BadPage:
        bad = sorted(key for key in self._of("bad_chunks", node).known_bad if after is None or key > after)
        page = bad[: self.page]
        chunks = tuple(BadChunk(*key, 1, "its bytes do not match") for key in page)
        return BadPage(chunks, page[-1] if len(page) == self.page else None)

    def verify_many(
        self, node: NodeInfo, keys: Sequence[Key], *, deadline: object
    ) -> list[Verified | errors.DfsError]:
        found = self._of("verify_many", node)
        said: list[Verified | errors.DfsError] = []
        for key in keys:
            if key in found.corrupt:
                said.append(errors.CorruptChunk(found.corrupt[key]))
            elif key in found.held:
                said.append(Verified(found.held[key].checksum, found.held[key].length))
            else:
                said.append(errors.NotFound("no such chunk"))
        return said

    def verify(self, node: NodeInfo, file_id: str, index: int, *, deadline: object) -> Verified:
        (said,) = self.verify_many(node, [(file_id, index)], deadline=deadline)
        if isinstance(said, errors.DfsError):
            raise said
        return said

    def notes(self, node: NodeInfo, notes: Sequence[bytes], *, deadline: object) -> None:
        self._of("notes", node).notes.extend(json.loads(note) for note in notes)

    def set_aside(self, node: NodeInfo, file_id: str, index: int, *, fence: object, deadline: object) -> bool:
        found = self._of("set_aside", node).held.pop((file_id, index), None)
        if found is not None:
            self.aside.append((node.node_id, file_id, index))
        return found is not None


class World:
    """Nodes a, b, c (of the zones given), two copies of everything."""

    def __init__(self, path: Path, *, zones: Sequence[str | None] = (None, None, None)) -> None:
        self.store = SqliteStore(str(path / "meta.db"))
        self.store.create()
        self.nodes = Nodes("a", "b", "c")
        for name, zone in zip("abc", zones, strict=True):
            self.store.register_node(info(name, zone=zone))
        self.stopping = threading.Event()
        self._sequence = 0

    def file(
        self, state: FileState = FileState.COMMITTED, *, chunks: int = 1, on: str = "ab", path: str | None = None
    ) -> str:
        file_id = new_file_id()
        size = chunks * 10
        record = FileRecord(
            file_id, state, "default", path or f"p/{file_id}", size, 10, chunks, "x/y", None, "p", 5, OLD, OLD + 1,
            modified=OLD,
        )  # fmt: skip
        self.store.transact([PutFile(record)])
        for index in range(max(1, chunks)):
            for name in on:
                self.row(file_id, index, name, length=10 if chunks else 0)
                self.hold(file_id, index, name, length=10 if chunks else 0)
        return file_id

    def row(self, file_id: str, index: int, name: str, *, length: int = 10) -> None:
        self.transact(PutReplica(ChunkReplica(file_id, index, name, checksum(file_id, index), length, "primary", OLD)))

    def hold(
        self, file_id: str, index: int, name: str, *, length: int = 10, created: int = OLD, verified: int | None = None
    ) -> None:
        self._sequence += 1
        entry = InventoryEntry(self._sequence, file_id, index, length, checksum(file_id, index), created, verified)
        self.nodes.nodes[name].held[file_id, index] = entry

    def lose(self, file_id: str, index: int, names: str) -> None:
        for name in names:
            del self.nodes.nodes[name].held[file_id, index]

    def spoil(self, file_id: str, index: int, name: str, *, known: bool = False) -> None:
        node = self.nodes.nodes[name]
        node.corrupt[file_id, index] = "its bytes do not match"
        if known:
            node.known_bad.add((file_id, index))

    def change_bytes(self, file_id: str, index: int, name: str) -> None:
        held = self.nodes.nodes[name].held
        held[file_id, index] = replace(held[file_id, index], checksum="f" * 64)

    def transact(self, *steps: Step) -> None:
        self.store.transact(list(steps))

    def audit(self, **more: Any) -> AuditResult:
        return self.make(**more).run()

    def make(self, **more: Any) -> Audit:
        calls: Any = self.nodes
        order = Order("audit-1", "here", more.pop("factor", 2), SETTLE, **more)
        return Audit(order, self.store, calls, stopping=self.stopping, now_ms=lambda: NOW, upkeep=calls)

    def marked(self) -> set[Key]:
        """Chunks that are marked for repair."""
        return {
            (entry.id, entry.chunk_index or 0)
            for partition in self.store.gc_partitions(GcKind.SHORT)
            for entry in self.store.gc_entries(partition)
        }


def checksum(file_id: str, index: int) -> str:
    return hashlib.sha256(f"{file_id}/{index}".encode()).hexdigest()


def found(result: AuditResult) -> dict[str, int]:
    """What was found, by name; nothing that was not."""
    return {kind.value: count for kind, count in result.counts.items() if count}


def once(world: World, wanted: str, act: Callable[[], None]) -> None:
    """Do `act` just before a node is first asked for `wanted`."""
    done: list[str] = []

    def before(call: str, node_id: str) -> None:
        if call == wanted and not done:
            done.append(call)
            act()

    world.nodes.before = before
