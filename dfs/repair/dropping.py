"""Taking copies away: after enough others have been re-read, the row first, then the bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dfs import errors, logs
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.contract import MetadataStore, OutcomeUnknown, StepsRefused
from dfs.metadata.steps import CheckFile, CheckReplica, RemoveReplica, Step
from dfs.model import ChunkReplica, FileState, NodeInfo
from dfs.repair.inspection import Inspection, call_deadline
from dfs.repair.marks import mark_short

SETTLED = frozenset({FileState.COMMITTED, FileState.TRASHED})
"""States of files that copies are taken of: while a file is being uploaded its rows still come and go."""

_TRIES = 3
_DROP_TRIES = 2


class Dropping:
    """Drops copies for one mend. `guard` returns the lease under which the next change is made, or raises
    Stopped."""

    def __init__(
        self,
        store: MetadataStore,
        calls: UpkeepCalls,
        nodes: Inspection,
        *,
        guard: Callable[[], Fence],
        now_ms: Callable[[], int],
    ) -> None:
        self._store = store
        self._calls = calls
        self._nodes = nodes
        self._guard = guard
        self._now_ms = now_ms

    def proved(self, staying: Sequence[str], factor: int, like: ChunkReplica) -> tuple[str, ...]:
        """The first `factor` of the nodes whose copies have been re-read from their disks in this mend;
        reads those that were not. Fewer when others turn out bad or silent."""
        good: list[str] = []
        for node_id in staying:
            if len(good) == factor:
                break
            if node_id in self._nodes.verified or self._nodes.verify(node_id, like):
                good.append(node_id)
        return tuple(good)

    def forget(self, node_ids: Sequence[str], proved: Sequence[str], like: ChunkReplica) -> bool:
        """Remove the rows of nodes that are gone; False when rows have changed meanwhile."""
        self._guard()
        if not self._remove_rows(node_ids, proved, like):
            return False
        logs.event(
            "replica.forgotten", file_id=like.file_id, chunk_index=like.chunk_index, nodes=",".join(node_ids)
        )
        return True

    def drop(self, node_id: str, proved: Sequence[str], like: ChunkReplica) -> bool:
        """Remove a node's row, if those of the `proved` nodes are still there, then its bytes.

        False when rows have changed meanwhile: nothing was done. Bytes that could not be dropped are left
        to the rule for records without a row. Raises Stopped, and whatever the metadata raise."""
        self._guard()
        if not self._remove_rows([node_id], proved, like):
            return False
        node = self._nodes.node(node_id)
        fence = self._guard()
        if node is not None and self._drop_bytes(node, like, fence):
            self._nodes.is_missing(node_id)
            if self._store.replica(like.file_id, like.chunk_index, node_id) is not None:
                # Somebody stored it there again before the bytes went, and put its row back.
                logs.warning(
                    "replica.came_back", file_id=like.file_id, chunk_index=like.chunk_index, node_id=node_id
                )
                mark_short(self._store, like.file_id, like.chunk_index, self._now_ms())
        return True

    def _remove_rows(self, node_ids: Sequence[str], proved: Sequence[str], like: ChunkReplica) -> bool:
        chunk = like.file_id, like.chunk_index
        steps: list[Step] = [CheckFile(like.file_id, SETTLED)]
        steps += [CheckReplica(*chunk, other) for other in proved]
        steps += [RemoveReplica(*chunk, node_id) for node_id in node_ids]
        for attempt in range(_TRIES):
            try:
                self._store.transact(steps)
                return True
            except StepsRefused:
                return False
            except OutcomeUnknown:  # once more does no harm
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _drop_bytes(self, node: NodeInfo, like: ChunkReplica, fence: Fence) -> bool:
        """Whether the node has said that its copy is gone. Other bytes than the row's are not destroyed."""
        call = self._calls.set_aside if node.node_id in self._nodes.foreign else self._calls.drop
        chunk = like.file_id, like.chunk_index
        for _ in range(_DROP_TRIES):
            deadline = call_deadline(like.length)
            try:
                call(node, *chunk, fence=fence, deadline=deadline)
            except errors.DfsError as error:
                reason = error.message
                self._nodes.blame(node, error, deadline)
            else:
                self._nodes.worked(node)
                logs.event("replica.dropped", file_id=chunk[0], chunk_index=chunk[1], node_id=node.node_id)
                return True
        logs.warning(
            "replica.bytes_left", file_id=chunk[0], chunk_index=chunk[1], node_id=node.node_id, reason=reason
        )
        return False
