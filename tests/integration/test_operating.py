"""Operating a real cluster by command: what is granted, what is refused and why, what is shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import FreshMetadata
from tests.support.cluster import ROOT, Cluster, eventually
from tests.unit.api.test_metrics import parse

QUICK = {
    "DFS_REPAIR_INTERVAL": "0.2",
    "DFS_REPAIR_DELAY": "600",
    "DFS_ERASE_INTERVAL": "1",
    "NODE_HEARTBEAT_INTERVAL": "0.3",
    "NODE_HEARTBEAT_TIMEOUT": "3",
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, metadata: FreshMetadata) -> Iterator[Cluster]:
    """Four nodes, factor 2, with a few files, and a repair that has found them whole: leave it so."""
    yield from filled(tmp_path_factory.mktemp("running"), metadata)


@pytest.fixture
def breakable(tmp_path: Path, metadata: FreshMetadata) -> Iterator[Cluster]:
    """The same, for one test to break."""
    yield from filled(tmp_path / "cluster", metadata)


def filled(directory: Path, metadata: FreshMetadata) -> Iterator[Cluster]:
    with Cluster(directory, nodes=4, environ=QUICK | metadata()) as cluster:
        caller = cluster.caller()
        for number in range(6):
            assert caller.file("PUT", f"f{number}", bytes([number]) * 5000).status == 201
        caller.close()
        wait_whole(cluster)
        yield cluster


class Said:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr


def admin(cluster: Cluster, *arguments: str) -> Said:
    """One command, as an operator runs it."""
    environ = os.environ | cluster.environ | {"DFS_API": cluster.url}
    command = [sys.executable, "-m", "dfs.admin", *arguments]
    return Said(subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=120))


def status_of(cluster: Cluster) -> dict[str, Any]:
    caller = cluster.caller()
    try:
        found = caller.call("GET", "/status")
        assert found.status == 200, found.body
        return found.json
    finally:
        caller.close()


def node_of(cluster: Cluster, node_id: str) -> dict[str, Any]:
    return next(node for node in status_of(cluster)["nodes"] if node["node_id"] == node_id)


def rebalanced(cluster: Cluster) -> bool:
    repair = status_of(cluster)["repair"]
    return bool(repair["rebalanced_at"] > 0 and not repair["tours"])


def wait_whole(cluster: Cluster) -> None:
    """Wait until repair has gone through everything since now, and found it whole."""
    now = time.time() * 1000
    eventually(lambda: whole_since(cluster, now), "repair finds everything whole")


def whole_since(cluster: Cluster, at: float) -> bool:
    found = status_of(cluster)
    return bool(found["health"]["state"] == "healthy" and found["repair"]["whole_at"] > at)


def test_a_node_goes_and_comes_back(running: Cluster) -> None:
    stop = admin(running, "ok-to-stop", "node1")
    assert (stop.code, stop.err) == (0, "") and stop.out.startswith("node1 can be stopped now: 3 other nodes")

    before = status_of(running)["nodes"]
    plan = admin(running, "maintenance", "node1", "--for", "15m", "--plan")
    assert plan.code == 0 and "would be granted" in plan.out and "until" in plan.out
    assert [node["admin_state"] for node in status_of(running)["nodes"]] == [node["admin_state"] for node in before]

    granted = admin(running, "maintenance", "node1", "--for", "15m")
    assert granted.code == 0 and granted.out.startswith("node1 is in maintenance until ")
    assert "python -m dfs.admin activate node1" in granted.out
    first = node_of(running, "node1")["admin_until"]
    assert admin(running, "maintenance", "node1", "--for", "30m").code == 0
    assert node_of(running, "node1")["admin_until"] > first + 10 * 60_000

    second = admin(running, "maintenance", "node2", "--for", "15m")
    assert second.code == 3 and second.out == ""
    assert "dfs.admin: refused: node1 is in maintenance: one node at a time" in second.err.splitlines()
    planned = admin(running, "ok-to-stop", "node2")
    assert planned.code == 3

    assert admin(running, "activate", "node1").out == "node1 is active now\n"
    assert admin(running, "activate", "node1").out == "node1 is active already: nothing was changed\n"


def test_maintenance_ends_without_anybody_doing_anything(running: Cluster) -> None:
    assert admin(running, "maintenance", "node1", "--for", "2s").code == 0
    eventually(lambda: node_of(running, "node1")["admin_state"] == "active", "the maintenance is over")
    eventually(lambda: node_of(running, "node1")["writable"], "the node takes chunks again")
    assert admin(running, "ok-to-stop", "node2").code == 0


def test_a_node_is_drained_and_taken_out(breakable: Cluster) -> None:
    early = admin(breakable, "decommission", "node4")
    assert early.code == 3 and "drain it first (python -m dfs.admin drain node4 --wait)" in early.err

    plan = admin(breakable, "drain", "node4", "--plan")
    assert plan.code == 0
    lines = plan.out.splitlines()
    assert lines[0] == "plan: drain node4 (nothing is changed)" and lines[1] == "  state    active, would become draining"
    assert "3 other nodes take chunks, with room for" in plan.out and "at DFS_REPAIR_MBPS" in plan.out
    assert node_of(breakable, "node4")["admin_state"] == "active"

    done = admin(breakable, "drain", "node4", "--wait")
    assert done.code == 0, done.err
    assert done.out.startswith("node4 is draining now\n") and done.err.endswith(
        "node4 is drained: it holds nothing any more\n"
    )
    assert node_of(breakable, "node4")["chunks"] == 0 or node_of(breakable, "node4")["admin_state"] == "drained"
    shown = admin(breakable, "status")
    assert "node4 is empty: it can be stopped and taken out" in shown.out
    taken = admin(breakable, "decommission", "node4")
    assert taken.code == 0 and taken.out.startswith("node4 is decommissioned now\n")
    refused = admin(breakable, "activate", "node4")
    assert refused.code == 3 and "node4 is decommissioned" in refused.err


def test_what_needs_more_nodes_is_refused_with_every_reason(breakable: Cluster) -> None:
    breakable.node("node3").kill()
    breakable.node("node4").kill()
    eventually(lambda: status_of(breakable)["totals"]["answering"] == 2, "two nodes are missed")
    refused = admin(breakable, "maintenance", "node1", "--for", "15m")
    assert refused.code == 3
    said = refused.err.splitlines()
    assert any("node3 does not answer" in line for line in said) and any("node4 does not answer" in line for line in said)
    assert any("only 1 node would take chunks, and every chunk needs 2" in line for line in said)
    assert all(line.startswith("dfs.admin: refused: ") for line in said)
    drain = admin(breakable, "drain", "node1", "--force")
    assert drain.code == 3 and "add a node first" in drain.err
    forced = admin(breakable, "maintenance", "node1", "--for", "1m", "--force")
    assert forced.code == 0 and "risk taken by --force: node3 does not answer" in forced.err
    assert admin(breakable, "drain", "node9").err.startswith("dfs.admin: refused: there is no node node9 (registered: node1")

    shown = admin(breakable, "status")
    assert shown.code == 8 and "DEGRADED" in shown.out and "absent" in shown.out
    assert "python -m dfs.admin repair --now node3" in shown.out


def test_an_absent_node_is_repaired_at_once_and_decommissioned(breakable: Cluster) -> None:
    assert admin(breakable, "repair", "--now", "node4").code == 3
    breakable.node("node4").kill()
    eventually(lambda: not node_of(breakable, "node4")["alive"], "node4 is missed")
    plan = admin(breakable, "repair", "--now", "node4", "--plan")
    assert plan.code == 0 and plan.out.startswith("plan: repair node4 (nothing is changed)")
    assert admin(breakable, "decommission", "node4").code == 3
    ordered = admin(breakable, "repair", "--now", "node4")
    assert ordered.code == 0 and ordered.out.startswith("the chunks of node4 are copied elsewhere at once")
    eventually(lambda: node_of(breakable, "node4")["repaired"], "node4's chunks are elsewhere")
    assert "node4" in admin(breakable, "repair").out
    assert admin(breakable, "decommission", "node4").code == 0
    wait_whole(breakable)


def test_rebalancing_is_planned_ordered_and_ended(running: Cluster) -> None:
    plan = admin(running, "rebalance", "--plan")
    assert plan.code == 0 and plan.out.startswith("plan: rebalance (nothing is changed): about ")
    assert len(plan.out.splitlines()) == 5
    ordered = admin(running, "rebalance")
    assert ordered.code == 0 and ordered.out.startswith("rebalancing is ordered: about ")
    eventually(lambda: rebalanced(running), "the rebalance is done")
    ended = admin(running, "rebalance", "--stop")
    assert (ended.code, ended.out) == (0, "no rebalancing was ordered: nothing was changed\n")


def test_the_status_of_a_cluster_that_is_well(running: Cluster) -> None:
    wait_whole(running)
    shown = admin(running, "status")
    lines = shown.out.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 100 for line in lines) and "\x1b" not in shown.out
    assert "HEALTHY  repair found every chunk with its 2 copies" in shown.out.replace("*", "●")
    assert [name for name in ("node1", "node2", "node3", "node4") if name in shown.out] == [
        "node1", "node2", "node3", "node4",
    ]  # fmt: skip
    as_json = admin(running, "status", "--json")
    found = json.loads(as_json.out)
    assert as_json.code == shown.code
    assert set(found) == {
        "at", "version", "cluster", "health", "totals", "nodes", "repair", "audit", "audit_running", "trash", "warnings",
    }  # fmt: skip
    assert set(found["health"]) == {"state", "sentence", "proved_at", "proved_by"}
    assert found["health"]["state"] == "healthy" and found["cluster"]["factor"] == 2
    assert found["totals"]["writable"] == found["totals"]["nodes"] == 4
    assert all(isinstance(warning["hands"], bool) for warning in found["warnings"])
    assert all(isinstance(node["fill"], float) and node["admin_state"] == "active" for node in found["nodes"])


def test_watching_ends_with_ctrl_c(running: Cluster) -> None:
    environ = os.environ | running.environ | {"DFS_API": running.url}
    command = [sys.executable, "-u", "-m", "dfs.admin", "status", "--watch", "0.1"]
    with subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as seen:
        assert seen.stdout is not None and seen.stderr is not None
        titles = 0
        while titles < 2:
            line = seen.stdout.readline()
            assert line, seen.stderr.read()
            titles += line.startswith("dfs cluster ")
        seen.send_signal(signal.SIGINT)
        seen.stdout.read()
        assert (seen.wait(30), seen.stderr.read()) == (0, "")


def test_figures_for_prometheus(running: Cluster) -> None:
    wait_whole(running)
    caller = running.caller()
    found = caller.call("GET", "/metrics")
    caller.close()
    assert found.status == 200 and found.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    samples = parse(found.body.decode())
    assert samples["dfs_nodes", (("state", "active"),)] == 4
    assert samples["dfs_health", (("state", "healthy"),)] == 1
    assert samples["dfs_metadata_up", ()] == 1
    assert sum(value for (name, _), value in samples.items() if name == "dfs_node_chunks") == 12


def test_no_server(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dfs.admin", "status", "--api", "http://127.0.0.1:1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and done.stderr.startswith("dfs.admin: ")
