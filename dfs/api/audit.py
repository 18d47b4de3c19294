"""Audits: begin, watch, cancel; move aside what has no row (PROTOCOL.md, "Cluster and server")."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from dfs.api.requests import flag_of, number_of
from dfs.api.service import Service
from dfs.cluster.records import mark_short
from dfs.cluster.upkeep import UpkeepCalls
from dfs.errors import BadRequest, NotFound
from dfs.model import AdminState
from dfs.repair.audit import MEGABYTE
from dfs.repair.auditresult import AuditResult, load, load_last
from dfs.repair.auditrunner import MBPS
from dfs.repair.extras import MOST_AT_ONCE, confirmed_extras, set_aside
from dfs.repair.findings import Extra
from dfs.wire.message import Request, Response, parse_json_object

EXTRAS_LIMIT = 64 * 1024


def begin_audit(service: Service, request: Request) -> Response:
    """Begin an audit (202), or with `plan` tell what it would read."""
    verify = flag_of(request, "verify")
    mbps = number_of(request, "mbps", MBPS, 1, 100_000)
    if flag_of(request, "plan"):
        return Response.json(200, {"plan": _plan(service, verify, mbps)})
    audit_id, begun = service.audit.begin(verify=verify, mbps=mbps)
    return Response.json(202, {"id": audit_id, "begun": begun})


def _plan(service: Service, verify: bool, mbps: int) -> dict[str, Any]:
    nodes: list[dict[str, Any]] = []
    for member in service.membership.view().members:
        info = member.info
        if info.admin_state is not AdminState.DECOMMISSIONED:
            read = info.used_bytes if verify else 0
            nodes.append({"node_id": info.node_id, "healthy": member.healthy, "chunks": info.chunks, "bytes": read})
    return {
        "verify": verify,
        "mbps": mbps,
        "nodes": nodes,
        "chunks": sum(node["chunks"] for node in nodes),
        "bytes": sum(node["bytes"] for node in nodes),
        "seconds": max((node["bytes"] / (mbps * MEGABYTE) for node in nodes), default=0.0),
    }


def show_audit(service: Service, request: Request) -> Response:
    """The latest audit, and the latest that came to a verdict."""
    answer = {"audit": _json(load(service.store)), "last": _json(load_last(service.store))}
    if flag_of(request, "extras"):
        answer["extras"] = [asdict(extra) for extra in confirmed_extras(service.store)]
    return Response.json(200, answer)


def _json(result: AuditResult | None) -> Any:
    return None if result is None else result.to_json()


def cancel_audit(service: Service, request: Request) -> Response:
    """Have the running audit end."""
    return Response.json(202, {"id": service.audit.cancel()})


def set_extras_aside(service: Service, request: Request) -> Response:
    """Move records that the last audit found without a row into the nodes' `set-aside`."""
    body = request.body.read_all(EXTRAS_LIMIT)
    known = confirmed_extras(service.store)
    if flag_of(request, "plan"):
        return Response.json(200, {"plan": [asdict(extra) for extra in known]})
    wanted = _wanted(parse_json_object(body))
    for extra in wanted:
        if extra not in known:
            raise NotFound(
                f"chunk {extra.chunk_index} of {extra.file_id} on {extra.node_id} is not among the records "
                "without a row that the last audit confirmed"
            )
    moved = set_aside(
        service.store,
        UpkeepCalls(service.calls),
        wanted,
        factor=service.settings.replication_factor,
        mark=mark_short(service.store, service.now),
    )
    return Response.json(200, {"records": [each.to_json() for each in moved]})


def _wanted(fields: dict[str, Any]) -> list[Extra]:
    records = fields.get("records")
    if not isinstance(records, list) or not 1 <= len(records) <= MOST_AT_ONCE:
        raise BadRequest(f"records must be a list of 1 to {MOST_AT_ONCE} records")
    return [_extra(record) for record in records]


def _extra(record: object) -> Extra:
    match record:
        case {"file_id": str(file_id), "chunk_index": int(index), "node_id": str(node_id)}:
            return Extra(file_id, index, node_id)
    raise BadRequest("a record has file_id, chunk_index and node_id")
