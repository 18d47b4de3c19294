"""dfs.node.pull: a chunk fetched from a peer is verified, stored, and never taken on trust."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from dfs.errors import BadRequest, ChunkConflict, CorruptChunk, NodeFull, NoReplica, NotFound, StoreReadOnly
from dfs.model import AdminState
from dfs.node.chunks import ChunkEndpoints, Intake
from dfs.node.pull import PullEndpoint
from dfs.node.standing import Standing
from dfs.store.store import PIECE
from dfs.wire.buffers import BufferPool
from dfs.wire.client import BadAnswer, ConnectFailed, ConnectionLost
from dfs.wire.message import Headers
from tests.unit.node.fakes import FILE_ID, FakeStore, request

DATA = b"a" * PIECE + b"b" * PIECE + b"tail"
CHECKSUM = hashlib.sha256(DATA).hexdigest()


class FakeAnswer:
    """A peer's answer; `error` is raised where it ends too early."""

    def __init__(
        self, status: int = 200, data: bytes = DATA, headers: dict[str, str] | None = None,
        error: Exception | None = None, length: int | None = None,
    ) -> None:  # fmt: skip
        crcs = "".join(f"{zlib.crc32(data[at : at + PIECE]):08x}" for at in range(0, len(data), PIECE))
        facts = {"X-Dfs-Piece-Crcs": crcs, "X-Chunk-Checksum": hashlib.sha256(data).hexdigest()} | (headers or {})
        self.status = status
        self.headers = Headers(facts.items())
        self.length = len(data) if length is None else length
        self.data = data
        self.error = error
        self.closed = False

    def readfully(self, view: memoryview) -> int:
        count = min(len(view), len(self.data))
        if count < len(view) and self.error:
            raise self.error
        view[:count] = self.data[:count]
        self.data = self.data[count:]
        return count

    def read_json(self) -> Any:
        if self.error:
            raise self.error
        return json.loads(self.data)

    def __enter__(self) -> FakeAnswer:
        return self

    def __exit__(self, *_: object) -> None:
        self.closed = True


class Bench:
    def __init__(self, answer: FakeAnswer | Exception) -> None:
        self.store = FakeStore()
        self.standing = Standing(self.store)
        self.buffers = BufferPool(1 << 20)
        self.requests: list[tuple[Any, ...]] = []
        self.answer = answer
        store: Any = self.store
        http: Any = self
        chunks = ChunkEndpoints(
            Intake("n1", store, self.standing, self.buffers, 1 << 20, on_refused=lambda: None)
        )
        self.endpoint = PullEndpoint(
            "c1", chunks, store, self.standing, self.buffers, http, max_chunk_size=1 << 20
        )

    def request(self, host: str, port: int, method: str, target: str, *, headers: Any, **_: Any) -> FakeAnswer:
        self.requests.append((host, port, method, target, headers))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def pull(self, **changes: object) -> Any:
        body = {
            "node_id": "n2", "address": "10.0.0.2", "port": 81, "checksum": CHECKSUM, "length": len(DATA),
            "chunk_size": 1 << 20, "file_size": None,
        } | changes  # fmt: skip
        target = f"/pull-chunk?file_id={FILE_ID}&chunk_index=7"
        return self.endpoint.pull(request("POST", target, json.dumps(body).encode()))


def test_a_pulled_chunk_is_stored_and_answered_like_a_stored_one() -> None:
    bench = Bench(FakeAnswer())
    answer = bench.pull(file_size=len(DATA))
    assert answer.status == 201
    assert json.loads(answer.body) == {
        "node_id": "n1", "file_id": FILE_ID, "chunk_index": 7, "checksum": CHECKSUM, "length": len(DATA)
    }  # fmt: skip
    chunk, data = bench.store.data[FILE_ID, 7]
    assert (data, chunk.chunk_size, chunk.file_size) == (DATA, 1 << 20, len(DATA))
    assert bench.requests == [
        ("10.0.0.2", 81, "GET", f"/get-chunk?file_id={FILE_ID}&chunk_index=7",
         [("X-Dfs-Node", "n2"), ("X-Dfs-Cluster", "c1")])
    ]  # fmt: skip
    assert isinstance(bench.answer, FakeAnswer) and bench.answer.closed
    assert bench.buffers.free_bytes == bench.buffers.total


def test_an_empty_chunk_is_pulled_too() -> None:
    bench = Bench(FakeAnswer(data=b""))
    assert bench.pull(length=0, checksum=hashlib.sha256(b"").hexdigest()).status == 201
    assert bench.store.data[FILE_ID, 7][1] == b""


def test_a_chunk_that_is_here_already_is_verified_and_not_fetched() -> None:
    bench = Bench(FakeAnswer())
    bench.pull()
    assert bench.pull().status == 201
    assert len(bench.requests) == 1


def test_a_copy_here_that_does_not_verify_is_fetched_anew() -> None:
    bench = Bench(FakeAnswer())
    bench.store.put(FILE_ID, 7, DATA, checksum=None, chunk_size=1 << 20, file_size=None)
    bench.store.bad = CorruptChunk("bit rot")
    assert bench.pull().status == 201
    assert len(bench.requests) == 1


def test_a_copy_here_whose_header_is_damaged_is_fetched_anew() -> None:
    bench = Bench(FakeAnswer())
    bench.store.put(FILE_ID, 7, DATA, checksum=None, chunk_size=1 << 20, file_size=None)

    def stat(file_id: str, chunk_index: int) -> None:
        raise CorruptChunk("its record is damaged")

    bench.store.stat = stat  # type: ignore[method-assign, assignment]
    assert bench.pull().status == 201
    assert len(bench.requests) == 1


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DRAINED, AdminState.DECOMMISSIONED])
def test_a_node_that_is_leaving_pulls_nothing(state: AdminState) -> None:
    bench = Bench(FakeAnswer())
    bench.standing.admin_state = state
    with pytest.raises(StoreReadOnly, match=state):
        bench.pull()
    assert not bench.requests


def refused_answer() -> FakeAnswer:
    return FakeAnswer(404, json.dumps(NotFound("no such chunk").payload("r")).encode())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda: ConnectFailed("refused"), "refused"),
        (lambda: FakeAnswer(data=DATA[:-1], headers={"X-Chunk-Checksum": CHECKSUM}), f"it has {len(DATA) - 1} bytes"),
        (lambda: FakeAnswer(headers={"X-Chunk-Checksum": "0" * 64}), "with checksum 0000"),
        (lambda: FakeAnswer(headers={"X-Dfs-Piece-Crcs": "0" * 24}), "piece 0 does not have its CRC"),
        (lambda: FakeAnswer(headers={"X-Dfs-Piece-Crcs": ""}), "piece 0 does not have its CRC"),
        (lambda: FakeAnswer(data=DATA[:-4] + b"TAIL", headers={"X-Chunk-Checksum": CHECKSUM}), "other bytes"),
        (lambda: FakeAnswer(data=DATA[:9], headers={"X-Chunk-Checksum": CHECKSUM}, length=len(DATA)), "after 9 of"),
        (
            lambda: FakeAnswer(
                data=DATA[:9], headers={"X-Chunk-Checksum": CHECKSUM}, length=len(DATA), error=ConnectionLost("reset")
            ),
            "reset",
        ),
        (refused_answer, "no such chunk"),
        (lambda: FakeAnswer(502, b"<html>", error=BadAnswer("not JSON")), "the server answered 502"),
        (lambda: FakeAnswer(502, b"", error=ConnectionLost("cut")), "the server answered 502"),
    ],
)
def test_a_bad_source_is_named_and_nothing_is_stored(
    answer: Callable[[], FakeAnswer | Exception], said: str
) -> None:
    bench = Bench(answer())
    with pytest.raises(NoReplica) as refused:
        bench.pull()
    assert refused.value.details == {"source": "n2"}
    assert "node n2 at 10.0.0.2:81 did not give the chunk" in refused.value.message
    assert said in refused.value.message
    assert not bench.store.data
    assert bench.buffers.free_bytes == bench.buffers.total


@pytest.mark.parametrize("error", [NodeFull("full"), StoreReadOnly("failed"), ChunkConflict("other bytes here")])
def test_what_is_wrong_here_is_answered_as_a_store_would_be(error: Exception) -> None:
    bench = Bench(FakeAnswer())
    bench.store.refusal = error
    with pytest.raises(type(error)):
        bench.pull()


def test_a_node_that_takes_nothing_fetches_nothing() -> None:
    bench = Bench(FakeAnswer())
    bench.standing.stopping = True
    with pytest.raises(StoreReadOnly):
        bench.pull()
    assert not bench.requests


def test_a_pull_longer_than_this_node_takes_is_refused() -> None:
    bench = Bench(FakeAnswer())
    with pytest.raises(BadRequest, match="length"):
        bench.pull(length=(1 << 20) + 1)
