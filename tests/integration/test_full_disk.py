"""Disks that are really full: purging makes room, and so does the trash, oldest first, without anybody's doing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.caller import Caller
from tests.support.cluster import Cluster, eventually
from tests.support.filesystem import file_system

DISK = 20 << 20
FILE = bytes(250_000)
MOST = 1000
PATIENCE = 180.0
"""Seconds for the grace, a run of the eraser and two looks of the nodes' compaction, on a busy machine."""

SETTINGS = {
    "DFS_MAX_CHUNK_SIZE": "256KiB",
    "DFS_CHUNK_SIZE": "256KiB",
    "DFS_VOLUME_SIZE": "1MiB",
    "DFS_DELETE_GRACE": "1s",
    "DFS_ERASE_INTERVAL": "0.5s",
}


@pytest.fixture
def full(tmp_path: Path) -> Iterator[tuple[Cluster, list[str]]]:
    """A cluster of two small disks that answers 507, and the paths that it has stored, oldest first."""
    with contextlib.ExitStack() as stack:
        cluster = Cluster(tmp_path, nodes=2, environ=SETTINGS)
        for node in cluster.nodes:
            stack.enter_context(file_system(tmp_path / node.name, DISK))
        stack.enter_context(cluster)
        caller = cluster.caller()
        stored = []
        for number in range(MOST):
            answer = caller.file("PUT", f"f/{number:04d}", FILE)
            if answer.status == 507:
                break
            assert answer.status == 201, answer
            stored.append(f"f/{number:04d}")
        assert answer.status == 507 and answer.code in ("cluster_full", "node_full")
        assert len(stored) > 20
        yield cluster, stored
        caller.close()


def takes_again(caller: Caller) -> None:
    eventually(lambda: caller.file("PUT", "again", FILE).status == 201, "there is room again", PATIENCE)


def trash(caller: Caller) -> list[dict[str, Any]]:
    answer = caller.call("GET", "/files?deleted=1&prefix=f/")
    assert answer.status == 200 and answer.json["cursor"] is None
    files = answer.json["files"]
    assert isinstance(files, list)
    return files


def test_purging_some_files_on_full_disks_makes_room(full: tuple[Cluster, list[str]]) -> None:
    cluster, stored = full
    caller = cluster.caller()
    for path in stored[:20]:
        assert caller.file("DELETE", path, query={"purge": "1"}).status == 204
    takes_again(caller)
    for path in stored[20:]:
        assert caller.file("GET", path).body == FILE
    caller.close()


def test_the_oldest_trash_makes_room_by_itself_and_the_rest_stays(full: tuple[Cluster, list[str]]) -> None:
    cluster, stored = full
    caller = cluster.caller()
    for path in stored[:20]:
        assert caller.file("DELETE", path).status == 204
    takes_again(caller)
    left = [file["path"] for file in trash(caller)]
    assert left == stored[20 - len(left) : 20] and 15 <= len(left) < 20, "the oldest went, and not more than was needed"
    assert caller.file("POST", left[-1], query={"restore": "latest"}).status == 200
    for path in (left[-1], *stored[20:]):
        assert caller.file("GET", path).body == FILE
    assert "trash.purged_for_space" in cluster.apis[0].log.read_text()
    caller.close()
