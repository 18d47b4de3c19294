"""T5: networks and processes that hang, and metadata that does not answer.

Six kinds of episode, one after another under load, on DynamoDB's stand-in. Each ends, and within a minute everything
goes on; clients that repeat what may pass (for a minute) never learn of it; what they were told holds.
While one node or one API server is away, the others serve.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import needs
from tests.support.cluster import Cluster, Server, eventually
from tests.support.episodes import play
from tests.support.load import Load
from tests.support.moto_server import MotoServer
from tests.support.proxy import BOTH, Proxy, nodes_behind_proxies
from tests.support.sweep import SEED

EPISODES = int(os.environ.get("EPISODES", "200" if os.environ.get("LONG") == "1" else "6"))
BACK_SECONDS = 60.0

SETTINGS = {
    "REPLICATION_TIMEOUT": "8",
    "DFS_NODE_TIMEOUT": "2",
}


class Stage:
    """The cluster of the episodes, behind networks that can be made bad."""

    def __init__(self, cluster: Cluster, load: Load, nodes: dict[str, Proxy], metadata: Proxy) -> None:
        self.cluster = cluster
        self.load = load
        self.nodes = nodes
        self.metadata = metadata

    def serves_on(self, operations: int) -> None:
        """Clients get ahead: a fault that spares enough of the cluster stops nobody."""
        self.load.wait_for(operations)
        self.load.wait_for(operations // 5, "put")

    def is_back(self) -> None:
        """Everything goes on as before."""
        self.cluster.wait_alive({node.name for node in self.cluster.nodes})
        self.cluster.wait_alive({node.name for node in self.cluster.nodes}, api=1)
        self.load.wait_for(20, "put", seconds=BACK_SECONDS)


def partition(stage: Stage, chooser: random.Random) -> None:
    """Nothing passes between the API servers and one node, which goes on sending heartbeats."""
    proxy = stage.nodes[chooser.choice(sorted(stage.nodes))]
    proxy.freeze(*chooser.choice([BOTH, ("up",), ("down",)]))
    stage.serves_on(60)
    proxy.heal()


def stopped_node(stage: Stage, chooser: random.Random) -> None:
    """One node hangs as a whole."""
    node = chooser.choice(stage.cluster.nodes)
    with stopped(node):
        stage.serves_on(60)
        eventually(lambda: node.name not in alive(stage.cluster), "the node that hangs counts as dead")


def stopped_api(stage: Stage, chooser: random.Random) -> None:
    """One API server hangs, in the middle of whatever it does."""
    with stopped(chooser.choice(stage.cluster.apis)):
        stage.serves_on(40)


def slow_network(stage: Stage, chooser: random.Random) -> None:
    """Every packet to and from the nodes takes 300 ms."""
    for proxy in stage.nodes.values():
        proxy.delay(0.3)
    stage.serves_on(20)
    for proxy in stage.nodes.values():
        proxy.heal()


def metadata_frozen(stage: Stage, chooser: random.Random) -> None:
    """Metadata takes connections and says nothing, until every API server has noticed."""
    stage.metadata.freeze()
    callers = [stage.cluster.caller(api) for api in range(len(stage.cluster.apis))]
    for caller in callers:
        eventually(lambda caller=caller: caller.call("GET", "/readyz").status == 503, "the server says it is not ready")
        caller.close()
    stage.metadata.heal()


def one_sided(stage: Stage, chooser: random.Random) -> None:
    """One API server cannot reach a node that the other one can."""
    proxy = stage.nodes[chooser.choice(sorted(stage.nodes))]
    proxy.refuse_only({chooser.choice(stage.cluster.apis).pid})
    stage.serves_on(60)
    proxy.heal()


KINDS: tuple[Callable[[Stage, random.Random], None], ...] = (
    partition,
    stopped_node,
    stopped_api,
    slow_network,
    metadata_frozen,
    one_sided,
)


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """SIGSTOP, and SIGCONT in any case."""
    os.kill(server.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(server.pid, signal.SIGCONT)


def alive(cluster: Cluster) -> set[str]:
    return {node["node_id"] for node in cluster.nodes_seen() if node["alive"]}


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    needs.many_loopback_addresses()
    with contextlib.ExitStack() as stack:
        moto = stack.enter_context(MotoServer())
        metadata = stack.enter_context(Proxy(("127.0.0.1", moto.port)))
        environ = moto.environment() | {"AWS_ENDPOINT_URL": metadata.url} | SETTINGS
        cluster = Cluster(tmp_path, environ=environ)
        nodes = nodes_behind_proxies(cluster)
        for proxy in nodes.values():
            stack.enter_context(proxy)
        stack.enter_context(cluster)
        cluster.add_api()
        load = stack.enter_context(Load(cluster, client="raw", patience=BACK_SECONDS, timeout=20, names=60))
        load.fill()
        load.start()
        yield Stage(cluster, load, nodes, metadata)


def test_acknowledged_writes_outlive_partitions_hanging_processes_and_silent_metadata(stage: Stage) -> None:
    play(stage, KINDS, seed=SEED, episodes=EPISODES)
    stage.load.assert_clean()
    stage.load.verify()
