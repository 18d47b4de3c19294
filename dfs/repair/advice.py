"""What an operator should know, each with the command that helps. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from dfs.cluster.view import MemberState
from dfs.model import AdminState, NodeStatus
from dfs.notation import format_span
from dfs.repair.health import Facts, takers
from dfs.repair.progress import RepairStatus, TourKind

AUDIT_OLD_MS = 7 * 86_400_000
SCRUB_OLD_MS = 28 * 86_400_000
"""Twice the period in which a scrubber reads everything by default."""

ENDS_SOON_MS = 5 * 60_000
REGISTRY_OLD = 10.0
"""Seconds."""
FULL_SHARE = 0.9
UNEVEN_SHARE = 0.25
"""Difference between the fullest and the emptiest node from which rebalancing is worth a thought."""

_ADMIN = "python -m dfs.admin"


@dataclass(frozen=True, slots=True)
class Warning:
    """`code` is stable. `hands`: it does not pass by itself, somebody has to do something."""

    code: str
    text: str
    command: str
    hands: bool = True


def warnings(facts: Facts) -> list[Warning]:
    """All that holds now, the most pressing first."""
    found = [*_servers(facts), *_nodes(facts), *_space(facts), *_proofs(facts), *_versions(facts)]
    return sorted(found, key=lambda warning: not warning.hands)


def _servers(facts: Facts) -> Iterator[Warning]:
    if facts.registry_age > REGISTRY_OLD:
        yield Warning(
            "registry_unreadable",
            "the registry cannot be read, so nobody knows which nodes live",
            "check the metadata store, and the API servers' logs for registry.unreadable",
        )
    if facts.reported() is None:
        since = "" if facts.repair is None else f" for {format_span((facts.now - facts.repair.at) / 1000)}"
        yield Warning(
            "no_repair_leader",
            f"no API server has led repair{since}: nothing is healed",
            "check the API servers' logs for lines beginning with repair",
        )
    if facts.writable() < facts.factor:
        yield Warning(
            "too_few_nodes",
            f"{takers(facts)} and REPLICATION_FACTOR is {facts.factor}: writes fail",
            "start the nodes that are down, or add some: python -m dfs.node",
        )
    repair = facts.reported()
    if repair is not None:
        for problem in repair.problems:
            of_tour = problem.startswith(tuple(f"{kind} of node " for kind in TourKind))
            yield Warning("repair_problem", problem, f"{_ADMIN} {'repair' if of_tour else 'audit'}", hands=not of_tour)


def _nodes(facts: Facts) -> Iterator[Warning]:
    for member in facts.members:
        name, state = member.info.node_id, facts.state(member)
        if state is AdminState.DRAINED:
            yield Warning(
                "drained", f"{name} is empty: it can be stopped and taken out", f"{_ADMIN} decommission {name}", False
            )
        elif state is AdminState.MAINTENANCE:
            yield from _maintenance(facts, member)
        elif state is not AdminState.DECOMMISSIONED and not member.healthy:
            yield _dead(facts, member)
        elif member.healthy and member.info.status is NodeStatus.READ_ONLY:
            yield Warning(
                "read_only", f"{name} takes no writes: its disk failed or it is stopping", f"{_ADMIN} drain {name} --wait"
            )
        if member.info.bad_chunks and member.healthy and state is not AdminState.DECOMMISSIONED:
            chunks = "1 bad chunk" if member.info.bad_chunks == 1 else f"{member.info.bad_chunks:,} bad chunks"
            yield Warning(
                "bad_chunks", f"{name} found {chunks} on its disk; repair replaces them", "look at that disk's health", False
            )


def _maintenance(facts: Facts, member: MemberState) -> Iterator[Warning]:
    name, left = member.info.node_id, member.info.admin_until - facts.now
    if member.healthy:
        yield Warning(
            "maintenance_over", f"{name} is in maintenance, and answers", f"{_ADMIN} activate {name}", False
        )
    elif left <= ENDS_SOON_MS:
        yield Warning(
            "maintenance_ends",
            f"the maintenance of {name} ends in {format_span(left / 1000)}, then it counts as absent",
            f"{_ADMIN} maintenance {name} --for 15m",
        )


def _dead(facts: Facts, member: MemberState) -> Warning:
    name = member.info.node_id
    repair = facts.reported()
    absent = repair.absent.get(name) if repair else None
    since = "" if absent is None else f" for {format_span(absent)}"
    if repair is not None and name in repair.repaired:
        return Warning(
            "node_replaced",
            f"{name} does not answer{since}; all its chunks have their copies elsewhere",
            f"start it again, or: {_ADMIN} decommission {name}",
        )
    if _copied(repair, name):
        text = f"{name} does not answer{since}; its chunks are being copied elsewhere"
        return Warning("node_absent", text, "start it again if it can be started")
    left = facts.repair_delay - (absent or 0.0)
    if repair is None:
        then = "nothing is copied while no server leads repair"
    elif left > 0:
        then = f"repair copies its chunks elsewhere in {format_span(left)}"
    else:
        then = "repair is about to copy its chunks elsewhere"
    return Warning(
        "node_absent", f"{name} does not answer{since}; {then}", f"start it again, or: {_ADMIN} repair --now {name}"
    )


def _copied(repair: RepairStatus | None, node_id: str) -> bool:
    return repair is not None and any(
        tour.node_id == node_id and tour.kind is TourKind.LOST for tour in repair.tours
    )


def _space(facts: Facts) -> Iterator[Warning]:
    members = [member for member in facts.members if member.healthy and facts.state(member) is AdminState.ACTIVE]
    full = [member.info.node_id for member in members if member.full or fill(member) >= FULL_SHARE]
    if full:
        names = ", ".join(full[:5]) + (f" and {len(full) - 5} more" if len(full) > 5 else "")
        yield Warning(
            "full",
            f"{names} {'is' if len(full) == 1 else 'are'} almost full",
            f"add a node, then: {_ADMIN} rebalance",
        )
    if len(members) > 1:
        shares = {fill(member): member.info.node_id for member in members}
        low, high = min(shares), max(shares)
        if high - low >= UNEVEN_SHARE:
            yield Warning(
                "uneven",
                f"{shares[high]} is {high:.0%} full, {shares[low]} {low:.0%}",
                f"{_ADMIN} rebalance --plan",
                False,
            )


def fill(member: MemberState) -> float:
    """How full a node is: of what chunks take and may take there."""
    info = member.info
    total = info.used_bytes + info.free_bytes
    return info.used_bytes / total if total else 0.0


def _proofs(facts: Facts) -> Iterator[Warning]:
    audit = facts.audit
    if audit is None:
        if any(member.info.chunks for member in facts.members):
            yield Warning("never_audited", "no audit has ever proved that all is here", f"{_ADMIN} audit")
    elif facts.now - audit.ended_at > AUDIT_OLD_MS:
        age = format_span((facts.now - audit.ended_at) / 1000)
        yield Warning("audit_old", f"the last audit ended {age} ago", f"{_ADMIN} audit")
    old = [
        member
        for member in facts.members
        if member.healthy and member.info.chunks and 0 < member.info.scrubbed_at < facts.now - SCRUB_OLD_MS
    ]
    if old:
        oldest = min(old, key=lambda member: member.info.scrubbed_at).info
        age = format_span((facts.now - oldest.scrubbed_at) / 1000)
        more = f" (and {len(old) - 1} more)" if len(old) > 1 else ""
        yield Warning(
            "scrub_old",
            f"the last complete scrub of {oldest.node_id}{more} began {age} ago",
            "raise DFS_SCRUB_MBPS there, or have all re-read now: python -m dfs.admin audit --verify",
        )


def _versions(facts: Facts) -> Iterator[Warning]:
    releases: dict[str, list[str]] = defaultdict(list)
    for member in facts.members:
        if member.info.version and facts.state(member) is not AdminState.DECOMMISSIONED:
            releases[member.info.version].append(member.info.node_id)
    if len(releases) > 1:
        rare = min(releases, key=lambda release: (len(releases[release]), release))
        others = ", ".join(f"{release} ({len(names)})" for release, names in sorted(releases.items()))
        yield Warning(
            "mixed_versions",
            f"nodes run different releases: {others}",
            f"finish the upgrade (or the rollback): {', '.join(releases[rare][:3])}",
            False,
        )
