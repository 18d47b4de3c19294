"""What may be said of the health of all data, and on what proof. Pure.

"Healthy" is never inferred from nothing being heard: it takes an audit that said whole, or a complete round
of repair that found nothing to do, and nothing seen since that speaks against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from dfs.cluster.view import MemberState
from dfs.model import AdminState
from dfs.notation import format_span
from dfs.repair.auditresult import AuditResult, Verdict
from dfs.repair.noderules import STATUS_OLD_MS
from dfs.repair.pace import LEAST_CHUNK, LEAST_MOVED, worth
from dfs.repair.progress import RepairStatus, Tour, TourKind

_DEFAULT_CHUNK = 1 << 20
_LOST = (TourKind.LOST, TourKind.FORGET)


class State(StrEnum):
    """HEALTHY: proved, see `Health`. UNPROVEN: nothing speaks against it, and nothing for it. REPAIRING: some
    chunks have too few good copies, and repair makes more. DEGRADED: the same, and repair waits or cannot.
    DATA_MISSING: a chunk has no good copy left that anybody knows of."""

    HEALTHY = "healthy"
    UNPROVEN = "unproven"
    REPAIRING = "repairing"
    DEGRADED = "degraded"
    DATA_MISSING = "data_missing"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known at `now` (ms). `audit` is the latest that came to a verdict; `registry_age` how long ago
    (s) the nodes' rows were read; `repair_delay` (s) and `rate` (bytes a second) as set."""

    now: int
    factor: int
    repair_delay: float
    rate: float
    members: Sequence[MemberState]
    repair: RepairStatus | None
    audit: AuditResult | None
    registry_age: float = 0.0

    def state(self, member: MemberState) -> AdminState:
        """The administrative state of a node now."""
        return member.info.state_at(self.now)

    def reported(self) -> RepairStatus | None:
        """What repair says of now; None when it has been silent for too long."""
        return self.repair if self.repair is not None and self.now - self.repair.at <= STATUS_OLD_MS else None

    def bad_chunks(self) -> int:
        """How many chunks the nodes that answer, and are ours still, say are bad on their disks."""
        ours = (each for each in self.members if each.healthy and self.state(each) is not AdminState.DECOMMISSIONED)
        return sum(member.info.bad_chunks for member in ours)

    def missed(self) -> list[MemberState]:
        """Nodes that should answer and do not."""
        wanted = (AdminState.ACTIVE, AdminState.DRAINING)
        return [each for each in self.members if not each.healthy and self.state(each) in wanted]

    def exposed(self) -> list[MemberState]:
        """Those of them whose chunks do not all have their copies elsewhere."""
        repair = self.reported()
        repaired = repair.repaired if repair else ()
        return [each for each in self.missed() if each.info.node_id not in repaired]

    def writable(self) -> int:
        """How many nodes take chunks."""
        return sum(member.writable for member in self.members)

    def average_chunk(self) -> float:
        """Bytes of a chunk, about."""
        chunks = sum(member.info.chunks for member in self.members)
        return sum(member.info.used_bytes for member in self.members) / chunks if chunks else _DEFAULT_CHUNK


@dataclass(frozen=True, slots=True)
class Health:
    """The judgement in one sentence, and when (ms) and by what (`audit`, `repair`) it was last proved that
    every chunk has its copies; 0 and "" when it never was."""

    state: State
    sentence: str
    proved_at: int
    proved_by: str


def judge(facts: Facts) -> Health:
    """The health of the data."""
    proved_at, proved_by = proof(facts)
    lost = _data_missing(facts)
    if lost:
        return Health(State.DATA_MISSING, lost, proved_at, proved_by)
    waiting, working = _trouble(facts)
    if waiting:
        return Health(State.DEGRADED, "; ".join([*waiting, *working]), proved_at, proved_by)
    if working:
        return Health(State.REPAIRING, "; ".join(working), proved_at, proved_by)
    if not proved_at:
        return Health(State.UNPROVEN, "no proof yet that every chunk has its copies: run an audit", 0, "")
    age = _ago(facts, proved_at)
    copies = "its copy" if facts.factor == 1 else f"its {facts.factor} copies"
    how = "an audit found" if proved_by == "audit" else "repair found"
    return Health(State.HEALTHY, f"{how} every chunk with {copies} {age}", proved_at, proved_by)


def proof(facts: Facts) -> tuple[int, str]:
    """When and by what it was last proved that every chunk has its copies."""
    repaired = facts.repair.whole_at if facts.repair else 0
    audit = facts.audit
    fits = audit is not None and audit.verdict is Verdict.WHOLE and (audit.factor or facts.factor) >= facts.factor
    audited = audit.ended_at if audit is not None and fits else 0
    if not repaired and not audited:
        return 0, ""
    return (audited, "audit") if audited >= repaired else (repaired, "repair")


def takers(facts: Facts) -> str:
    """How many nodes take chunks, in words."""
    count = facts.writable()
    return f"{count or 'no'} {'nodes take' if count > 1 else 'node takes'} chunks"


def as_of_now(repair: RepairStatus, members: Sequence[MemberState], now: int) -> RepairStatus:
    """What repair said, without the tours, and their problems, of nodes that have moved on since: it speaks
    every few seconds, and a drain that has ended is not to be shown as going on."""
    found = {member.info.node_id: member for member in members}
    tours = tuple(tour for tour in repair.tours if _holds(tour, found.get(tour.node_id), now))
    over = tuple(f"{tour.kind} of node {tour.node_id}: " for tour in repair.tours if tour not in tours)
    problems = tuple(problem for problem in repair.problems if not problem.startswith(over))
    return replace(repair, tours=tours, problems=problems)


def _holds(tour: Tour, member: MemberState | None, now: int) -> bool:
    """Whether there is still a reason for the tour."""
    state = AdminState.DECOMMISSIONED if member is None else member.info.state_at(now)
    match tour.kind:
        case TourKind.FORGET:
            return state is AdminState.DECOMMISSIONED
        case TourKind.DRAIN:
            return state is AdminState.DRAINING
        case TourKind.REBALANCE:
            return state in (AdminState.ACTIVE, AdminState.MAINTENANCE)
        case _:
            return state is not AdminState.DECOMMISSIONED


def bytes_left(repair: RepairStatus, average_chunk: float) -> float:
    """About how much repair has still to copy or go through."""
    tours = sum(max(0, tour.bytes_total - tour.bytes_done) for tour in repair.tours)
    return tours + repair.short * average_chunk


def seconds_left(facts: Facts) -> float | None:
    """How long repair still takes. None when there is nothing to do, or nobody who does it."""
    repair = facts.reported()
    if repair is None:
        return None
    average = facts.average_chunk()
    counted = worth(repair.short, repair.short * average) + sum(map(_worth_of, repair.tours))
    return _seconds(facts, repair, bytes_left(repair, average), counted)


def tour_seconds_left(facts: Facts, tour: Tour) -> float | None:
    """The same for one tour; several share the rate."""
    repair = facts.reported()
    if repair is None:
        return None
    return _seconds(facts, repair, max(0, tour.bytes_total - tour.bytes_done), _worth_of(tour))


def _worth_of(tour: Tour) -> float:
    """For how many bytes the rest of a tour counts."""
    moved = tour.kind in (TourKind.DRAIN, TourKind.REBALANCE)
    chunks, size = tour.chunks_total - tour.chunks_done, tour.bytes_total - tour.bytes_done
    return worth(max(0, chunks), max(0, size), LEAST_MOVED if moved else LEAST_CHUNK)


def _seconds(facts: Facts, repair: RepairStatus, size: float, counted: float) -> float | None:
    """How long `size` bytes that count for `counted` take: at the rate that repair has lately had, or where
    small chunks count for more than they have, or that rate says nothing, at the rate that is set."""
    if not size:
        return None
    lately = repair.bytes_per_second
    return counted / (lately if counted == size and lately >= facts.rate / 20 else facts.rate)


def _data_missing(facts: Facts) -> str:
    """Why data counts as missing; empty when it does not."""
    said = []
    if facts.audit is not None and facts.audit.verdict is Verdict.DATA_MISSING:
        said.append(f"the audit {_ago(facts, facts.audit.ended_at)}: {facts.audit.reason}")
    if facts.repair is not None and facts.repair.unrecoverable:
        count = facts.repair.unrecoverable
        said.append(f"repair finds no good copy of {count:,} {'chunk' if count == 1 else 'chunks'}")
    return "; ".join(said)


def _trouble(facts: Facts) -> tuple[list[str], list[str]]:
    """What speaks against the data being whole: what waits for somebody, and what is being worked on."""
    waiting: list[str] = []
    working: list[str] = []
    repair = facts.reported()
    copied = {tour.node_id for tour in repair.tours if tour.kind in _LOST} if repair else set()
    absent = [member.info.node_id for member in facts.exposed()]
    unattended = [node_id for node_id in absent if node_id not in copied]
    if unattended:
        waiting.append(f"{_names(unattended)} {'does' if len(unattended) == 1 else 'do'} not answer")
    if len(unattended) < len(absent):
        working.append(f"the chunks of {_names([each for each in absent if each in copied])} are being copied elsewhere")
    if facts.writable() < facts.factor:
        waiting.append(f"{takers(facts)}, and every chunk needs {facts.factor}")
    if repair is not None and repair.waiting:
        count = repair.waiting
        waiting.append(f"{count:,} {'chunk waits' if count == 1 else 'chunks wait'} for a node or for space")
    bad = max(repair.bad if repair else 0, facts.bad_chunks())
    for count, what in ((repair.short if repair else 0, "short of a copy"), (bad, "with a bad copy")):
        if count:
            (working if repair else waiting).append(f"{count:,} {'chunk' if count == 1 else 'chunks'} {what}")
    audit = facts.audit
    whole_at = facts.repair.whole_at if facts.repair else 0
    if audit is not None and audit.verdict is Verdict.DEGRADED and audit.ended_at > whole_at:
        waiting.append(f"the audit {_ago(facts, audit.ended_at)}: {audit.reason}")
    return waiting, working


def _names(node_ids: list[str]) -> str:
    return " and ".join(node_ids) if len(node_ids) < 3 else f"{len(node_ids)} nodes"


def _ago(facts: Facts, at: int) -> str:
    return f"{format_span((facts.now - at) / 1000)} ago"
