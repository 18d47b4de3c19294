"""Places of one node for calls that wait on it: a hung node must not eat every thread."""

from __future__ import annotations

import threading
from types import TracebackType

from dfs.cluster.nodeanswers import NodeFailed
from dfs.errors import Busy
from dfs.wire.deadline import Deadline


class Slots:
    """The places of one node for calls that wait on it; `failures` counts those it did not answer."""

    __slots__ = ("failures", "free", "most", "node_id")

    def __init__(self, node_id: str, most: int) -> None:
        self.node_id = node_id
        self.most = most
        self.free = threading.Semaphore(most)
        self.failures = 0


class Slot:
    """One place, held for the length of a block. Entering waits up to `stall` seconds: raises Busy, or
    NodeFailed when those before it waited in vain."""

    __slots__ = ("_deadline", "_slots", "_stall")

    def __init__(self, slots: Slots, deadline: Deadline, stall: float) -> None:
        self._slots = slots
        self._deadline = deadline
        self._stall = stall

    def __enter__(self) -> None:
        slots = self._slots
        if slots.free.acquire(blocking=False):
            return
        failures = slots.failures
        if not slots.free.acquire(timeout=self._deadline.sooner(self._stall)):
            raise Busy(f"{slots.most} calls already wait on node {slots.node_id}")
        if slots.failures != failures:
            # Those before us waited in vain; to wait as long again would help nobody.
            slots.free.release()
            raise NodeFailed(slots.node_id, "the calls before this one failed", sent=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, NodeFailed):
            self._slots.failures += 1
        self._slots.free.release()
