"""What is learnt of the nodes while one chunk is mended."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dfs import errors, logs
from dfs.cluster.calls import NodeFailed
from dfs.cluster.membership import Membership
from dfs.cluster.upkeep import UpkeepCalls
from dfs.cluster.view import View
from dfs.model import AdminState, ChunkReplica, NodeInfo
from dfs.repair.planner import Holder
from dfs.wire.deadline import Deadline

LEAST_SECONDS = 10.0
_LEAST_RATE = 512 * 1024

_LEAVING = (AdminState.DRAINING, AdminState.DRAINED)


class Stopped(Exception):
    """Mending must end here; the text says why."""


def call_deadline(length: int) -> Deadline:
    """For a call about a chunk of `length` bytes: ten seconds, and what it takes at 512 KiB/s."""
    return Deadline(LEAST_SECONDS + length / _LEAST_RATE)


class Inspection:
    """The nodes' standing towards one chunk, for the time of one mend.

    What a node has shown in that time counts for more than what membership knows: copies it `verified`,
    copies that are `bad`, nodes that are `silent` (they did not answer; nothing is known of their copy)
    and nodes that are `unfit` (they do not take the chunk). `foreign` nodes hold other bytes under the
    chunk's name: bad, and not to be destroyed. Membership is told of failures and successes.
    """

    def __init__(
        self, membership: Membership, calls: UpkeepCalls, away: Callable[[NodeInfo], bool], now_ms: int
    ) -> None:
        self._membership = membership
        self._calls = calls
        self._away = away
        self._now_ms = now_ms
        self.verified: set[str] = set()
        self.bad: set[str] = set()
        self.foreign: set[str] = set()
        self.silent: set[str] = set()
        self.unfit: set[str] = set()

    @property
    def view(self) -> View:
        """The nodes as they are known now."""
        return self._membership.view()

    def node(self, node_id: str) -> NodeInfo | None:
        """The node, if it is registered."""
        member = self.view.get(node_id)
        return None if member is None else member.info

    def standing(self, node_ids: Iterable[str]) -> tuple[dict[str, Holder], set[str]]:
        """What the holders are to the chunk, and which of them are gone for good."""
        view = self.view
        holders: dict[str, Holder] = {}
        gone: set[str] = set()
        for node_id in node_ids:
            member = view.get(node_id)
            if member is None or member.info.admin_state is AdminState.DECOMMISSIONED:
                holders[node_id] = Holder.LOST
                gone.add(node_id)
            elif node_id in self.silent:
                holders[node_id] = Holder.AWAY
            elif not member.healthy:
                holders[node_id] = Holder.AWAY if self._away(member.info) else Holder.LOST
            elif node_id in self.bad:
                holders[node_id] = Holder.BAD
            else:
                leaving = member.info.state_at(self._now_ms) in _LEAVING
                holders[node_id] = Holder.LEAVING if leaving else Holder.GOOD
        return holders, gone

    def verify(self, node_id: str, row: ChunkReplica) -> bool:
        """Have the node re-read its copy of the chunk that `row` describes: whether it is good.

        Afterwards the node is among `verified`, `bad` or `silent`."""
        node = self.node(node_id)
        if node is None:
            self.silent.add(node_id)
            return False
        deadline = call_deadline(row.length)
        try:
            found = self._calls.verify(node, row.file_id, row.chunk_index, deadline=deadline)
        except (errors.CorruptChunk, errors.NotFound, errors.Gone) as error:
            self._membership.report_success(node_id)
            if isinstance(error, errors.Gone):
                self.unfit.add(node_id)  # it will not take it again
            self._found_bad(node_id, row, error.code)
            return False
        except errors.DfsError as error:
            self.blame(node, error, deadline)
            self.silent.add(node_id)
            return False
        self._membership.report_success(node_id)
        if (found.checksum, found.length) != (row.checksum, row.length):
            self.foreign.add(node_id)
            self.unfit.add(node_id)
            self._found_bad(node_id, row, "other_bytes")
            return False
        self.verified.add(node_id)
        self.bad.discard(node_id)
        return True

    def is_missing(self, node_id: str) -> None:
        """The node has no copy any more."""
        self.verified.discard(node_id)
        self.bad.add(node_id)

    def _found_bad(self, node_id: str, row: ChunkReplica, why: str) -> None:
        self.bad.add(node_id)
        self.verified.discard(node_id)
        logs.warning(
            "replica.found_bad", file_id=row.file_id, chunk_index=row.chunk_index, node_id=node_id, why=why
        )

    def blame(self, node: NodeInfo, error: errors.DfsError, deadline: Deadline) -> None:
        """A call to `node` failed: tell membership, and use the node for nothing new in this mend.

        Raises Stopped when the node knows a newer holder of the lease."""
        if isinstance(error, errors.Fenced):
            raise Stopped(f"node {node.node_id} knows a newer holder of the lease") from error
        self.unfit.add(node.node_id)
        if isinstance(error, (errors.NodeFull, errors.StoreReadOnly)):
            self._membership.report_refusal(node.node_id, error.code)
        elif isinstance(error, (NodeFailed, errors.WrongNode)) and not deadline.expired():
            # With all the time used up it may have been too slow, and not gone.
            self._membership.report_failure(node.node_id, error.message)

    def worked(self, node: NodeInfo) -> None:
        """A call to `node` succeeded."""
        self._membership.report_success(node.node_id)
