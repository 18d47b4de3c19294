"""T6: disks that are full, by others or by our own files, each a small file system of its own.

What is stored can be read and deleted all the while, even by a node that is started on a full disk; and
when there is room again (others gave it back, or files were purged), everything goes on by itself.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cluster import Cluster, eventually
from tests.support.episodes import play
from tests.support.filesystem import FileSystem, file_system
from tests.support.load import Load
from tests.support.sweep import SEED

EPISODES = int(os.environ.get("EPISODES", "100" if os.environ.get("LONG") == "1" else "3"))
DISK = 40 << 20
NEXT_TO_NOTHING = 1 << 20
"""A quarter of the reserve."""

MOST_FILLERS = 1000

SETTINGS = {
    "DFS_MAX_CHUNK_SIZE": "256KiB",
    "DFS_CHUNK_SIZE": "256KiB",
    "DFS_VOLUME_SIZE": "2MiB",
    "DFS_DELETE_GRACE": "1s",
    "DFS_ERASE_INTERVAL": "0.5s",
    "DFS_TRASH_RETENTION": "1h",  # so that only want of room empties the trash
    "DFS_REPLACED_RETENTION": "1h",
    "REPLICATION_TIMEOUT": "15",
}


class Stage:
    """Three nodes, each on a small disk, under load."""

    def __init__(self, cluster: Cluster, load: Load, disks: dict[str, FileSystem]) -> None:
        self.cluster = cluster
        self.load = load
        self.disks = disks

    def state(self, node_id: str) -> str:
        (found,) = (node for node in self.cluster.nodes_seen() if node["node_id"] == node_id)
        return str(found["state"])

    def fill(self, *node_ids: str, leave: int = 0) -> None:
        """Somebody takes all space there, and more when the nodes find some, until they say that they are full."""

        def full() -> bool:
            for each in node_ids:
                self.disks[each].fill(leave)
            return {self.state(each) for each in node_ids} == {"full"}

        eventually(full, f"{node_ids} say that they are full")

    def reads_and_deletes(self) -> None:
        """Both go on. Only puts may be refused."""
        self.load.wait_for(60, "get")
        self.load.wait_for(5, "delete")

    def is_back(self) -> None:
        eventually(lambda: {self.state(each) for each in self.disks} == {"active"}, "every node has room again")
        self.load.wait_for(30, "put")


def one_disk(stage: Stage, chooser: random.Random) -> None:
    """Somebody fills one disk: the other two nodes take everything."""
    node_id = chooser.choice(sorted(stage.disks))
    stage.fill(node_id, leave=chooser.choice([0, 1 << 20]))
    stage.load.wait_for(40, "put")
    stage.reads_and_deletes()
    stage.disks[node_id].give_back()


def every_disk(stage: Stage, chooser: random.Random) -> None:
    """Somebody fills all disks to the brim; and one node is killed and started when there is next to nothing free
    (with nothing at all it would say that it cannot write its index)."""
    stage.fill(*stage.disks)
    caller = stage.cluster.caller()

    def refused() -> bool:
        stage.fill(*stage.disks)
        return caller.file("PUT", "more", bytes(1000)).status == 507

    eventually(refused, "the answer is that there is no room")
    caller.close()
    stage.reads_and_deletes()
    node = chooser.choice(stage.cluster.nodes)
    node.kill()
    stage.disks[node.name].give_some_back(NEXT_TO_NOTHING)
    node.start()
    stage.cluster.wait_alive(set(stage.disks))
    stage.reads_and_deletes()
    for disk in stage.disks.values():
        disk.give_back()


def own_files(stage: Stage, chooser: random.Random) -> None:
    """The cluster is full of files; purging some of them makes room, and so does what lies in the trash."""
    caller = stage.cluster.caller()
    stored = []
    for number in range(MOST_FILLERS):
        answer = caller.file("PUT", f"filler/{number}", chooser.randbytes(250_000))
        if answer.status == 507:
            break
        assert answer.status == 201, answer
        stored.append(f"filler/{number}")
    assert answer.status == 507 and "retry-after" in answer.headers
    stage.reads_and_deletes()
    for place, path in enumerate(stored):
        assert caller.file("DELETE", path, query={"purge": "1"} if place % 2 else None).status == 204
    caller.close()


KINDS: tuple[Callable[[Stage, random.Random], None], ...] = (one_disk, every_disk, own_files)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, environ=SETTINGS)
        disks = {node.name: stack.enter_context(file_system(tmp_path / node.name, DISK)) for node in cluster.nodes}
        stack.enter_context(cluster)
        cluster.keep_ports()
        mix = {"put": 2, "get": 10, "delete": 1, "list": 1}
        load = stack.enter_context(
            Load(cluster, client="raw", timeout=90, names=100, sizes=(500, 8_000), mix=mix, threads=3, pause=0.01)
        )
        load.fill()
        load.start()
        yield Stage(cluster, load, disks)


def test_full_disks_refuse_stores_and_nothing_else_and_recover_by_themselves(stage: Stage) -> None:
    play(stage, KINDS, seed=SEED, episodes=EPISODES)
    stage.load.assert_no_errors()
    others = {what for what in stage.load.refusals + stage.load.unsure if not what.startswith("put ")}
    assert not others, f"{others} were refused for want of room"
    stage.load.verify()
    assert all(node.running for node in stage.cluster.nodes)
