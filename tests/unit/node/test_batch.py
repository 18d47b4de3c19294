"""dfs.node.batch and the piece CRCs of a store: what is answered for each chunk, and for the call."""

from __future__ import annotations

import hashlib
import json
import zlib
from dataclasses import replace
from typing import Any

import pytest

from dfs.chunkbatch import BATCH_BYTES, NewChunk, encode_batch
from dfs.errors import (
    BadRequest,
    ChecksumMismatch,
    Gone,
    LengthMismatch,
    LengthRequired,
    NodeFull,
    PayloadTooLarge,
    StoreReadOnly,
)
from dfs.model import AdminState
from dfs.node.batch import BatchEndpoint
from dfs.node.chunks import ChunkEndpoints, Intake
from dfs.node.standing import Standing
from dfs.store.store import PIECE
from dfs.wire.buffers import BufferPool
from tests.unit.node.fakes import FILE_ID, USAGE, FakeStore, request


class Bench:
    def __init__(self, memory: int = BATCH_BYTES) -> None:
        self.store = FakeStore()
        self.standing = Standing(self.store)
        self.buffers = BufferPool(memory)
        self.refused = 0
        store: Any = self.store
        self.intake = Intake("n1", store, self.standing, self.buffers, 3 * PIECE, on_refused=self._count)
        self.batch = BatchEndpoint(self.intake)
        self.chunks = ChunkEndpoints(self.intake)

    def _count(self) -> None:
        self.refused += 1

    def send(self, *chunks: NewChunk) -> Any:
        answer = self.batch.store(request("POST", "/store-chunks", encode_batch(chunks)))
        assert answer.status == 200
        assert isinstance(answer.body, bytes)
        assert self.buffers.free_bytes == self.buffers.total
        return json.loads(answer.body)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def new(data: bytes, index: int) -> NewChunk:
    return NewChunk(FILE_ID, index, data, hashlib.sha256(data).hexdigest(), zlib.crc32(data), 1 << 20, None)


def test_every_chunk_of_a_batch_is_stored(bench: Bench) -> None:
    chunks = [new(b"chunk %d" % number, number) for number in range(20)]
    assert bench.send(*chunks) == {"node_id": "n1", "stored": 20, "errors": {}}
    assert {key[1]: data for key, (_, data) in bench.store.data.items()} == {
        chunk.chunk_index: chunk.data for chunk in chunks
    }


def test_what_is_wrong_with_one_chunk_is_said_of_that_one(bench: Bench) -> None:
    bad = new(b"bad", 1)._replace(checksum="0" * 64)
    told = bench.send(new(b"good", 0), bad, new(b"good too", 2))
    assert (told["stored"], list(told["errors"])) == (2, ["1"])
    assert told["errors"]["1"]["status"] == 400
    assert told["errors"]["1"]["error"].items() >= {"code": "checksum_mismatch", "retryable": False}.items()
    assert bench.refused == 0
    assert {index for _, index in bench.store.data} == {0, 2}


def test_a_chunk_longer_than_this_node_takes_is_refused_alone(bench: Bench) -> None:
    bench.batch = BatchEndpoint(replace(bench.intake, max_chunk_size=4))
    told = bench.send(new(b"12345", 0), new(b"1234", 1), new(b"123456", 2))
    assert told["stored"] == 1
    assert {place: error["status"] for place, error in told["errors"].items()} == {"0": 413, "2": 413}
    assert {index for _, index in bench.store.data} == {1}


@pytest.mark.parametrize("error", [NodeFull("full"), StoreReadOnly("failed"), Gone("deleted")])
def test_the_registry_is_told_at_once_of_a_disk_that_refuses(bench: Bench, error: Any) -> None:
    bench.store.refusal = error
    told = bench.send(new(b"a", 0), new(b"b", 1))
    assert {place: found["error"]["code"] for place, found in told["errors"].items()} == {
        "0": error.code,
        "1": error.code,
    }
    assert told["stored"] == 0
    assert bench.refused == (0 if isinstance(error, Gone) else 1)


def test_a_batch_that_is_malformed_or_cut_off_stores_nothing(bench: Bench) -> None:
    body = encode_batch([new(b"a", 0), new(b"b", 1)])
    for made, error in (
        (request("POST", "/store-chunks", body + b"x"), BadRequest),
        (request("POST", "/store-chunks", body[:-1], declared=len(body)), LengthMismatch),
        (request("POST", "/store-chunks", b""), BadRequest),
    ):
        with pytest.raises(error):
            bench.batch.store(made)
    assert not bench.store.data
    assert bench.buffers.free_bytes == bench.buffers.total


def test_a_batch_that_cannot_be_taken_is_refused_before_its_body_is_read(bench: Bench) -> None:
    body = encode_batch([new(b"a", 0)])
    for made, error in (
        (request("POST", "/store-chunks", body, chunked=True), LengthRequired),
        (request("POST", "/store-chunks", declared=BATCH_BYTES + 1), PayloadTooLarge),
    ):
        with pytest.raises(error):
            bench.batch.store(made)
        assert not made.body.started
    small = Bench(memory=len(body) - 1)
    made = request("POST", "/store-chunks", body)
    with pytest.raises(PayloadTooLarge, match=f"at most {len(body) - 1} bytes here"):
        small.batch.store(made)
    assert not made.body.started
    bench.store.space = replace(USAGE, full=True)
    with pytest.raises(NodeFull):
        bench.batch.store(made)
    bench.store.space = USAGE
    bench.standing.admin_state = AdminState.DRAINING
    with pytest.raises(StoreReadOnly):
        bench.batch.store(made)
    assert not made.body.started
    assert not bench.store.data


# --- piece CRCs of PUT /store-chunk ---


def crcs_of(data: bytes) -> str:
    return "".join(f"{zlib.crc32(data[at : at + PIECE]):08x}" for at in range(0, len(data), PIECE))


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE + 1])
def test_bytes_with_their_piece_crcs_keep_the_checksum_that_was_declared(bench: Bench, size: int) -> None:
    data = bytes(range(251)) * (size // 251) + b"x" * (size % 251)
    declared = "ab" * 32  # the node does not hash what the CRCs vouch for
    headers = [("X-Chunk-Checksum", declared), ("X-Dfs-Piece-Crcs", crcs_of(data).upper())]
    target = f"/store-chunk?file_id={FILE_ID}&chunk_index=0"
    assert bench.chunks.store(request("PUT", target, data, headers)).status == 201
    stored, content = bench.store.data[FILE_ID, 0]
    assert (stored.checksum, content) == (declared, data)


def test_a_piece_that_does_not_have_its_crc_stores_nothing(bench: Bench) -> None:
    data = b"a" * PIECE + b"b"
    headers = [("X-Chunk-Checksum", "ab" * 32), ("X-Dfs-Piece-Crcs", crcs_of(data))]
    for at in (0, PIECE):
        wrong = bytearray(data)
        wrong[at] ^= 1
        with pytest.raises(ChecksumMismatch, match=f"piece {at // PIECE}"):
            bench.chunks.store(
                request("PUT", f"/store-chunk?file_id={FILE_ID}&chunk_index=0", bytes(wrong), headers)
            )
    assert not bench.store.data


@pytest.mark.parametrize("crcs", ["", "12345678" * 2, "1234567", "1234567g", "+1234567"])
def test_malformed_piece_crcs_are_refused_before_the_body_is_read(bench: Bench, crcs: str) -> None:
    made = request(
        "PUT", f"/store-chunk?file_id={FILE_ID}&chunk_index=0", b"abc", [("X-Dfs-Piece-Crcs", crcs)]
    )
    with pytest.raises(BadRequest, match="X-Dfs-Piece-Crcs"):
        bench.chunks.store(made)
    assert not made.body.started


def test_piece_crcs_alone_are_checked_beside_the_hash_of_the_node(bench: Bench) -> None:
    headers = [("X-Dfs-Piece-Crcs", crcs_of(b"abc"))]
    target = f"/store-chunk?file_id={FILE_ID}&chunk_index=0"
    bench.chunks.store(request("PUT", target, b"abc", headers))
    assert bench.store.data[FILE_ID, 0][0].checksum == hashlib.sha256(b"abc").hexdigest()
    with pytest.raises(ChecksumMismatch):
        bench.chunks.store(request("PUT", target, b"abd", headers))
