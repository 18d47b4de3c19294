"""The nodes of one audit: numbered, so that facts are short, and which of them answer."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from dfs import errors, logs
from dfs.model import AdminState, NodeInfo, NodeStatus


class Roster:
    """Registered nodes that are not decommissioned are `asked`; any other name that a row bears gets a number
    and nothing else: there is nobody to ask. Thread-safe.

    `registry` tells the nodes as they are now; `look_again` reads it."""

    def __init__(self, registry: Callable[[], Iterable[NodeInfo]] = tuple) -> None:
        self._registry = registry
        self.asked = _working(registry())
        self._lock = threading.Lock()
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._away: dict[str, str] = {}
        self.heard: set[str] = set()

    def look_again(self) -> None:
        """Take note of what an audit of hours may see: a node that joined is asked too, one that was restarted
        is asked where it is now, and one that has another disk now, or is ours no more, is lost: what it told
        before says nothing of what it holds."""
        try:
            now = _working(self._registry())
        except errors.DfsError as error:
            logs.warning("audit.registry_not_read", reason=error.message)
            return
        for node_id, before in self.asked.items():
            if node_id not in now:
                self.lost(node_id, "it is no node of the cluster any more")
            elif now[node_id].disk_id != before.disk_id:
                self.lost(node_id, "it has another disk than before")
        self.asked = {**self.asked, **now}

    def number(self, node_id: str) -> int:
        """The number of a node, given to it when it is first named."""
        number = self._numbers.get(node_id)
        if number is None:
            with self._lock:
                number = self._numbers.get(node_id)
                if number is None:
                    number = len(self._names)
                    self._names.append(node_id)
                    self._numbers[node_id] = number
        return number

    def name(self, number: int) -> str:
        """The node with that number."""
        return self._names[number]

    def heard_out(self, node_id: str) -> None:
        """The node has told all it holds."""
        with self._lock:
            self.heard.add(node_id)

    def lost(self, node_id: str, reason: str) -> None:
        """The node does not answer; for the rest of this audit nothing more is asked of it."""
        with self._lock:
            known = node_id in self._away
            self._away.setdefault(node_id, reason)
        if not known:
            logs.warning("audit.node_away", node_id=node_id, reason=reason)

    def is_away(self, node_id: str) -> bool:
        """Whether the node failed to answer."""
        return node_id in self._away

    @property
    def away(self) -> tuple[str, ...]:
        """Nodes that did not answer, by name."""
        with self._lock:
            return tuple(sorted(self._away))

    def answering(self) -> frozenset[str]:
        """Nodes that have told all they hold, and answer still."""
        with self._lock:
            return frozenset(self.heard - self._away.keys())

    def zone(self, node_id: str) -> str | None:
        """The zone of a node that is asked; None also for any other."""
        node = self.asked.get(node_id)
        return None if node is None else node.zone

    def spread(self) -> int:
        """Zones over which copies can be spread: those of nodes that answer and take new chunks."""
        takers = (
            node.zone
            for node_id, node in self.asked.items()
            if not self.is_away(node_id)
            and node.admin_state is AdminState.ACTIVE
            and node.status is NodeStatus.ACTIVE
        )
        return len(set(takers))


def _working(registered: Iterable[NodeInfo]) -> dict[str, NodeInfo]:
    return {node.node_id: node for node in registered if node.admin_state is not AdminState.DECOMMISSIONED}
