"""At most a few copies at once from one node, and to one node: several sources and targets work side by
side, and none is flooded because it happens to be wanted by all."""

from __future__ import annotations

import threading

from dfs import errors
from dfs.cluster.calls import NodeCalls
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.model import NodeInfo
from dfs.wire.deadline import Deadline

PULLS_PER_NODE = 2


class GatedCalls(UpkeepCalls):
    """Upkeep calls whose pulls wait for their turn at the source and at the target."""

    def __init__(self, calls: NodeCalls, most: int = PULLS_PER_NODE) -> None:
        super().__init__(calls)
        self._most = most
        self._taken: dict[tuple[str, str], int] = {}
        self._freed = threading.Condition()

    def pull(
        self,
        target: NodeInfo,
        source: NodeInfo,
        file_id: str,
        chunk_index: int,
        *,
        checksum: str,
        length: int,
        chunk_size: int,
        file_size: int | None,
        fence: Fence | None,
        deadline: Deadline,
    ) -> None:
        """See UpkeepCalls; raises Busy when it is nobody's turn before the deadline."""
        places = (("from", source.node_id), ("to", target.node_id))
        with self._freed:
            free = self._freed.wait_for(
                lambda: all(self._taken.get(place, 0) < self._most for place in places), deadline.remaining()
            )
            if not free:
                raise errors.Busy(f"too many copies from {source.node_id} or to {target.node_id} are under way")
            for place in places:
                self._taken[place] = self._taken.get(place, 0) + 1
        try:
            super().pull(
                target,
                source,
                file_id,
                chunk_index,
                checksum=checksum,
                length=length,
                chunk_size=chunk_size,
                file_size=file_size,
                fence=fence,
                deadline=deadline,
            )
        finally:
            with self._freed:
                for place in places:
                    left = self._taken.pop(place) - 1
                    if left:
                        self._taken[place] = left
                self._freed.notify_all()
