"""A loaded node is drained while the API server that leads the work is killed again and again.

It ends with nothing on the node, and no client notices. What clients get done meanwhile is printed beside what
they got done before: on a shared machine that is a figure, not a test.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from tests.support.caller import Caller
from tests.support.cluster import Cluster, Server, eventually
from tests.support.load import Load
from tests.support.operators import REPAIR_SECONDS, Operator

LONG = os.environ.get("LONG") == "1"
FILES = int(os.environ.get("DRAIN_FILES", "20000" if LONG else "800"))
KILLS = int(os.environ.get("LEADER_KILLS", "30" if LONG else "3"))
SIZES = (100, 3_000, 20_000, 70_000)
BEFORE_SECONDS = 3

SLOWLY, FAST = "5", "2000"
"""MB/s: so slowly that no leader is done before it is killed, until the last one."""

SETTINGS = {
    "DFS_REPAIR_INTERVAL": "0.5",
    "DFS_REPAIR_MBPS": SLOWLY,
    "DFS_NODE_TIMEOUT": "2",
    "REPLICATION_TIMEOUT": "8",
}


def test_a_loaded_node_is_drained_to_nothing_though_the_leader_is_killed_three_times(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=4, environ=SETTINGS) as cluster:
        operator = Operator(cluster)
        cluster.add_api()
        cluster.add_api()
        cluster.keep_ports()
        with Load(cluster, names=FILES, sizes=SIZES, pause=0.02, timeout=30) as load:
            load.fill()
            load.start()
            eventually(lambda: load.seconds() > BEFORE_SECONDS, "some seconds for comparison")
            before = load.rate(1, load.seconds())
            held = operator.node("node2")["chunks"]
            print(operator.run("drain", "node2"))
            began = load.seconds()
            for kill in range(KILLS):
                leader = at_work(operator)
                done = operator.tour("drain", "node2")["chunks_done"]
                leader.kill()
                print(f"{load.seconds() - began} s: {leader.name} killed at {done} of {held} chunks, kill {kill + 1}")
                leader.start(DFS_REPAIR_MBPS=FAST)
            operator.wait_state("node2", "drained")
            ended = load.seconds()
            during = load.rate(began, ended)
            print(f"drained after {ended - began} s; operations a second: {before:.0f} before, {during:.0f} meanwhile")
            assert inventory_of(cluster.node("node2")) == []
            load.wait_for(100)
        load.assert_clean()
        print(load.summary())
        operator.wait_whole()
        assert operator.audit()["counts"]["over"] == 0
        load.verify()
        print(operator.run("decommission", "node2"))


def at_work(operator: Operator) -> Server:
    """The API server that leads repair, once it has done something of the drain that it was not left."""
    found: list[Server] = []

    def working() -> bool:
        leader, tour = operator.leader(), operator.tour("drain", "node2")
        if leader is None or not tour:
            return False
        if not found or found[0] is not leader:
            found[:] = [leader]
            at_first.clear()
        at_first.setdefault("done", tour["chunks_done"])
        return bool(tour["chunks_done"] > at_first["done"] or tour["in_inventory"] or tour["passes"])

    at_first: dict[str, Any] = {}
    eventually(working, "somebody leads and drains", REPAIR_SECONDS)
    return found[0]


def inventory_of(node: Server) -> object:
    """What a node says it holds."""
    caller = Caller(node.port)
    try:
        return caller.call("GET", "/inventory?after=0&limit=10").json["chunks"]
    finally:
        caller.close()
