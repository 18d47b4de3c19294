"""At most a few copies at once from one node, and to one node: several sources and targets work side by
side, and none is flooded because it happens to be wanted by all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dfs import errors
from dfs.model import NodeInfo
from dfs.wire.deadline import Deadline

PULLS_PER_NODE = 2


class Gate:
    """Lets at most `most` copies from each node, and to each node, be under way. Thread-safe."""

    def __init__(self, most: int = PULLS_PER_NODE) -> None:
        self._most = most
        self._taken: dict[tuple[str, str], int] = {}
        self._freed = threading.Condition()

    @contextmanager
    def turn(self, target: NodeInfo, source: NodeInfo, deadline: Deadline) -> Iterator[None]:
        """Wait for one's turn at both nodes, and have it; raises Busy when it is nobody's before the deadline."""
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
            yield
        finally:
            with self._freed:
                for place in places:
                    left = self._taken.pop(place) - 1
                    if left:
                        self._taken[place] = left
                self._freed.notify_all()
