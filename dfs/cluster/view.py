"""What an API server holds to be true of the nodes at one moment. Values only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dfs.model import AdminState, NodeInfo, NodeStatus


@dataclass(frozen=True, slots=True)
class MemberState:
    """One node. `alive`: heard of within the heartbeat timeout. `suspect`: its last call failed, or
    it has not answered yet. `refusing`: why it refused a store since its last heartbeat (the code of
    its answer, such as `node_full`), if it did. `maintained`: its maintenance is over, though its row
    does not say so yet."""

    info: NodeInfo
    alive: bool
    suspect: bool
    refusing: str | None = None
    maintained: bool = False

    @property
    def admin_state(self) -> AdminState:
        """What operators want of it now."""
        return AdminState.ACTIVE if self.maintained else self.info.admin_state

    @property
    def healthy(self) -> bool:
        """Alive, and calls to it work."""
        return self.alive and not self.suspect

    @property
    def writable(self) -> bool:
        """New chunks may be placed here."""
        return (
            self.healthy
            and self.refusing is None
            and self.admin_state == AdminState.ACTIVE
            and self.info.status == NodeStatus.ACTIVE
        )

    @property
    def full(self) -> bool:
        """It would take chunks if it had space."""
        return (
            self.healthy
            and self.admin_state == AdminState.ACTIVE
            and (self.refusing == "node_full" or self.info.status == NodeStatus.FULL)
        )


def weight_of(info: NodeInfo) -> int:
    """A node's share of the data relative to others': its capacity to four significant bits. Free
    space that others use up moves the capacity a little all the time, and must not move data."""
    low_bits = max(0, info.capacity_bytes.bit_length() - 4)
    return max(1, info.capacity_bytes >> low_bits << low_bits)


class View:
    """All registered nodes at one moment; never changes. Views of one process with the same `epoch`
    have the same writable nodes, in the same zones and of the same weights."""

    __slots__ = ("_by_id", "epoch", "members", "writable", "writable_by_id")

    def __init__(self, epoch: int, members: Sequence[MemberState]) -> None:
        self.epoch = epoch
        self.members = tuple(members)
        self._by_id = {member.info.node_id: member for member in self.members}
        self.writable = tuple(member.info for member in self.members if member.writable)
        self.writable_by_id = {info.node_id: info for info in self.writable}

    def get(self, node_id: str) -> MemberState | None:
        """The node's state; None when it is not registered."""
        return self._by_id.get(node_id)

    @property
    def full(self) -> int:
        """How many nodes would take chunks if they had space."""
        return sum(member.full for member in self.members)
