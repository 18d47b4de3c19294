"""Records whose row is not known: which of them go, and when nothing goes at all.

Bytes are stored before their row is put, and dropped after it was removed, so whoever is broken off in
between leaves bytes that no row leads to. After a time long enough for any write to end, consistent reads
decide: file and row, the record is fine; file and no row, it is surplus, dropped once R other copies are
proved to be good; no file, it is erased. A file that is being deleted is the eraser's.

Nothing is ever removed because metadata seemed empty: not when the metadata are of another cluster or
generation than this server began with, and not when more of a node would go than can have come about so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from dfs import errors, logs
from dfs.cluster.calls import MAX_ERASE, NodeCalls
from dfs.cluster.membership import Membership
from dfs.cluster.nodeanswers import InventoryEntry
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState, ClusterInfo, FileRecord, FileState, NodeInfo
from dfs.repair.marks import mark_short
from dfs.wire.deadline import Deadline

DOCUMENT = "strays"
PAGE = 200
MOST_REMEMBERED = 10_000
FEW = 10
SHARE = 0.01
"""More than FEW records and more than this share of a node's never go on their own."""

CALL_SECONDS = 30.0
_STAYING = (AdminState.ACTIVE, AdminState.MAINTENANCE)

Key = tuple[str, int]


class Verdict(StrEnum):
    """About one record. FINE: it has a row. YOUNG: its row may still come. HELD: it stays for another
    reason: its file is being uploaded or deleted, or its chunk has too few other copies. DROP, ERASE: it goes."""

    FINE = "fine"
    YOUNG = "young"
    HELD = "held"
    DROP = "drop"
    ERASE = "erase"


def too_many(doomed: int, of: int) -> bool:
    """Whether so many records of a node that has `of` cannot have come about by broken-off work."""
    return doomed > FEW and doomed > SHARE * of


@dataclass(frozen=True, slots=True)
class Trail:
    """How far the walk over a node's inventory has come, and what it has seen since it began."""

    disk_id: str
    began_at: int
    sequence: int = 0
    seen: int = 0
    doomed: int = 0
    ended_at: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Trail:
        """The trail that `to_json` wrote."""
        return cls(**{name: value[name] for name in cls.__slots__ if name in value})


@dataclass(frozen=True, slots=True)
class Judged:
    """A page of an inventory: `next` is where the following one begins (None: it was the last), `doomed` the
    records that are to go, by their keys."""

    next: int | None
    verdicts: Counter[Verdict]
    doomed: dict[Key, Verdict] = field(default_factory=dict)

    @property
    def seen(self) -> int:
        """Records in the page."""
        return self.verdicts.total()


class StrayRule:
    """The rule; for any thread. `alone` keeps others from the chunk: a copy that is being made is a record
    without a row too, and counts as read back by then."""

    def __init__(
        self,
        store: MetadataStore,
        membership: Membership,
        upkeep: UpkeepCalls,
        calls: NodeCalls,
        cluster: ClusterInfo,
        *,
        factor: int,
        fence: Callable[[], Fence | None],
        alone: Callable[[Key], AbstractContextManager[bool]],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._membership = membership
        self._alone = alone
        self._upkeep = upkeep
        self._calls = calls
        self._cluster = cluster
        self._factor = factor
        self._fence = fence
        self._now_ms = now_ms

    def same_cluster(self) -> bool:
        """Whether the metadata are those this server began with. Raises errors.Unavailable."""
        try:
            found = self._store.cluster_info()
        except errors.StartError as error:
            logs.warning("strays.no_cluster", reason=str(error))
            return False
        return (found.cluster_id, found.generation) == (self._cluster.cluster_id, self._cluster.generation)

    def read(self, node: NodeInfo, after: int, *, surplus_ms: int, unknown_ms: int) -> Judged:
        """Judge a page of the node's inventory: records of known files when they are older than
        `surplus_ms`, of unknown ones when older than `unknown_ms`. Raises what the node answers, and
        errors.Unavailable."""
        page = self._upkeep.inventory(node, after, PAGE, deadline=Deadline(CALL_SECONDS))
        verdicts: Counter[Verdict] = Counter()
        doomed: dict[Key, Verdict] = {}
        files: dict[str, FileRecord | None] = {}
        for entry in page.chunks:
            verdict = self._judge(node, entry, files, surplus_ms, unknown_ms)
            verdicts[verdict] += 1
            if verdict in (Verdict.DROP, Verdict.ERASE):
                doomed[entry.file_id, entry.chunk_index] = verdict
        return Judged(page.next, verdicts, doomed)

    def _judge(
        self,
        node: NodeInfo,
        entry: InventoryEntry,
        files: dict[str, FileRecord | None],
        surplus_ms: int,
        unknown_ms: int,
    ) -> Verdict:
        now_ms = self._now_ms()
        if entry.created > now_ms - min(surplus_ms, unknown_ms):
            return Verdict.YOUNG
        if self._store.replica(entry.file_id, entry.chunk_index, node.node_id) is not None:
            return Verdict.FINE
        if entry.file_id not in files:
            files[entry.file_id] = self._store.get_file(entry.file_id)
        return self._rowless(files[entry.file_id], now_ms - entry.created, surplus_ms, unknown_ms)

    @staticmethod
    def _rowless(record: FileRecord | None, age_ms: int, surplus_ms: int, unknown_ms: int) -> Verdict:
        if record is None:
            return Verdict.ERASE if age_ms >= unknown_ms else Verdict.YOUNG
        if record.state not in (FileState.COMMITTED, FileState.TRASHED):
            return Verdict.HELD
        return Verdict.DROP if age_ms >= surplus_ms else Verdict.YOUNG

    def remove(self, node: NodeInfo, doomed: Mapping[Key, Verdict]) -> int:
        """Remove records that were judged so; how many are gone. Each is decided anew. Ends early when the
        lease is lost or the metadata are of another cluster. Raises what the node answers."""
        if not self.same_cluster():
            return 0
        gone = 0
        unknown = sorted({file_id for (file_id, _), verdict in doomed.items() if verdict is Verdict.ERASE})
        unknown = [file_id for file_id in unknown if self._nothing_of(file_id)]
        for first in range(0, len(unknown), MAX_ERASE):
            if self._fence() is None:
                return gone
            some = set(unknown[first : first + MAX_ERASE])
            self._calls.erase(node, sorted(some), deadline=Deadline(CALL_SECONDS))
            gone += sum(file_id in some for file_id, _ in doomed)
            logs.event("strays.erased", node_id=node.node_id, files=len(some))
        for key, verdict in doomed.items():
            if verdict is Verdict.DROP:
                with self._alone(key) as alone:
                    gone += alone and self._drop(node, key)
        return gone

    def _nothing_of(self, file_id: str) -> bool:
        return self._store.get_file(file_id) is None and next(self._store.replicas(file_id), None) is None

    def _drop(self, node: NodeInfo, key: Key) -> bool:
        """Drop one surplus record, when R others are good: re-read from their disks."""
        record = self._store.get_file(key[0])
        if record is None or record.state not in (FileState.COMMITTED, FileState.TRASHED):
            return False
        if not self._has_copies(node, key):
            return False
        fence = self._fence()
        if fence is None or self._store.replica(*key, node.node_id) is not None:
            return False
        dropped = self._upkeep.drop(node, *key, fence=fence, deadline=Deadline(CALL_SECONDS))
        if self._store.replica(*key, node.node_id) is not None:
            mark_short(self._store, *key, self._now_ms())  # somebody has used the record meanwhile
        logs.event("strays.dropped", node_id=node.node_id, file_id=key[0], chunk_index=key[1])
        return dropped

    def _has_copies(self, node: NodeInfo, key: Key) -> bool:
        view = self._membership.view()
        good = 0
        for row in self._store.replicas(*key, key[1]):
            member = view.get(row.node_id)
            if member is None or not member.healthy or member.admin_state not in _STAYING:
                continue
            if row.node_id == node.node_id:
                continue
            try:
                found = self._upkeep.verify(member.info, *key, deadline=Deadline(CALL_SECONDS))
            except errors.DfsError as error:
                logs.warning("strays.copy_not_proved", node_id=row.node_id, file_id=key[0], reason=error.message)
                continue
            good += (found.checksum, found.length) == (row.checksum, row.length)
        return good >= self._factor


class Strays:
    """Walks over the inventories of all nodes, one page at a time; for one thread. `rest_ms`: time between
    two walks over a node."""

    def __init__(self, trails: Mapping[str, Trail], rest_ms: int) -> None:
        self.trails = dict(trails)
        self.problems: dict[str, str] = {}
        self._rest_ms = rest_ms
        self._doomed: dict[str, dict[Key, Verdict]] = {}
        self._asked = ""

    @classmethod
    def from_json(cls, value: Mapping[str, Any], rest_ms: int) -> Strays:
        """Going on where an earlier leader was. Which records were to go is found out again by another walk."""
        nodes = value.get("nodes")
        found = nodes if isinstance(nodes, Mapping) else {}
        return cls({str(node_id): Trail.from_json(trail) for node_id, trail in found.items()}, rest_ms)

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"nodes": {node_id: trail.to_json() for node_id, trail in self.trails.items()}}

    def next(self, nodes: Sequence[NodeInfo], registered: Iterable[str], now_ms: int) -> tuple[NodeInfo, int] | None:
        """The node (of those that answer) whose next page is to be read, and after which sequence; each in
        turn. None when all rest."""
        known = set(registered)
        for node_id in [node_id for node_id in self.trails if node_id not in known]:
            del self.trails[node_id]
            self._doomed.pop(node_id, None)
            self.problems.pop(node_id, None)
        turn = sorted(nodes, key=lambda node: (node.node_id <= self._asked, node.node_id))
        for node in turn:
            trail = self.trails.get(node.node_id)
            if trail is not None and trail.disk_id != node.disk_id:
                trail = None
            if trail is not None and trail.ended_at and abs(now_ms - trail.ended_at) < self._rest_ms:
                continue
            if trail is None or trail.ended_at:
                self.trails[node.node_id] = Trail(node.disk_id, now_ms)
                self._doomed[node.node_id] = {}
            self._asked = node.node_id
            return node, self.trails[node.node_id].sequence
        return None

    def judged(self, node_id: str, page: Judged, now_ms: int) -> dict[Key, Verdict]:
        """A page was read. At the end of a walk: what is to be removed (nothing, with a warning, when it is
        more than can be)."""
        trail = self.trails.get(node_id)
        if trail is None:
            return {}
        doomed = self._doomed.setdefault(node_id, {})
        for key, verdict in page.doomed.items():
            if len(doomed) < MOST_REMEMBERED:
                doomed[key] = verdict
        trail = replace(trail, seen=trail.seen + page.seen, doomed=trail.doomed + len(page.doomed))
        if page.next is not None:
            self.trails[node_id] = replace(trail, sequence=page.next)
            return {}
        self.trails[node_id] = replace(trail, sequence=0, ended_at=now_ms)
        self.problems.pop(node_id, None)
        self._doomed.pop(node_id, None)
        if not too_many(trail.doomed, trail.seen):
            return doomed
        logs.warning("strays.too_many", node_id=node_id, records=trail.doomed, of=trail.seen)
        self.problems[node_id] = (
            f"{trail.doomed} of {trail.seen} records of node {node_id} have no row: too many to be removed without a "
            "look at them; see what an audit says"
        )
        return {}
