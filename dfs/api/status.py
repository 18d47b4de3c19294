"""`GET /status`: all that an operator asks for first, in one answer."""

from __future__ import annotations

from typing import Any

from dfs import __version__
from dfs.api.service import Service
from dfs.cluster.view import MemberState
from dfs.repair import auditresult, progress, trash
from dfs.repair.advice import fill, warnings
from dfs.repair.auditresult import AuditResult, Kind
from dfs.repair.health import Facts, as_of_now, bytes_left, judge, seconds_left, tour_seconds_left
from dfs.repair.nodelife import understood
from dfs.repair.trash import TrashStatus
from dfs.wire.message import Request, Response


def status(service: Service, request: Request) -> Response:
    """The state of the cluster as this server and the shared documents know it."""
    facts = facts_of(service)
    return Response.json(200, described(service, facts, latest_audit(service), trash_of(service)))


def facts_of(service: Service) -> Facts:
    """What this server knows now. Raises Unavailable."""
    now, members = service.now(), service.membership.view().members
    repair = understood(progress.load, service.store)
    return Facts(
        now=now,
        factor=service.settings.replication_factor,
        repair_delay=service.settings.repair_delay,
        rate=service.settings.repair_mbps * 1e6,
        members=members,
        repair=None if repair is None else as_of_now(repair, members, now),
        audit=understood(auditresult.load_last, service.store),
        registry_age=min(service.membership.read_age(), 1e9),  # JSON knows no infinity
    )


def latest_audit(service: Service) -> AuditResult | None:
    """The audit that began last, running perhaps. Raises Unavailable."""
    return understood(auditresult.load, service.store)


def trash_of(service: Service) -> TrashStatus | None:
    """What is in the trash, as it was last gone through. Raises Unavailable."""
    return understood(trash.load, service.store)


def described(
    service: Service, facts: Facts, latest: AuditResult | None, trashed: TrashStatus | None
) -> dict[str, Any]:
    """The answer's JSON. `latest`: the audit that began last, running perhaps."""
    health = judge(facts)
    return {
        "at": facts.now,
        "cluster": {
            "cluster_id": service.cluster.cluster_id,
            "generation": service.cluster.generation,
            "factor": facts.factor,
            "strategy": service.settings.replication_strategy,
            "repair_delay": facts.repair_delay,
        },
        "version": __version__,
        "health": {
            "state": health.state,
            "sentence": health.sentence,
            "proved_at": health.proved_at,
            "proved_by": health.proved_by,
        },
        "totals": _totals(facts),
        "nodes": [node_json(facts, member) for member in facts.members],
        "repair": _repair(facts),
        "audit": None if facts.audit is None else _audit(facts.audit),
        "audit_running": _audit(latest) if latest is not None and latest.runs(facts.now) else None,
        "trash": None if trashed is None else _trash(trashed),
        "warnings": [
            {"code": each.code, "text": each.text, "command": each.command, "hands": each.hands}
            for each in warnings(facts)
        ],
    }


def node_json(facts: Facts, member: MemberState) -> dict[str, Any]:
    """A node, with all that is known of it."""
    info, state = member.info, facts.state(member)
    repair = facts.reported()
    return {
        "node_id": info.node_id,
        "zone": info.zone,
        "address": info.address,
        "port": info.port,
        "status": info.status,
        "admin_state": state,
        "admin_until": info.admin_until if state == "maintenance" else 0,
        "alive": member.alive,
        "suspect": member.suspect,
        "writable": member.writable,
        "absent_seconds": repair.absent.get(info.node_id) if repair else None,
        "repaired": repair is not None and info.node_id in repair.repaired,
        "capacity_bytes": info.capacity_bytes,
        "used_bytes": info.used_bytes,
        "free_bytes": info.free_bytes,
        "fill": round(fill(member), 4),
        "chunks": info.chunks,
        "bad_chunks": info.bad_chunks,
        "scrubbed_at": info.scrubbed_at,
        "last_seen": info.heartbeat_ts,
        "version": info.version,
    }


def _totals(facts: Facts) -> dict[str, int]:
    members = facts.members
    return {
        "nodes": len(members),
        "answering": sum(member.healthy for member in members),
        "writable": facts.writable(),
        "capacity_bytes": sum(member.info.capacity_bytes for member in members),
        "used_bytes": sum(member.info.used_bytes for member in members),
        "free_bytes": sum(member.info.free_bytes for member in members if member.writable),
        "chunks": sum(member.info.chunks for member in members),
    }


def _repair(facts: Facts) -> dict[str, Any] | None:
    """The state of repair, with what is left to do and how long that takes."""
    repair = facts.repair
    if repair is None:
        return None
    left = bytes_left(repair, facts.average_chunk())
    return repair.to_json() | {
        "leading": facts.reported() is not None,
        "bytes_left": int(left),
        "seconds_left": seconds_left(facts),
        "tours": [tour.to_json() | {"seconds_left": tour_seconds_left(facts, tour)} for tour in repair.tours],
    }


def _trash(found: TrashStatus) -> dict[str, Any]:
    return {
        "at": found.at,
        "files": found.files,
        "bytes": found.bytes,
        "oldest_at": found.oldest_at,
        "relief_at": found.relief_at,
        "relief_files": found.relief_files,
        "relief_bytes": found.relief_bytes,
    }


def _audit(found: AuditResult) -> dict[str, Any]:
    """An audit without its examples: `GET /admin/audit` has those."""
    return {
        "id": found.id,
        "state": found.state,
        "began_at": found.began_at,
        "ended_at": found.ended_at,
        "verify": found.verify,
        "phase": found.phase,
        "done": found.done,
        "total": found.total,
        "files": found.files,
        "chunks": found.chunks,
        "bytes": found.bytes,
        "counts": {kind.value: found.count(kind) for kind in Kind},
        "oldest_verified": found.oldest_verified,
        "verdict": found.verdict,
        "reason": found.reason,
    }
