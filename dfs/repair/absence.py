"""For how long nodes have been absent, as the leader of repair counts it. Pure: told the time.

Only time between two looks at which the registry was readable counts, so that neither metadata that is
away nor a stopped process makes anybody look dead; the sums are kept in the document `repair`, so that a
new leader goes on and does not begin at zero. A node that is seen healthy once begins again. One that is in
maintenance is away, not absent; one that is decommissioned is nothing at all.
"""

from __future__ import annotations

from collections.abc import Mapping

from dfs.cluster.view import MemberState, View
from dfs.model import AdminState

READABLE_WITHIN = 8.0
"""Seconds since the registry was last read, up to which a look at it counts. It is read every two seconds."""

LONGEST_GAP = 15.0
"""Most seconds that count between two looks: a process that did not run has seen nothing."""


def is_absent(member: MemberState) -> bool:
    """Whether a node should be there and is not."""
    return not member.healthy and member.admin_state not in (AdminState.MAINTENANCE, AdminState.DECOMMISSIONED)


class Absence:
    """The sums, by node id. `seconds` as an earlier leader left them."""

    def __init__(self, seconds: Mapping[str, float] | None = None) -> None:
        self._seconds = dict(seconds or {})
        self._looked: float | None = None  # None: the last look did not count
        self.readable = False

    def look(self, view: View, read_age: float, now: float) -> None:
        """Count the time since the last look, at `now` (s, monotonic), when the registry was last read
        `read_age` seconds ago."""
        self.readable = read_age <= READABLE_WITHIN
        if not self.readable:
            self._looked = None
            return
        passed = 0.0 if self._looked is None else min(max(0.0, now - self._looked), LONGEST_GAP)
        self._looked = now
        absent = [member.info.node_id for member in view.members if is_absent(member)]
        # Who was not absent at the last look gets nothing for the time before this one.
        self._seconds = {
            node_id: self._seconds[node_id] + passed if node_id in self._seconds else 0.0 for node_id in absent
        }

    def seconds(self) -> dict[str, float]:
        """Of every node that is absent now."""
        return dict(self._seconds)
