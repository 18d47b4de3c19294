"""Batches of chunks: one sync for all, an answer for each; and checksums that are declared."""

from __future__ import annotations

import errno
import hashlib
import random
import sqlite3
import threading
import zlib
from typing import Any

import pytest

from dfs.chunkbatch import NewChunk
from dfs.errors import (
    BadIndex,
    BadRequest,
    Busy,
    ChecksumMismatch,
    ChunkConflict,
    DfsError,
    Gone,
    NodeFull,
    StoreReadOnly,
    Unavailable,
)
from dfs.store.room import Room
from dfs.store.store import PIECE, ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk
from tests.support.store_model import DIRECTORY, check_index, open_store, small
from tests.unit.store.chunks import FILE, FILES, OTHER, get, put, reopened, set_aside, spoil
from tests.unit.store.test_commit import Gate, Threads, queued, syncs


@pytest.fixture
def store(disk: SimDisk, index: MemoryIndex) -> ChunkStore:
    opened = open_store(disk, index, small(volume_size=1 << 20))
    put(opened, 999)  # the volume is there
    return opened


def new(index: int, data: bytes = b"data", file_id: str = FILE, **more: Any) -> NewChunk:
    made = NewChunk(file_id, index, data, hashlib.sha256(data).hexdigest(), zlib.crc32(data), 1 << 20, None)
    return made._replace(**more)


def kinds(outcomes: list[DfsError | None]) -> list[type | None]:
    return [None if outcome is None else type(outcome) for outcome in outcomes]


def test_a_batch_is_durable_with_one_write_and_one_sync(store: ChunkStore, disk: SimDisk) -> None:
    before = len(disk.trace)
    chunks = [new(number, b"x" * number, file_size=number) for number in range(50)]
    assert store.put_many(chunks) == [None] * 50
    assert [event[0] for event in disk.trace[before:]] == ["write", "sync"]
    for again in (store, reopened(disk)):
        for number in range(50):
            assert get(again, number) == b"x" * number
            info = again.stat(FILE, number)
            assert info is not None
            assert (info.chunk_size, info.file_size) == (1 << 20, number)
            assert again.verify(FILE, number) == info
    assert store.put_many([]) == []


def test_each_chunk_of_a_batch_has_an_answer_of_its_own(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, b"there")
    put(store, 1, b"other bytes")
    store.erase([OTHER])
    before = syncs(disk)
    outcomes = store.put_many(
        [
            new(0, b"there"),
            new(1, b"not these"),
            new(2, b"new"),
            new(0, b"gone", OTHER),
            new(3, b"wrong", crc32=1),
            new(4, b"no checksum", checksum="xyz"),
            new(-1),
            new(5, b"x" * (PIECE + 1)),
            new(0, b"no uuid", "no-uuid"),
            new(6, b"new too"),
        ]
    )
    assert kinds(outcomes) == [
        None, ChunkConflict, None, Gone, ChecksumMismatch, BadRequest, BadIndex, BadRequest, BadRequest, None,
    ]  # fmt: skip
    assert syncs(disk) - before == 1
    assert [get(store, index) for index in (0, 1, 2, 6)] == [b"there", b"other bytes", b"new", b"new too"]
    assert all(store.stat(FILE, index) is None for index in (3, 4, 5))
    check_index(store)


def test_the_same_chunk_twice_in_one_batch(store: ChunkStore, disk: SimDisk) -> None:
    before = len(disk.trace)
    outcomes = store.put_many(
        [new(0, b"one"), new(0, b"one"), new(0, b"two"), new(1, b""), new(0, b"one"), new(1, b"")]
    )
    assert kinds(outcomes) == [None, None, ChunkConflict, None, None, None]
    assert [event[0] for event in disk.trace[before:]] == ["write", "sync"]
    assert get(store, 0) == b"one"
    assert [chunk.chunk_index for chunk in store.inventory(0, 10)] == [999, 0, 1]


def test_a_repeat_replaces_a_bad_copy(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    spoil(disk, store)
    assert store.put_many([new(0), new(1)]) == [None, None]
    assert len(set_aside(disk)) == 1
    assert get(store, 0) == b"data"


def test_a_failing_sync_acknowledges_nothing_of_the_batch(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    disk.faults = Faults(1, errno.EIO, only=frozenset({"sync"}))
    outcomes = store.put_many([new(0), new(1), new(2), new(1)])
    disk.faults = None
    assert kinds(outcomes) == [None, StoreReadOnly, StoreReadOnly, None], "the repeat of the failed one succeeds"
    assert store.stat(FILE, 2) is None
    for index in (0, 1):
        assert get(reopened(disk), index) == b"data"
    assert reopened(disk).stat(FILE, 2) is None


@pytest.mark.parametrize("lasting", [False, True])
def test_a_full_disk_refuses_the_batch_and_takes_it_later(
    store: ChunkStore, disk: SimDisk, lasting: bool
) -> None:
    disk.faults = Faults(1, errno.ENOSPC, lasting, frozenset({"write"}))
    batch = [new(number) for number in range(4)]
    assert kinds(store.put_many(batch)) == [NodeFull] * 4
    disk.faults = None
    assert [chunk.chunk_index for chunk in store.inventory(0, 9)] == [999]
    assert store.put_many(batch) == [None] * 4
    assert get(reopened(disk), 3) == b"data"


def test_an_index_that_cannot_be_asked_stores_nothing(store: ChunkStore, index: MemoryIndex) -> None:
    def fail(sql: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    index.faults = fail
    assert kinds(store.put_many([new(0), new(1)])) == [Unavailable] * 2
    index.faults = None
    assert store.stat(FILE, 0) is None


def test_a_batch_larger_than_a_volume_goes_to_several(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=4096))
    chunks = [new(number, bytes([number]) * 900) for number in range(12)]
    assert store.put_many(chunks) == [None] * 12
    assert max(volume.end for volume in store._parts.volumes.all()) <= 4096
    assert all(get(reopened(disk), number) == bytes([number]) * 900 for number in range(12))


def test_part_of_a_batch_fails_and_what_was_stored_stays(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=4096))
    disk.faults = Faults(3, errno.EIO, only=frozenset({"sync"}))  # header, first group, second group
    outcomes = store.put_many([new(number, bytes([number]) * 900) for number in range(3)])
    disk.faults = None
    assert kinds(outcomes) == [None, StoreReadOnly, None]
    again = reopened(disk)
    assert [again.stat(FILE, number) is not None for number in range(3)] == [True, False, True]


# --- beside other calls ---


def test_a_batch_joins_the_stores_that_run(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    threads.start(store.put_many, [new(0), new(1), new(0, b"other")])
    gate.open.set()
    first, outcomes = threads.join()
    assert first.chunk_index == 0
    assert kinds(outcomes) == [None, None, ChunkConflict]
    assert [chunk.chunk_index for chunk in store.inventory(0, 10)] == [999, 0, 1]


def test_a_store_joins_a_batch_that_runs(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(store.put_many, [new(0), new(1)])
    gate.reached.acquire()
    threads.start(put, store, 1)
    threads.start(put, store, 0, b"other")
    gate.open.set()
    outcomes, joined, refused = threads.join()
    assert outcomes == [None, None]
    assert joined == store.stat(FILE, 1)
    assert isinstance(refused, ChunkConflict)


def test_batches_of_the_same_chunks_in_any_order_do_not_wait_for_each_other_for_ever(
    store: ChunkStore, disk: SimDisk
) -> None:
    rng = random.Random(1)
    threads = Threads()
    for _ in range(8):
        batch = [new(number % 20, b"%d" % number, FILES[number % 3]) for number in range(20)]
        rng.shuffle(batch)
        threads.start(store.put_many, batch)
    assert threads.join() == [[None] * 20] * 8
    assert len(store.inventory(0, 100)) == 21
    assert store._parts.claims._held == {}


def test_an_erase_beats_the_batch_that_runs(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 50)
    gate.reached.acquire()
    threads.start(store.erase, [OTHER])
    threads.start(store.put_many, [new(0), new(0, b"x", OTHER)])
    while queued(store) < 2:
        threading.Event().wait(0.001)
    gate.open.set()
    outcomes = threads.join()[2]
    assert kinds(outcomes) == [None, Gone]
    assert get(store, 0) == b"data"
    with pytest.raises(Gone):
        store.open_chunk(OTHER, 0)
    assert not store._parts.claims.void
    check_index(store)


def test_nobody_joins_a_store_whose_file_was_erased_meanwhile(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, options=small(volume_size=4096))
    storing, claims, threads = store._storing, store._parts.claims, Threads()
    write, take_many, met = storing._write, claims.take_many, threading.Event()

    def take_and_tell(wanted: Any) -> Any:
        taken = take_many(wanted)
        met.set()
        return taken

    def write_and_erase(appends: Any) -> None:
        write(appends)
        if appends[0].chunk_index == 1:  # the second group: the first is stored, and its claim still held
            store.erase([OTHER])
            claims.take_many = take_and_tell  # type: ignore[method-assign]
            threads.start(store.put_many, [new(0, b"a" * 1000, OTHER)])
            met.wait()

    storing._write = write_and_erase
    outcomes = store.put_many([new(0, b"a" * 1000, OTHER), new(1, b"b" * 1000)])
    assert kinds(outcomes) == [None, None], "its chunk was stored before the erase"
    assert [kinds(found) for found in threads.join()] == [[Gone]]
    store.close()


def test_writers_are_told_when_the_index_is_too_far_behind(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(index_batch=1, pending_limit=2, volume_size=1 << 20))

    def fail(sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            raise sqlite3.OperationalError("database or disk is full")

    index.faults = fail
    assert store.put_many([new(number) for number in range(5)]) == [None] * 5
    assert kinds(store.put_many([new(number) for number in range(5, 8)])) == [Busy] * 3


# --- checksums that are declared ---


def test_a_checksum_vouched_for_by_piece_crcs_is_recorded_as_declared(store: ChunkStore) -> None:
    data = random.Random(2).randbytes(2 * PIECE + 5)
    crcs = tuple(zlib.crc32(data[at : at + PIECE]) for at in range(0, len(data), PIECE))
    checksum = hashlib.sha256(data).hexdigest()
    stored = put(store, 0, data, checksum=checksum.upper(), piece_crcs=crcs)
    assert (stored.checksum, stored.piece_crcs) == (checksum, crcs)
    assert store.verify(FILE, 0) == stored
    assert get(store) == data
    assert put(store, 1, b"", checksum=hashlib.sha256(b"").hexdigest(), piece_crcs=()).length == 0
    with pytest.raises(BadRequest, match="3 pieces"):
        put(store, 2, b"data", checksum=checksum, piece_crcs=crcs)
    with pytest.raises(BadRequest, match="64 hex"):
        put(store, 2, b"data", checksum="ab", piece_crcs=(zlib.crc32(b"data"),))


def test_a_checksum_that_was_declared_wrongly_is_found_by_verify(store: ChunkStore) -> None:
    put(store, 0, b"data", checksum="ab" * 32, piece_crcs=(zlib.crc32(b"data"),))
    with pytest.raises(DfsError, match="SHA-256"):
        store.verify(FILE, 0)


# --- room ---


class Now:
    def __init__(self) -> None:
        self.ms = 1000

    def __call__(self) -> int:
        return self.ms


def test_space_is_measured_once_in_a_while_when_there_is_plenty() -> None:
    disk, now, calls = SimDisk(capacity=1 << 30), Now(), []
    disk.faults = lambda name: bool(calls.append(name))
    room = Room(disk, DIRECTORY, 1 << 20, now)
    for _ in range(100):
        room.check(1 << 10)
    assert calls == ["space"]
    now.ms += 250
    room.check(0)
    assert calls == ["space"] * 2
    now.ms -= 1000  # a clock that was set back
    room.check(0)
    assert calls == ["space"] * 3


def test_what_was_written_since_the_measurement_counts() -> None:
    disk, now = SimDisk(capacity=100 << 20), Now()
    room = Room(disk, DIRECTORY, 1 << 20, now)
    taken = 0
    with pytest.raises(NodeFull):
        while True:
            room.check(1 << 20)
            disk.capacity -= 1 << 20
            taken += 1
    assert taken == 99


def test_close_to_the_reserve_every_store_measures() -> None:
    disk, now = SimDisk(capacity=64 << 20), Now()
    room = Room(disk, DIRECTORY, 1 << 20, now)
    room.check(1 << 10)
    disk.capacity = 1 << 20
    with pytest.raises(NodeFull, match="in reserve"):
        room.check(0)
    disk.faults = Faults(1, errno.EIO, lasting=True)
    with pytest.raises(NodeFull, match="cannot be told"):
        room.check(0)
