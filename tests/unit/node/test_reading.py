"""dfs.node.reading: what is sent of a chunk, verified here or by the caller, on a real store."""

from __future__ import annotations

import hashlib
import random
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.errors import BadRequest, CorruptChunk, NotFound, RangeNotSatisfiable
from dfs.node.reading import IDLE_BUFFERS, ReadEndpoint
from dfs.store.identity import DiskIdentity
from dfs.store.store import PIECE, ChunkStore
from dfs.wire.message import Response
from tests.unit.node.fakes import FILE_ID, request

GET = f"/get-chunk?file_id={FILE_ID}&chunk_index=4"
BY_CALLER = ("X-Dfs-Verify", "caller")
SMALL = 64 * 1024


class Bench:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = ChunkStore.open(directory, DiskIdentity("n1", str(uuid.uuid4()), "c1", 1))
        self.endpoint = ReadEndpoint("n1", self.store)

    def put(self, data: bytes) -> None:
        self.store.put(FILE_ID, 4, data, checksum=None, chunk_size=max(1, len(data)), file_size=None)

    def get(self, *headers: tuple[str, str]) -> Response:
        return self.endpoint.get(request("GET", GET, headers=headers))

    def rot(self, data: bytes, at: int) -> None:
        """Flip a bit of byte `at` of the stored bytes `data`."""
        (path,) = (path for path in self.directory.glob("volumes/*.vol") if data in path.read_bytes())
        content = bytearray(path.read_bytes())
        content[content.index(data) + at] ^= 1
        with path.open("r+b") as file:
            file.write(content)

    @property
    def users(self) -> int:
        """Readers that hold a volume file."""
        return sum(shared.users for shared in self.store._parts.files._open.values())

    @property
    def set_aside(self) -> list[str]:
        return [report.kind for report in self.store.reports()]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    assert made.users == 0
    assert len(made.endpoint._scratch._idle) <= IDLE_BUFFERS
    made.store.close()


def read(response: Response) -> bytes:
    body: Any = response.body
    if isinstance(body, memoryview):
        return bytes(body)
    pieces = iter(body)
    data = b"".join(bytes(piece) for piece in pieces)
    body.close()
    assert response.length == len(data)
    return data


@pytest.mark.parametrize("verify", [(), (BY_CALLER,)])
@pytest.mark.parametrize("size", [0, 1, 1024, SMALL, SMALL + 1, PIECE, PIECE + 1, 3 * PIECE])
def test_a_chunk_comes_back_as_it_was_stored(bench: Bench, rng: random.Random, size: int, verify: Any) -> None:
    data = rng.randbytes(size)
    bench.put(data)
    found = bench.get(*verify)
    headers = dict(found.headers)
    assert headers["X-Chunk-Checksum"] == hashlib.sha256(data).hexdigest()
    assert headers["X-Dfs-Chunk-Length"] == str(size)
    assert headers["X-Dfs-Node"] == "n1"
    assert headers["X-Dfs-Piece-Crcs"] == "".join(
        f"{zlib.crc32(data[at : at + PIECE]):08x}" for at in range(0, size, PIECE)
    )
    assert read(found) == data


@pytest.mark.parametrize("verify", [(), (BY_CALLER,)])
@pytest.mark.parametrize(("first", "last"), [(0, 0), (1, 1), (2, 2), (0, 1), (1, 2)])
def test_pieces_are_sent_alone_with_their_own_crcs(bench: Bench, first: int, last: int, verify: Any) -> None:
    data = b"a" * PIECE + b"b" * PIECE + b"c" * 10
    bench.put(data)
    found = bench.get(("X-Dfs-Pieces", f"{first}-{last}"), *verify)
    assert read(found) == data[first * PIECE : (last + 1) * PIECE]
    assert len(dict(found.headers)["X-Dfs-Piece-Crcs"]) == 8 * (last - first + 1)


@pytest.mark.parametrize("verify", [(), (BY_CALLER,)])
def test_nothing_stays_open_when_the_pieces_asked_for_are_refused(bench: Bench, verify: Any) -> None:
    bench.put(b"abc")
    for pieces, error in [("0-1", RangeNotSatisfiable), ("1-0", BadRequest), ("x", BadRequest)]:
        with pytest.raises(error):
            bench.get(("X-Dfs-Pieces", pieces), *verify)
    with pytest.raises(BadRequest):
        bench.get(BY_CALLER, BY_CALLER)


def test_a_chunk_that_is_not_here(bench: Bench) -> None:
    with pytest.raises(NotFound):
        bench.get(BY_CALLER)


@pytest.mark.parametrize(("size", "at"), [(1000, 7), (SMALL, SMALL - 1), (2 * PIECE, 5), (2 * PIECE, PIECE)])
def test_bytes_that_rotted_are_sent_only_to_a_caller_who_checks(
    bench: Bench, rng: random.Random, size: int, at: int
) -> None:
    data = rng.randbytes(size)
    bench.put(data)
    bench.rot(data, at)
    sent = read(bench.get(BY_CALLER))
    assert [place for place in range(size) if sent[place] != data[place]] == [at]
    assert bench.set_aside == []
    taken: list[bytes] = []
    body: Any = None
    with pytest.raises(CorruptChunk):
        body = bench.get().body
        for piece in body:
            taken.append(bytes(piece))
    if body is not None:
        body.close()
    assert b"".join(taken) == data[: at // PIECE * PIECE]
    assert bench.set_aside == ["corrupt_chunk"]


def test_a_record_whose_header_rotted_is_refused_to_every_caller(bench: Bench, rng: random.Random) -> None:
    data = rng.randbytes(3000)
    bench.put(data)
    bench.rot(data, -10)  # the CRC of the header is just before the bytes
    for verify in ((), (BY_CALLER,)):
        with pytest.raises(CorruptChunk):
            bench.get(*verify)


def test_bytes_that_are_not_all_there_break_the_answer_off(bench: Bench, rng: random.Random) -> None:
    data = rng.randbytes(2 * PIECE)
    bench.put(data)
    body: Any = bench.get(BY_CALLER).body
    pieces = iter(body)
    assert bytes(next(pieces)) == data[:PIECE]
    (volume,) = (path for path in bench.directory.glob("volumes/*.vol") if data in path.read_bytes())
    with volume.open("r+b") as file:
        file.truncate(volume.read_bytes().index(data) + PIECE + 100)
    with pytest.raises(CorruptChunk):
        next(pieces)
    body.close()


def test_buffers_are_used_again(bench: Bench, rng: random.Random) -> None:
    bench.put(rng.randbytes(2 * PIECE))
    for _ in range(3):
        read(bench.get(BY_CALLER))
    assert len(bench.endpoint._scratch._idle) == 1
    unread: Any = bench.get(BY_CALLER).body
    unread.close()
    unread.close()
    assert len(bench.endpoint._scratch._idle) == 1


def test_an_answer_outlives_the_volume_it_comes_from(bench: Bench, rng: random.Random) -> None:
    data = rng.randbytes(3 * PIECE)
    bench.put(data)
    body: Any = bench.get(BY_CALLER).body
    pieces = iter(body)
    found = bytes(next(pieces))
    for path in bench.directory.glob("volumes/*.vol"):
        path.unlink()
    bench.store._parts.files.forget(1)
    assert found + b"".join(bytes(piece) for piece in pieces) == data
    body.close()
