"""What an operator does: the commands of `dfs.admin` against a cluster under test, and what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import Any

from tests.support.cluster import ROOT, Cluster, Server, eventually

REPAIR_SECONDS = 180.0
"""How long repair is waited for: a loaded machine copies slowly."""


class Operator:
    """Commands as an operator gives them, and questions that tests ask again and again."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def run(self, *argv: str, expect: int = 0) -> str:
        """`python -m dfs.admin ARGV`; its output. Fails the test unless it exits with `expect`."""
        ended = self._run(*argv)
        assert ended.returncode == expect, f"{argv} exited {ended.returncode}: {ended.stdout} {ended.stderr}"
        return ended.stdout

    def _run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        urls = ",".join(f"http://127.0.0.1:{api.port}" for api in self.cluster.apis)
        return subprocess.run(
            [sys.executable, "-m", "dfs.admin", *argv],
            cwd=ROOT,
            env=os.environ | self.cluster.environ | {"DFS_API": urls},
            capture_output=True,
            text=True,
            timeout=300,
        )

    def audit(self, *, expect: int = 0) -> dict[str, Any]:
        """`audit --verify`: every node re-reads everything it holds. Fails the test unless it exits with
        `expect`; the result."""
        ended = self._run("audit", "--verify", "--json")
        assert ended.returncode == expect, f"the audit exited {ended.returncode}: {ended.stdout} {ended.stderr}"
        result: dict[str, Any] = json.loads(ended.stdout)["audit"]
        return result

    def status(self) -> dict[str, Any]:
        """`GET /status` of the first API server that answers it."""
        for api in range(len(self.cluster.apis)):
            if self.cluster.apis[api].running:
                caller = self.cluster.caller(api)
                try:
                    answer = caller.call("GET", "/status")
                    if answer.status == 200:
                        return answer.json
                finally:
                    caller.close()
        return {}

    def repair(self) -> dict[str, Any]:
        """What repair says of itself; {} while it says nothing."""
        found = self.status().get("repair") or {}
        assert isinstance(found, dict)
        return found

    def node(self, node_id: str) -> dict[str, Any]:
        """What `status` says of a node; {} when it does not know it."""
        nodes = self.status().get("nodes") or []
        return next((node for node in nodes if node["node_id"] == node_id), {})

    def tour(self, kind: str, node_id: str) -> dict[str, Any]:
        """The tour of repair over that node; {} when there is none."""
        tours = self.repair().get("tours") or []
        return next((tour for tour in tours if (tour["kind"], tour["node_id"]) == (kind, node_id)), {})

    def leader(self) -> Server | None:
        """The API server that leads repair now, as it says itself in its log."""
        name = self.repair().get("leader")
        for server in self.cluster.apis:
            if name and server.running and f"leader={name}" in server.log.read_text(errors="replace"):
                return server
        return None

    def wait_repaired(self, node_id: str) -> None:
        """Wait until everything that an absent node held has its copies elsewhere."""
        eventually(
            lambda: node_id in self.repair().get("repaired", ()), f"what {node_id} held is copied", REPAIR_SECONDS
        )

    def wait_whole(self) -> None:
        """Wait until a complete round of repair that began after now has found nothing to do."""
        now = time.time_ns() // 1_000_000
        eventually(lambda: self.repair().get("whole_at", 0) > now, "repair says that all is well", REPAIR_SECONDS)

    def wait_state(self, node_id: str, state: str, seconds: float = REPAIR_SECONDS) -> None:
        eventually(lambda: self.node(node_id).get("admin_state") == state, f"{node_id} is {state}", seconds)
