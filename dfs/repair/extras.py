"""Records without a row, moved aside by an operator's command.

Only records that the last audit confirmed, and only after a look that nothing leads to them now and that the
chunk, if it is one, has all its copies elsewhere, re-read from their disks: rows alone may promise what has
gone. A node copies such a record to its `set-aside/` before it drops it, so nothing is lost even when all of
this was wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from dfs import errors, logs
from dfs.cluster.nodeanswers import Verified
from dfs.cluster.upkeep import Fence
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState, ChunkReplica, FileState, NodeInfo
from dfs.repair.auditresult import EXTRAS_DOCUMENT
from dfs.repair.findings import Extra
from dfs.repair.inspection import call_deadline
from dfs.wire.deadline import Deadline

MOST_AT_ONCE = 50
"""Records of one request: each costs a node two syncs."""

_CALL_SECONDS = 30.0


class Mover(Protocol):
    """What is used of `cluster.upkeep.UpkeepCalls`."""

    def set_aside(
        self, node: NodeInfo, file_id: str, chunk_index: int, *, fence: Fence | None, deadline: Deadline
    ) -> bool:
        """See UpkeepCalls.set_aside."""

    def verify(self, node: NodeInfo, file_id: str, chunk_index: int, *, deadline: Deadline) -> Verified:
        """See UpkeepCalls.verify."""


@dataclass(frozen=True, slots=True)
class Moved:
    """A record: moved aside (`left` is empty), or left where it is, and why."""

    extra: Extra
    left: str = ""

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self.extra), "left": self.left}


def confirmed_extras(store: MetadataStore) -> list[Extra]:
    """The records without a row that the last audit confirmed; as many as it listed."""
    document = store.read_document(EXTRAS_DOCUMENT)
    return [] if document is None else [Extra(**each) for each in document.value.get("extras", ())]


def set_aside(
    store: MetadataStore,
    calls: Mover,
    extras: Sequence[Extra],
    *,
    factor: int,
    mark: Callable[[str, int], None],
) -> list[Moved]:
    """Move `extras` aside, as far as they still are what the audit took them for. `mark` leaves a mark by
    which repair finds a chunk. What goes wrong with one is told and stops no other."""
    nodes = {node.node_id: node for node in store.list_nodes()}
    copies = _Copies(calls, nodes)
    moved = []
    for extra in extras:
        try:
            left = _reason_to_leave(store, copies, extra, nodes, factor)
            if not left:
                node = nodes[extra.node_id]
                there = calls.set_aside(
                    node, extra.file_id, extra.chunk_index, fence=None, deadline=Deadline(_CALL_SECONDS)
                )
                left = "" if there else "it is not there any more"
                if store.replica(extra.file_id, extra.chunk_index, extra.node_id) is not None:
                    mark(extra.file_id, extra.chunk_index)  # a row has come meanwhile: it promises what has gone
        except errors.DfsError as error:
            left = error.message
        if not left:
            logs.event("record.set_aside", **asdict(extra))
        moved.append(Moved(extra, left))
    return moved


def _reason_to_leave(
    store: MetadataStore, copies: _Copies, extra: Extra, nodes: Mapping[str, NodeInfo], factor: int
) -> str:
    node = nodes.get(extra.node_id)
    if node is None or node.admin_state is AdminState.DECOMMISSIONED:
        return "its node is not one of the cluster's"
    rows = list(store.replicas(extra.file_id, extra.chunk_index, extra.chunk_index))
    if extra.node_id in {row.node_id for row in rows}:
        return "it has a row by now"
    record = store.get_file(extra.file_id)
    if record is None:
        return "" if not rows else "its file has rows but no record"
    if record.state in (FileState.UPLOADING, FileState.DELETING):
        return f"its file is {record.state.value}"
    if extra.chunk_index < max(1, record.chunk_count):
        good = sum(map(copies.good, rows))
        if good < factor:
            return f"its chunk has only {good} other good replicas: have it repaired first"
    return ""


class _Copies:
    """Copies that rows promise, re-read by their nodes. A node that does not answer is asked once."""

    def __init__(self, calls: Mover, nodes: Mapping[str, NodeInfo]) -> None:
        self._calls = calls
        self._nodes = nodes
        self._silent: set[str] = set()

    def good(self, row: ChunkReplica) -> bool:
        """Whether the copy that the row promises is there and can be read."""
        node = self._nodes.get(row.node_id)
        if node is None or node.admin_state is AdminState.DECOMMISSIONED or row.node_id in self._silent:
            return False
        deadline = call_deadline(row.length)
        try:
            found = self._calls.verify(node, row.file_id, row.chunk_index, deadline=deadline)
        except (errors.CorruptChunk, errors.NotFound, errors.Gone):
            return False
        except errors.DfsError as error:
            self._silent.add(row.node_id)
            logs.warning("record.copy_not_proved", node_id=row.node_id, reason=error.message)
            return False
        return (found.checksum, found.length) == (row.checksum, row.length)
