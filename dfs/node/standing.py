"""What a node may do at this moment, from what its disk, its operators and its stop say."""

from __future__ import annotations

from typing import Protocol

from dfs.errors import StoreReadOnly
from dfs.model import AdminState, NodeStatus

_LEAVING = frozenset({AdminState.DRAINING, AdminState.DRAINED, AdminState.DECOMMISSIONED})


class Space(Protocol):
    """The part of the store's `Usage` that is published."""

    @property
    def free_bytes(self) -> int: ...
    @property
    def used_bytes(self) -> int: ...
    @property
    def capacity_bytes(self) -> int: ...
    @property
    def chunks(self) -> int: ...
    @property
    def full(self) -> bool: ...
    @property
    def read_only_reason(self) -> str | None: ...
    @property
    def bad_chunks(self) -> int: ...


class Measured(Protocol):
    """Something that tells its space: the chunk store."""

    def usage(self) -> Space: ...
    def check_takes_chunks(self) -> None: ...


class Standing:
    """One node's standing. Attributes are replaced whole, so reading needs no lock."""

    def __init__(self, store: Measured) -> None:
        self._store = store
        self.admin_state = AdminState.ACTIVE
        self.stopping = False
        self.lost: str | None = None
        self.scrubbed_at = 0
        """When the last complete pass of the scrubber began (ms); 0: there was none."""

    def usage(self) -> Space:
        """The store's space now."""
        return self._store.usage()

    def status(self) -> NodeStatus:
        """What the node says of itself in the registry."""
        usage = self.usage()
        if usage.read_only_reason:
            return NodeStatus.READ_ONLY  # even when stopping for it: the operator has to know
        if self.stopping or self.lost:
            return NodeStatus.STOPPING
        return NodeStatus.FULL if usage.full else NodeStatus.ACTIVE

    def check_takes_chunks(self) -> None:
        """Raise what a store is to be answered before its body is read: StoreReadOnly (503) or
        NodeFull (507). Returns when the chunk may come."""
        if self.lost:
            raise StoreReadOnly(f"this node stores nothing: {self.lost}")
        if self.stopping:
            raise StoreReadOnly("this node is stopping")
        if self.admin_state in _LEAVING:
            raise StoreReadOnly(f"this node is {self.admin_state}")
        self._store.check_takes_chunks()
