"""dfs.node.chunks and dfs.node.bulk: the calls, on a store in memory."""

from __future__ import annotations

import hashlib
import json
import threading
from dataclasses import replace
from typing import Any

import pytest

from dfs.errors import (
    BadRequest,
    Busy,
    ChecksumMismatch,
    CorruptChunk,
    LengthMismatch,
    LengthRequired,
    NodeFull,
    NotFound,
    PayloadTooLarge,
    StoreReadOnly,
)
from dfs.node import bulk
from dfs.node.bulk import BulkEndpoints
from dfs.node.chunks import ChunkEndpoints, Intake
from dfs.node.standing import Standing
from dfs.store.store import PIECE
from dfs.wire.buffers import BufferPool
from dfs.wire.message import Response
from tests.unit.node.fakes import FILE_ID, USAGE, FakeStore, request

TARGET = f"/store-chunk?file_id={FILE_ID}&chunk_index=4"


class Bench:
    def __init__(self, max_chunk_size: int = 3 * PIECE, pool: int = 4 * PIECE) -> None:
        self.store = FakeStore()
        self.standing = Standing(self.store)
        self.buffers = BufferPool(pool)
        self.refused = 0
        store: Any = self.store
        self.chunks = ChunkEndpoints(
            Intake("n1", store, self.standing, self.buffers, max_chunk_size, on_refused=self._count)
        )
        self.bulk = BulkEndpoints(store)

    def _count(self) -> None:
        self.refused += 1


@pytest.fixture
def bench() -> Bench:
    return Bench()


def payload(response: Response) -> Any:
    assert isinstance(response.body, bytes)
    return json.loads(response.body)


@pytest.mark.parametrize("size", [0, 1, 1024, PIECE, PIECE + 1, 3 * PIECE])
def test_a_chunk_is_stored_as_it_came(bench: Bench, size: int) -> None:
    data = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    checksum = hashlib.sha256(data).hexdigest()
    stored = bench.chunks.store(request("PUT", TARGET, data, [("X-Chunk-Checksum", checksum.upper())]))
    assert stored.status == 201
    assert payload(stored) == {
        "node_id": "n1", "file_id": FILE_ID, "chunk_index": 4, "checksum": checksum, "length": size
    }  # fmt: skip
    assert bench.store.data[FILE_ID, 4][1] == data
    assert bench.buffers.free_bytes == bench.buffers.total


def test_what_the_writer_says_of_the_file_is_kept(bench: Bench) -> None:
    bench.chunks.store(request("PUT", TARGET, b"abc"))
    assert bench.store.data[FILE_ID, 4][0].chunk_size == 3
    assert bench.store.data[FILE_ID, 4][0].file_size is None
    bench.chunks.store(request("PUT", TARGET, b"abc", [("X-Dfs-Chunk-Size", "8"), ("X-Dfs-File-Size", "35")]))
    assert bench.store.data[FILE_ID, 4][0].chunk_size == 8
    assert bench.store.data[FILE_ID, 4][0].file_size == 35


@pytest.mark.parametrize(
    ("error", "target", "headers"),
    [
        (BadRequest, "/store-chunk?chunk_index=1", []),
        (BadRequest, TARGET + "&replica_type=x", []),
        (BadRequest, TARGET, [("X-Chunk-Checksum", "abc")]),
        (BadRequest, TARGET, [("X-Dfs-Chunk-Size", "2")]),
        (BadRequest, TARGET, [("X-Dfs-File-Size", "2")]),
    ],
)
def test_a_bad_store_is_refused_before_its_body_is_read(
    bench: Bench, error: type[Exception], target: str, headers: list[tuple[str, str]]
) -> None:
    made = request("PUT", target, b"abc", headers)
    with pytest.raises(error):
        bench.chunks.store(made)
    assert not made.body.started
    assert not bench.store.data


def test_a_store_without_a_length_or_with_too_great_a_one_is_refused_before_its_body_is_read(bench: Bench) -> None:
    chunked = request("PUT", TARGET, b"abc", chunked=True)
    with pytest.raises(LengthRequired):
        bench.chunks.store(chunked)
    great = request("PUT", TARGET, declared=3 * PIECE + 1)
    with pytest.raises(PayloadTooLarge):
        bench.chunks.store(great)
    bare = request("PUT", TARGET)
    bare.headers = type(bare.headers)()
    with pytest.raises(LengthRequired):
        bench.chunks.store(bare)
    assert not any(made.body.started for made in (chunked, great, bare))


@pytest.mark.parametrize(
    ("space", "error"),
    [(replace(USAGE, full=True), NodeFull), (replace(USAGE, read_only_reason="failed"), StoreReadOnly)],
)
def test_a_node_that_takes_nothing_says_so_before_the_body_is_read(
    bench: Bench, space: Any, error: type[Exception]
) -> None:
    bench.store.space = space
    made = request("PUT", TARGET, b"abc")
    with pytest.raises(error):
        bench.chunks.store(made)
    assert not made.body.started


def test_a_body_that_ends_early_stores_nothing(bench: Bench) -> None:
    with pytest.raises(LengthMismatch, match="after 3 of 5 bytes"):
        bench.chunks.store(request("PUT", TARGET, b"abc", declared=5))
    assert not bench.store.data
    assert bench.buffers.free_bytes == bench.buffers.total


def test_a_wrong_checksum_stores_nothing(bench: Bench) -> None:
    with pytest.raises(ChecksumMismatch):
        bench.chunks.store(request("PUT", TARGET, b"abc", [("X-Chunk-Checksum", "0" * 64)]))
    assert not bench.store.data


@pytest.mark.parametrize("error", [NodeFull("full"), StoreReadOnly("failed")])
def test_a_disk_that_refuses_is_reported_at_once(bench: Bench, error: Exception) -> None:
    bench.store.refusal = error
    with pytest.raises(type(error)):
        bench.chunks.store(request("PUT", TARGET, b"abc"))
    assert bench.refused == 1
    assert bench.buffers.free_bytes == bench.buffers.total


def test_without_memory_a_store_waits_and_is_told_to_come_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.node.chunks.BUFFER_SECONDS", 0.01)
    made = request("PUT", TARGET, b"abc")
    with bench.buffers.acquire(4 * PIECE, 1), pytest.raises(Busy):
        bench.chunks.store(made)
    assert not made.body.started


def test_a_chunk_that_is_not_here(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.chunks.verify(request("POST", TARGET))


def test_verify_and_drop(bench: Bench) -> None:
    bench.chunks.store(request("PUT", TARGET, b"abc"))
    verified = payload(bench.chunks.verify(request("POST", TARGET)))
    assert verified == {"checksum": hashlib.sha256(b"abc").hexdigest(), "length": 3}
    bench.store.bad = CorruptChunk("bit rot")
    with pytest.raises(CorruptChunk):
        bench.chunks.verify(request("POST", TARGET))
    assert payload(bench.chunks.drop(request("POST", TARGET))) == {"dropped": True}
    assert payload(bench.chunks.drop(request("POST", TARGET))) == {"dropped": False}


def test_erase_and_notes(bench: Bench) -> None:
    body = json.dumps({"file_ids": [FILE_ID]}).encode()
    assert payload(bench.bulk.erase(request("POST", "/erase-files", body))) == {"erased": 1}
    assert bench.store.erased == [FILE_ID]
    body = json.dumps({"notes": [{"op": "commit"}, {}]}).encode()
    assert payload(bench.bulk.notes(request("POST", "/notes", body))) == {"stored": 2}
    assert bench.store.noted == [{"op": "commit"}, {}]


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'{"file_ids":[],"file_ids":[]}', b'{"file_ids":[NaN]}', b"\xff"])
def test_a_bulk_body_that_is_no_strict_json_object(bench: Bench, body: bytes) -> None:
    with pytest.raises(BadRequest):
        bench.bulk.erase(request("POST", "/erase-files", body))
    assert not bench.store.erased


def test_the_inventory_is_paged_by_sequence(bench: Bench) -> None:
    for index in range(5):
        bench.chunks.store(request("PUT", f"/store-chunk?file_id={FILE_ID}&chunk_index={index}", b"%d" % index))
    seen, after = [], 0
    for _ in range(3):
        page = payload(bench.bulk.inventory(request("GET", f"/inventory?after={after}&limit=2")))
        seen += [(chunk["sequence"], chunk["chunk_index"], chunk["length"]) for chunk in page["chunks"]]
        after = page["next"]
    assert after is None
    assert seen == [(1, 0, 1), (2, 1, 1), (3, 2, 1), (4, 3, 1), (5, 4, 1)]
    assert set(page["chunks"][0]) == {"sequence", "file_id", "chunk_index", "length", "checksum", "created", "verified"}
    for bad in ("after=-1", "limit=0", "limit=10001", "after=x"):
        with pytest.raises(BadRequest):
            bench.bulk.inventory(request("GET", f"/inventory?{bad}"))


def test_an_empty_inventory(bench: Bench) -> None:
    assert payload(bench.bulk.inventory(request("GET", "/inventory"))) == {"chunks": [], "next": None}


def test_large_calls_wait_for_their_turn_and_then_are_told_to_come_back(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk, "BULK_SECONDS", 0.01)
    inside, go_on = threading.Semaphore(0), threading.Event()

    class Slow(FakeStore):
        def erase(self, file_ids: Any) -> None:
            inside.release()
            go_on.wait()

    slow: Any = Slow()
    calls = BulkEndpoints(slow)
    threads = [
        threading.Thread(target=calls.erase, args=(request("POST", "/erase-files", b'{"file_ids":[]}'),))
        for _ in range(bulk.BULK_CALLS)
    ]
    for thread in threads:
        thread.start()
        inside.acquire()
    with pytest.raises(Busy):
        calls.inventory(request("GET", "/inventory"))
    go_on.set()
    for thread in threads:
        thread.join()
    assert calls.inventory(request("GET", "/inventory")).status == 200
