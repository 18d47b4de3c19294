"""T8: disks that come back empty, nodes that rejoin or are replaced, nodes that are added; all under load.

After each episode repair has brought every chunk back to its replicas, and an audit proves it.
"""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, DidNotStart, Server, eventually
from tests.support.load import Load
from tests.support.operators import Operator
from tests.support.sweep import SEED

EPISODES = int(os.environ.get("EPISODES", "50" if os.environ.get("LONG") == "1" else "2"))
SIZES = (100, 3_000, 20_000, 70_000)

SETTINGS = {
    "DFS_REPAIR_DELAY": "2",
    "DFS_REPAIR_INTERVAL": "0.5",
    "DFS_REPAIR_MBPS": "1000",
    "DFS_NODE_TIMEOUT": "2",
    "REPLICATION_TIMEOUT": "8",
    "DFS_TRASH_RETENTION": "5s",
    "DFS_REPLACED_RETENTION": "5s",
    "DFS_DELETE_GRACE": "1s",
    "DFS_ERASE_INTERVAL": "1s",
}


class Stage:
    """A cluster that changes, under load."""

    def __init__(self, cluster: Cluster, load: Load, operator: Operator) -> None:
        self.cluster = cluster
        self.load = load
        self.operator = operator

    def members(self) -> list[Server]:
        return [node for node in self.cluster.nodes if node.running]

    def wait_alive(self) -> None:
        self.cluster.wait_alive({node.name for node in self.members()})

    def retire(self, node: Server) -> None:
        """Take a node that is gone out of the cluster for good."""
        self.operator.wait_repaired(node.name)
        self.operator.run("decommission", node.name)


def wiped(stage: Stage, chooser: random.Random) -> None:
    """A node's disk is replaced by an empty one: refused under the old id, welcome under a new one."""
    node = chooser.choice(stage.members())
    node.kill()
    directory = Path(node.environ["DFS_DATA_DIR"])
    shutil.rmtree(directory)
    directory.mkdir()
    with pytest.raises(DidNotStart) as refused:
        node.start()
    assert node.name in str(refused.value) and "DFS_DATA_DIR" in str(refused.value)
    assert not (directory / "node.json").exists(), "an empty disk under a known id was filled"
    stage.cluster.add_node()
    stage.wait_alive()
    stage.load.wait_for(50)
    stage.retire(node)


def rejoined(stage: Stage, chooser: random.Random) -> None:
    """A node is away until all it held is copied, comes back with its disk, and another one is added."""
    node = chooser.choice(stage.members())
    node.kill()
    stage.operator.wait_repaired(node.name)
    stage.load.wait_for(50)
    node.start()
    stage.cluster.add_node()
    stage.wait_alive()
    stage.operator.run("rebalance")
    newest = stage.cluster.nodes[-1]
    eventually(lambda: stage.operator.node(newest.name).get("chunks", 0) > 0, f"chunks on {newest.name}")
    stage.load.wait_for(50)
    stage.operator.run("drain", newest.name)
    stage.operator.wait_state(newest.name, "drained")
    stage.operator.run("decommission", newest.name)
    newest.stop()


KINDS: tuple[Callable[[Stage, random.Random], None], ...] = (wiped, rejoined)


def test_nodes_that_are_wiped_rejoin_and_are_replaced_lose_nothing(tmp_path: Path) -> None:
    print(f"replay: SEED={SEED} EPISODES={EPISODES}")
    with Cluster(tmp_path, environ=SETTINGS) as cluster:
        cluster.keep_ports()
        operator = Operator(cluster)
        with Load(cluster, names=300, sizes=SIZES, threads=3, pause=0.03) as load:
            load.fill()
            load.start()
            stage = Stage(cluster, load, operator)
            for number in range(EPISODES):
                chooser = random.Random(f"{SEED}/{number}")
                kind = KINDS[number] if number < len(KINDS) else chooser.choice(KINDS)
                began = time.monotonic()
                kind(stage, chooser)
                over = time.monotonic()
                operator.wait_whole()
                said = operator.audit()["reason"]
                print(f"{kind.__name__}: {over - began:.1f} s, whole after {time.monotonic() - over:.1f} s; {said}")
        load.assert_clean()
        print(load.summary())
        load.verify()
