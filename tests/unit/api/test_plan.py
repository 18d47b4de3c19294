from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator

import pytest

from dfs import DISK_FORMAT, WIRE_VERSION
from dfs.api.answers import streamed_list
from dfs.api.plan import DownloadPlan, upload_targets
from dfs.cluster.view import MemberState, View
from dfs.errors import NoReplica
from dfs.model import AdminState, ChunkReplica, FileRecord, FileState, NodeInfo, NodeStatus, new_file_id

FILE = new_file_id()


def node(name: str) -> NodeInfo:
    return NodeInfo(
        name, "127.0.0.1", 1, None, None, "d", "b", NodeStatus.ACTIVE, AdminState.ACTIVE, 1, 1, 1, 1, 1, 0, "0",
        WIRE_VERSION, DISK_FORMAT,
    )  # fmt: skip


def view(alive: str = "ab", suspect: str = "") -> View:
    return View(1, [MemberState(node(name), name in alive, name in suspect) for name in "abc"])


def record(chunks: int) -> FileRecord:
    return FileRecord(FILE, FileState.COMMITTED, "b", "p", chunks, 1, chunks, "a/b", None, "p", 1, 1, 1)


def row(index: int, name: str, kind: str = "secondary") -> ChunkReplica:
    return ChunkReplica(FILE, index, name, f"{index:064x}", 1, kind, 1)


def entries(plan: DownloadPlan) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(b"".join(streamed_list(plan.entries("http://h:1"))))
    return found


def test_a_plan_prefers_healthy_primaries() -> None:
    rows = [row(0, "a"), row(0, "b", "primary"), row(1, "a"), row(1, "c", "primary"), row(2, "b", "primary"), row(2, "d")]
    found = entries(DownloadPlan(record(3), rows, view(alive="abc", suspect="c")))
    assert [entry["url"] for entry in found] == [
        f"http://h:1/proxy-chunk-download?file_id={FILE}&chunk_index={index}&node_id={name}"
        for index, name in enumerate("bab")
    ]
    assert [entry["checksum"] for entry in found] == [f"{index:064x}" for index in range(3)]
    assert [entry["chunk_index"] for entry in found] == [0, 1, 2]


def test_an_empty_file() -> None:
    assert entries(DownloadPlan(record(0), [row(0, "a")], view())) == []


@pytest.mark.parametrize(
    ("rows", "name"),
    [([row(0, "a")], "chunk 1"), ([row(1, "a")], "chunk 0"), ([], "chunk 0"), ([row(0, "a"), row(1, "c")], "chunk 1"),
     ([row(0, "a"), row(1, "x")], "chunk 1")],
)  # fmt: skip
def test_a_chunk_that_nobody_has_is_named(rows: list[ChunkReplica], name: str) -> None:
    with pytest.raises(NoReplica, match=name):
        DownloadPlan(record(2), rows, view())


def test_a_plan_takes_little_memory() -> None:
    count = 100_000

    def rows() -> Iterator[ChunkReplica]:
        for index in range(count):
            yield row(index, "a")

    tracemalloc.start()
    try:
        plan = DownloadPlan(record(count), rows(), view())
        for _ in streamed_list(plan.entries("http://h:1")):
            pass
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 48 * count
    assert peak < 48 * count + 1_000_000


def test_targets_are_json() -> None:
    text = b"".join(streamed_list(upload_targets("http://h", FILE, [node("a"), node("b")]), '{"t":[', "]}"))
    assert json.loads(text)["t"][1] == {
        "chunk_index": 1,
        "node": "b",
        "url": f"http://h/proxy-chunk-upload?file_id={FILE}&chunk_index=1&node_id=b",
    }
