"""A cluster for the leader of repair: metadata in SQLite, nodes in memory, a clock that stands still, and the
real mender. All work is done in the test's thread, a few chunks a step."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from dfs import errors
from dfs.cluster.membership import Membership
from dfs.cluster.nodeanswers import InventoryEntry, InventoryPage
from dfs.cluster.placement import Placement
from dfs.cluster.upkeep import BadChunk, BadPage
from dfs.metadata.contract import GcEntry, GcKind
from dfs.metadata.lease import LeaseHolder
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import PutFile, PutReplica, PutShort
from dfs.model import AdminState, ChunkReplica, FileRecord, FileState, NodeInfo
from dfs.repair.crew import Crew, Job
from dfs.repair.leader import Leader, Policy, Tools
from dfs.repair.mend import Mender
from dfs.repair.pace import Pace
from dfs.repair.progress import ORDERS, Orders, RepairStatus, TourKind, load
from tests.unit.cluster.fakes import Clock, Inline, info, sha
from tests.unit.repair.world import Call, Calls, Key, Node

NOW = 10_000_000_000
"""Milliseconds since the epoch when a stage begins."""

HOUR = 3_600_000


class Disk(Node):
    """A node whose inventory can be read: records have sequence numbers, and the times they were made at."""

    def __init__(self, node_id: str, now_ms: Callable[[], int]) -> None:
        super().__init__(node_id)
        self.now_ms = now_ms
        self.made: dict[Key, tuple[int, int]] = {}
        self.knows_bad: set[Key] = set()
        self._last = 0

    def keep(self, key: Key, data: bytes) -> None:
        super().keep(key, data)
        self._last += 1
        self.made.setdefault(key, (self._last, self.now_ms()))
        self.knows_bad.discard(key)

    def lose(self, key: Key) -> bool:
        self.made.pop(key, None)
        self.knows_bad.discard(key)
        return super().lose(key)


class DiskCalls(Calls):
    """Further calls of `UpkeepCalls`, and `NodeCalls.erase`."""

    def __init__(self, stage: Any) -> None:
        super().__init__(stage)
        self._stage = stage

    def inventory(self, node: NodeInfo, after: int, limit: int, *, deadline: Any) -> InventoryPage:
        limit = min(limit, self._stage.page)

        def act(at: Any) -> InventoryPage:
            held = sorted((sequence, key, made) for key, (sequence, made) in at.made.items() if sequence > after)
            entries = tuple(
                InventoryEntry(sequence, *key, len(at.chunks[key]), at.sums[key], made, None)
                for sequence, key, made in held[:limit]
            )
            return InventoryPage(entries, entries[-1].sequence if len(held) > limit else None)

        page: InventoryPage = self._do(Call("inventory", node.node_id), act)
        return page

    def bad_chunks(self, node: NodeInfo, *, after: Key | None, limit: int, deadline: Any) -> BadPage:
        def act(at: Any) -> BadPage:
            keys = sorted(key for key in at.knows_bad if after is None or key > after)[: self._stage.page]
            more = len(keys) == self._stage.page
            return BadPage(tuple(BadChunk(*key, 1, "crc") for key in keys), keys[-1] if more else None)

        page: BadPage = self._do(Call("bad_chunks", node.node_id), act)
        return page

    def look(self, node: NodeInfo, *, deadline: Any) -> str:
        return str(self._do(Call("look", node.node_id), lambda at: self._stage.knows.get(node.node_id, "active")))

    def erase(self, node: NodeInfo, file_ids: Sequence[str], *, deadline: Any) -> None:
        def act(at: Any) -> None:
            at.erased.update(file_ids)
            for key in [key for key in at.chunks if key[0] in file_ids]:
                at.lose(key)

        self._do(Call("erase", node.node_id), act)


class Hands(Crew):
    """A crew of the test's own thread: a job is done when it is given."""

    def __init__(self, jobs: int = 4) -> None:
        super().__init__(jobs)
        self.given = 0
        self.keys: list[Any] = []

    def put(self, job: Job) -> None:
        assert not self.busy(job.key), "two at one chunk"
        self.given += 1
        self.keys.append(job.key)
        self._keys.add(job.key)
        try:
            result = job.call()
        except Exception as error:
            result = error
        self._done.put((job, result))


class Metadata(SqliteStore):
    """SQLite whose registry can be away, and whose index by node may hide rows for a while."""

    registry_away = False
    hidden: frozenset[str] = frozenset()

    def list_nodes(self) -> list[NodeInfo]:
        if self.registry_away:
            raise errors.Unavailable("the registry does not answer")
        return super().list_nodes()

    def node_chunks(
        self, node_id: str, *, after: Key | None = None, limit: int = 1000
    ) -> list[Key]:
        return [key for key in super().node_chunks(node_id, after=after, limit=limit) if key[0] not in self.hidden]


class Stage:
    """See the module's text. `names`: one letter a node."""

    def __init__(self, path: Path, names: str = "abc", *, factor: int = 2, **policy: Any) -> None:
        self.clock = Clock()
        self.page = 200
        self.factor = factor
        self.knows: dict[str, str] = {}
        self.hook: Callable[[Call, bool], None] = lambda call, after: None
        self.store = Metadata(str(path / "meta.db"))
        self.cluster = self.store.create()
        self.nodes: dict[str, Any] = {}
        self.membership = Membership(
            self.store,
            self.cluster,
            heartbeat_timeout=60.0,
            probe=lambda node: self.nodes[node.node_id].up,
            clock=self.clock,
            now_ms=self.now_ms,
            probers=Inline(),
        )
        for name in names:
            self.add(name)
        self.placement = Placement()
        self.calls: Any = DiskCalls(self)
        options: dict[str, Any] = {"delay": 600.0, "interval": 5.0, "upload_ttl": 86400.0, "write_seconds": 30.0}
        self.policy = Policy(**({"factor": factor, "settle": 5.0} | options | policy))
        self.hands: Hands
        self.lease: LeaseHolder
        self.leader = self.lead()

    def close(self) -> None:
        self.store.close()

    def now_ms(self) -> int:
        return NOW + round(1000 * (self.clock.now - 1000.0))

    # --- leaders ---

    def lead(self) -> Leader:
        """A new server, which has the lease from now on: the one before has died."""
        name = str(uuid.uuid4())
        if hasattr(self, "lease"):
            self.lease.release()
        self.lease = LeaseHolder(self.store, "repair", name, 15.0, self.clock)
        assert self.lease.try_acquire()
        self.leader = self._make(name, self.lease)
        return self.leader

    def _make(self, name: str, lease: LeaseHolder) -> Leader:
        calls: Any = self.calls

        def tools(leader: Leader) -> Tools:
            mender = Mender(
                self.store,
                self.membership,
                self.placement,
                calls,
                factor=self.factor,
                pace=Pace(1e12, lambda: 0.0, lambda seconds: False),
                fence=leader.fence,
                away=leader.away,
                now_ms=self.now_ms,
            )
            self.hands = Hands()
            return Tools(calls, mender, self.hands)

        return Leader(
            self.store, self.cluster, self.membership, self.placement, calls, lease, name, self.policy,
            mbps=100, jobs=4, clock=self.clock, now_ms=self.now_ms, tools=tools,
        )  # fmt: skip

    def pass_time(self, seconds: float) -> None:
        """The clock goes on, the lease is kept and the registry read."""
        self.clock.now += seconds
        self.lease.renew()
        self.membership.refresh()

    def tick(self, seconds: float | None = None) -> RepairStatus:
        """Time passes, and all that can be done then is done."""
        self.pass_time(self.policy.interval if seconds is None else seconds)
        before = -1
        while before != self.hands.given:
            before = self.hands.given
            for _ in range(3):
                self.leader.step(0.0)
        return self.status()

    def ticks(self, count: int) -> RepairStatus:
        for _ in range(count):
            status = self.tick()
        return status

    def until(self, holds: Callable[[RepairStatus], bool], most: int = 100) -> RepairStatus:
        """Ticks until what is shown `holds`."""
        for _ in range(most):
            status = self.tick()
            if holds(status):
                return status
        raise AssertionError(f"not within {most} ticks: {status}")

    def status_or_none(self) -> RepairStatus | None:
        """None before the leader has taken its first step."""
        return None if self.leader._term is None else self.status()

    def status(self) -> RepairStatus:
        """As of now; the document may be two seconds older."""
        term = self.leader._term
        assert term is not None
        return self.leader._status(term)

    def written(self) -> RepairStatus:
        status = load(self.store)
        assert status is not None
        return status

    def tours(self) -> list[tuple[TourKind, str]]:
        return [(tour.kind, tour.node_id) for tour in self.status().tours]

    # --- nodes ---

    def add(self, name: str, **changes: Any) -> None:
        self.nodes[name] = Disk(name, self.now_ms)
        self.store.register_node(info(name, **changes))
        self.membership.refresh()

    def kill(self, name: str) -> None:
        self.nodes[name].up = False
        self.membership.report_failure(name, "killed")
        self.membership.refresh()

    def revive(self, name: str) -> None:
        self.nodes[name].up = True
        self.beat(name)

    def beat(self, name: str, **changes: Any) -> None:
        row = self.row(name)
        self.store.heartbeat(replace(row, heartbeat_seq=row.heartbeat_seq + 1, **changes))
        self.membership.refresh()

    def row(self, name: str) -> NodeInfo:
        return next(node for node in self.store.list_nodes() if node.node_id == name)

    def state(self, name: str) -> AdminState:
        return self.row(name).admin_state

    def set_state(self, name: str, state: AdminState, *, until: int = 0) -> None:
        """As an operator does; the node knows at once."""
        guard = self.store.read_document("nodes")
        assert self.store.set_admin_state(
            self.row(name), state, at=self.now_ms(), until=until, guard=guard, guard_name="nodes"
        )
        self.knows[name] = str(state)
        self.membership.refresh()

    def order(self, orders: Orders) -> None:
        assert self.store.write_document(ORDERS, orders.to_json(), self.store.read_document(ORDERS))

    # --- files ---

    def file(
        self,
        on: str = "ab",
        *,
        chunks: int = 1,
        state: FileState = FileState.COMMITTED,
        age_ms: int = HOUR,
        file_id: str | None = None,
    ) -> str:
        """A file whose chunks are, with rows, on the nodes `on`, and as old as everything about it."""
        file_id = file_id or str(uuid.uuid4())
        at = self.now_ms() - age_ms
        record = FileRecord(
            file_id, state, "default", file_id, 10 * chunks, 10, chunks, "x", None, "f", 1, at, at
        )  # fmt: skip
        places = [((file_id, index), name) for index in range(chunks) for name in on]
        self.store.transact([PutFile(record), *(PutReplica(self._keep(*place, age_ms)) for place in places)])
        return file_id

    def put(self, key: Key, name: str, *, row: bool = True, age_ms: int = HOUR) -> None:
        """Bytes, and a row."""
        kept = self._keep(key, name, age_ms)
        if row:
            self.store.transact([PutReplica(kept)])

    def _keep(self, key: Key, name: str, age_ms: int) -> ChunkReplica:
        data = sha(repr(key).encode())[:10].encode()
        disk = self.nodes[name]
        disk.keep(key, data)
        disk.made[key] = (disk.made[key][0], self.now_ms() - age_ms)
        return ChunkReplica(*key, name, sha(data), 10, "primary", 1)

    def mark(self, key: Key, *, age_ms: int = 0) -> None:
        self.store.transact([PutShort(*key, self.now_ms() - age_ms)])

    def marks(self) -> list[GcEntry]:
        parts = self.store.gc_partitions(GcKind.SHORT)
        return [mark for part in parts for mark in self.store.gc_entries(part)]

    def corrupt(self, key: Key, name: str, *, known: bool = False) -> None:
        disk = self.nodes[name]
        disk.chunks[key] = b"?" + disk.chunks[key][1:]
        if known:
            disk.knows_bad.add(key)

    def rows(self, key: Key) -> str:
        return "".join(sorted(row.node_id for row in self.store.replicas(key[0], key[1], key[1])))

    def good(self, key: Key) -> str:
        """Living nodes that have a row and good bytes."""
        rows = {row.node_id: row.checksum for row in self.store.replicas(key[0], key[1], key[1])}
        up = [name for name, disk in self.nodes.items() if disk.up and name in rows]
        return "".join(sorted(name for name in up if self.nodes[name].good(key, rows[name])))

    def holders(self, key: Key) -> str:
        """Living nodes that have bytes."""
        return "".join(sorted(name for name, disk in self.nodes.items() if disk.up and key in disk.chunks))

    def before_drop(self, disk: Any, key: Key) -> None:
        """Nothing may go unless R others are good."""
        others = set(self.good(key)) - {disk.node_id}
        assert len(others) >= self.factor, f"{disk.node_id} drops {key}; others: {others}"
