"""What a node says of itself: /healthz (what it is) and /readyz (whether to send it requests)."""

from __future__ import annotations

from dataclasses import dataclass

from dfs.model import NodeStatus
from dfs.node.registration import Registration
from dfs.node.scrub import Scrubber
from dfs.node.standing import Standing
from dfs.wire.message import Request, Response

_READY = frozenset({NodeStatus.ACTIVE, NodeStatus.FULL})


@dataclass(frozen=True, slots=True)
class HealthEndpoints:
    """Handlers of a node's health calls."""

    cluster_id: str
    registration: Registration
    standing: Standing
    scrubber: Scrubber

    def healthz(self, _request: Request) -> Response:
        """GET /healthz: 200 as long as the process answers at all."""
        return Response.json(200, self.report())

    def readyz(self, _request: Request) -> Response:
        """GET /readyz: 200 while the node reads and (room permitting) writes, else 503.

        Metadata that cannot be reached does not make it unready: it serves on without.
        """
        report = self.report()
        ready = report["status"] in _READY
        return Response.json(200 if ready else 503, {"ready": ready} | report)

    def report(self) -> dict[str, object]:
        """The facts, JSON-ready. Sizes in bytes."""
        node, usage = self.registration.node, self.standing.usage()
        return {
            "role": "node",
            "node_id": node.node_id,
            "cluster_id": self.cluster_id,
            "boot_id": node.boot_id,
            "disk_id": node.disk_id,
            "instance_id": node.instance_id,
            "zone": node.zone,
            "address": node.address,
            "port": node.port,
            "version": node.version,
            "wire_version": node.wire_version,
            "disk_format": node.disk_format,
            "status": self.standing.status(),
            "admin_state": self.standing.admin_state,
            "reason": self.standing.lost or usage.read_only_reason,
            "registry": "reachable" if self.registration.reachable else "unreachable",
            "free_bytes": usage.free_bytes,
            "used_bytes": usage.used_bytes,
            "capacity_bytes": usage.capacity_bytes,
            "chunks": usage.chunks,
            "bad_chunks": usage.bad_chunks,
            "scrub": self.scrubber.report(),
        }
