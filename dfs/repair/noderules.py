"""When a node may be taken away: the rules of `ok-to-stop`, maintenance, draining and decommissioning. Pure.

A node may be away without repair (`maintenance`) only as long as nothing else is wrong: with R copies one
absence is survived, two at once may take the last copy. What is judged is the whole cluster at one moment,
`Situation`; that two operators do not act on the same moment is the guard's business (`nodelife`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum

from dfs.model import AdminState, NodeInfo
from dfs.notation import format_size, format_span
from dfs.repair.progress import RepairStatus, TourKind

STATUS_OLD_MS = 60_000
"""Repair says every few seconds how things stand; what is older than this says nothing of now."""

MOST_MAINTENANCE_MS = 24 * 3600 * 1000


class Action(StrEnum):
    """What operators do with a node."""

    OK_TO_STOP = "ok-to-stop"
    MAINTENANCE = "maintenance"
    DRAIN = "drain"
    ACTIVATE = "activate"
    DECOMMISSION = "decommission"
    REPAIR = "repair"
    """Copy its chunks elsewhere now, without waiting for DFS_REPAIR_DELAY."""


STATE_AFTER = {
    Action.MAINTENANCE: AdminState.MAINTENANCE,
    Action.DRAIN: AdminState.DRAINING,
    Action.ACTIVATE: AdminState.ACTIVE,
    Action.DECOMMISSION: AdminState.DECOMMISSIONED,
}

_LEAVING = (AdminState.DRAINING, AdminState.DRAINED)


@dataclass(frozen=True, slots=True)
class Reason:
    """Why something is refused, one sentence. `final`: force does not help."""

    text: str
    final: bool = False


@dataclass(frozen=True, slots=True)
class Situation:
    """The cluster at `now` (ms).

    `nodes` are the registry's rows. `answering` nodes were heard of and answered just now; `writable` ones
    take chunks. `short` counts chunks marked as short of a copy (with `short_more` at least so many). `rows`:
    how many rows name the node in question, `rows_more` at least so many; only counted where it matters.
    """

    now: int
    factor: int
    nodes: Mapping[str, NodeInfo]
    answering: frozenset[str]
    writable: frozenset[str]
    repair: RepairStatus | None
    short: int = 0
    short_more: bool = False
    rows: int = 0
    rows_more: bool = False

    def state(self, node_id: str) -> AdminState:
        """The node's administrative state now."""
        return self.nodes[node_id].state_at(self.now)

    def others(self, node_id: str) -> list[NodeInfo]:
        """All other nodes, by id."""
        return [self.nodes[other] for other in sorted(self.nodes) if other != node_id]

    def writable_others(self, node_id: str) -> list[NodeInfo]:
        """The other nodes that take chunks."""
        return [node for node in self.others(node_id) if node.node_id in self.writable]

    def room(self, node_id: str) -> int:
        """Bytes that the others would take. What nodes call free leaves out their reserve of two volumes."""
        return sum(node.free_bytes for node in self.writable_others(node_id))

    def reported(self) -> bool:
        """Whether repair has said lately how things stand."""
        return self.repair is not None and self.now - self.repair.at <= STATUS_OLD_MS

    def dispensable(self, node_id: str) -> bool:
        """It does not answer, and repair sees that all its chunks have their copies elsewhere."""
        repair = self.repair
        return node_id not in self.answering and repair is not None and self.reported() and node_id in repair.repaired


def reasons(action: Action, situation: Situation, node_id: str) -> list[Reason]:
    """Why `action` is refused now; empty when it is granted. What changes nothing is granted."""
    if node_id not in situation.nodes:
        known = ", ".join(sorted(situation.nodes)[:10]) or "none"
        return [Reason(f"there is no node {node_id} (registered: {known})", final=True)]
    return list(_RULES[action](situation, node_id))


def _ok_to_stop(situation: Situation, node_id: str) -> Iterator[Reason]:
    if situation.state(node_id) in (AdminState.DRAINED, AdminState.DECOMMISSIONED):
        return  # it holds nothing that counts
    yield from _others_away(situation, node_id)
    yield from _short(situation)
    yield from _too_few(situation, node_id)
    yield from _unreported(situation)


def _maintenance(situation: Situation, node_id: str) -> Iterator[Reason]:
    state = situation.state(node_id)
    if state is AdminState.DECOMMISSIONED:
        yield Reason(f"{node_id} is decommissioned: it takes no part in the cluster", final=True)
    elif state in _LEAVING:
        yield Reason(
            f"{node_id} is {state}, which maintenance would end: stop it as it is once it is drained, or activate it first",
            final=True,
        )
    else:
        yield from _ok_to_stop(situation, node_id)


def _drain(situation: Situation, node_id: str) -> Iterator[Reason]:
    state = situation.state(node_id)
    if state in _LEAVING:
        return
    if state is AdminState.DECOMMISSIONED:
        yield Reason(f"{node_id} is decommissioned: there is nothing to drain", final=True)
        return
    yield from _no_place(situation, node_id, final=True)
    if node_id not in situation.answering:
        yield Reason(
            f"{node_id} does not answer, so it cannot be emptied: repair copies its chunks from other nodes by "
            "itself, then it can be decommissioned"
        )
    for other in situation.others(node_id):
        state = situation.state(other.node_id)
        if state in (AdminState.MAINTENANCE, AdminState.DRAINING):
            yield Reason(f"{other.node_id} is {_in(state)}: one node at a time")


def _activate(situation: Situation, node_id: str) -> Iterator[Reason]:
    if situation.state(node_id) is AdminState.DECOMMISSIONED:
        yield Reason(
            f"{node_id} is decommissioned: the rows of its chunks have been or are being removed; what it still "
            "holds would be surplus or unknown, and is gone through after DFS_UPLOAD_TTL; --force takes it back all the same"
        )


def _decommission(situation: Situation, node_id: str) -> Iterator[Reason]:
    state = situation.state(node_id)
    if state in (AdminState.DRAINED, AdminState.DECOMMISSIONED) or situation.dispensable(node_id):
        return
    if node_id in situation.answering:
        todo = (
            f"it is still being drained: wait for it (python -m dfs.admin drain {node_id} --wait)"
            if state is AdminState.DRAINING
            else f"drain it first (python -m dfs.admin drain {node_id} --wait)"
        )
        yield Reason(f"{node_id} answers and holds chunks: {todo}")
    else:
        absent = situation.repair.absent.get(node_id) if situation.repair else None
        since = "" if absent is None else f", for {format_span(absent)} now"
        yield Reason(
            f"{node_id} does not answer{since}, and repair has not copied all its chunks elsewhere yet: wait until "
            f"`status` says so (python -m dfs.admin repair --now {node_id} begins at once)"
        )
    if situation.rows:
        least = "at least " if situation.rows_more else ""
        yield Reason(
            f"{node_id} is recorded to hold {least}{_chunks(situation.rows)}: any of them whose other copies are bad or "
            "gone would be lost for good"
        )
    yield from _unreported(situation)


def _repair(situation: Situation, node_id: str) -> Iterator[Reason]:
    state = situation.state(node_id)
    if state in (AdminState.DRAINED, AdminState.DECOMMISSIONED):
        yield Reason(f"{node_id} is {state}: there is nothing on it to repair", final=True)
    elif node_id in situation.answering:
        yield Reason(f"{node_id} answers: drain it if it is to go (python -m dfs.admin drain {node_id})", final=True)
    elif state is AdminState.MAINTENANCE:
        yield Reason(
            f"{node_id} is in maintenance, so nothing is copied for it: end that first "
            f"(python -m dfs.admin activate {node_id})",
            final=True,
        )
    elif not situation.dispensable(node_id):
        yield from _no_place(situation, node_id, final=False)


_RULES = {
    Action.OK_TO_STOP: _ok_to_stop,
    Action.MAINTENANCE: _maintenance,
    Action.DRAIN: _drain,
    Action.ACTIVATE: _activate,
    Action.DECOMMISSION: _decommission,
    Action.REPAIR: _repair,
}


def _no_place(situation: Situation, node_id: str, *, final: bool) -> Iterator[Reason]:
    """Too few other nodes for the chunks of this one, or too little room there."""
    left, room, used = len(situation.writable_others(node_id)), situation.room(node_id), situation.nodes[node_id].used_bytes
    if left < situation.factor:
        yield Reason(
            f"without {node_id} {_nodes(left)} would take chunks, and every chunk needs {situation.factor}: "
            "add a node first",
            final=final,
        )
    elif used > room:
        yield Reason(
            f"{node_id} uses {format_size(used)}, and the other nodes have room for {format_size(room)}: "
            "add a node first"
        )


def _others_away(situation: Situation, node_id: str) -> Iterator[Reason]:
    """Other nodes whose copies cannot be counted on."""
    for other in situation.others(node_id):
        name, state = other.node_id, situation.state(other.node_id)
        if state in (AdminState.MAINTENANCE, AdminState.DRAINING):
            yield Reason(f"{name} is {_in(state)}: one node at a time")
        elif state is AdminState.DRAINED:
            continue
        elif state is AdminState.DECOMMISSIONED:
            if not _forgotten(situation, other):
                yield Reason(f"{name} was decommissioned and repair has not gone through its chunks yet")
        elif name not in situation.answering and not situation.dispensable(name):
            yield Reason(f"{name} does not answer, and its chunks do not all have their copies elsewhere yet")


def _forgotten(situation: Situation, node: NodeInfo) -> bool:
    """Whether repair has done what a decommissioned node leaves to do."""
    repair = situation.repair
    if repair is None or repair.at <= node.admin_at:
        return False
    return not any(tour.kind is TourKind.FORGET and tour.node_id == node.node_id for tour in repair.tours)


def _short(situation: Situation) -> Iterator[Reason]:
    repair = situation.repair
    # Repair copes with the loss of those that do not answer, whatever was bad there.
    found = sum(node.bad_chunks for name, node in situation.nodes.items() if name in situation.answering)
    bad = max(repair.bad if repair else 0, found)
    if bad:
        yield Reason(f"known to be bad on a disk: {_chunks(bad)}; wait for repair")
    if situation.short:
        least = "at least " if situation.short_more else ""
        yield Reason(f"short of a copy or reported bad: {least}{_chunks(situation.short)}; wait for repair")
    if repair is not None and repair.unrecoverable:
        yield Reason(f"without any good copy that answers: {_chunks(repair.unrecoverable)} (python -m dfs.admin audit)")
    if repair is not None and repair.waiting and not situation.short:
        yield Reason(f"repair cannot help now: {_chunks(repair.waiting)} waiting for a node or for space")


def _too_few(situation: Situation, node_id: str) -> Iterator[Reason]:
    left = len(situation.writable_others(node_id))
    if situation.factor == 1:
        yield Reason(f"with REPLICATION_FACTOR=1 the chunks on {node_id} have no other copy: they could not be read")
    if left < situation.factor:
        yield Reason(
            f"without {node_id} {_nodes(left)} would take chunks, and every chunk needs {situation.factor}: "
            "writes would fail"
        )


def _unreported(situation: Situation) -> Iterator[Reason]:
    repair = situation.repair
    if repair is None:
        yield Reason("repair has not reported yet: no API server has led it so far, so nobody knows what is short")
    elif not situation.reported():
        age = format_span((situation.now - repair.at) / 1000)
        yield Reason(f"repair last reported {age} ago: no API server leads it, so nobody knows what is short")


def _in(state: AdminState) -> str:
    return "in maintenance" if state is AdminState.MAINTENANCE else str(state)


def _nodes(count: int) -> str:
    return "no node" if not count else f"only {count} {'node' if count == 1 else 'nodes'}"


def _chunks(count: int) -> str:
    return "1 chunk" if count == 1 else f"{count:,} chunks"
