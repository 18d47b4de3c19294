"""The state of the nodes and of this server."""

from __future__ import annotations

from typing import Any

from dfs import DISK_FORMAT, METADATA_FORMAT, WIRE_VERSION, __version__
from dfs.api.service import Service
from dfs.cluster.view import MemberState
from dfs.errors import Unavailable
from dfs.model import AdminState
from dfs.wire.message import Request, Response

METADATA_LATELY = 10.0
"""Seconds. The registry is read every two: several readings in a row have failed by then."""


def list_nodes(service: Service, request: Request) -> Response:
    """Every registered node, as this server sees it."""
    now = service.now()
    nodes = [_node(member, now) for member in service.membership.view().members]
    return Response.json(200, {"nodes": nodes})


def _node(member: MemberState, now: int) -> dict[str, Any]:
    info = member.info
    admin_state = info.state_at(now)
    return {
        "node_id": info.node_id,
        "address": info.address,
        "port": info.port,
        "zone": info.zone,
        "state": info.status if admin_state is AdminState.ACTIVE else admin_state,
        "alive": member.alive,
        "suspect": member.suspect,
        "free_bytes": info.free_bytes,
        "used_bytes": info.used_bytes,
        "chunks": info.chunks,
        "version": info.version,
        "last_seen": info.heartbeat_ts,
    }


def healthz(service: Service, request: Request) -> Response:
    """This process runs, and what it is."""
    return Response.json(
        200,
        {
            "role": "api",
            "status": "ok",
            "cluster_id": service.cluster.cluster_id,
            "version": __version__,
            "wire_version": WIRE_VERSION,
            "metadata_format": METADATA_FORMAT,
            "disk_format": DISK_FORMAT,
        },
    )


def readyz(service: Service, request: Request) -> Response:
    """Send requests here: 200 while metadata has answered lately (how many nodes live is no matter
    of this server), else 503."""
    if request.server is not None and request.server.draining:
        raise Unavailable("the server is stopping")
    age = service.membership.read_age()
    if age > METADATA_LATELY:
        raise Unavailable("the metadata store has not answered lately")
    return Response.json(200, {"ready": True})
