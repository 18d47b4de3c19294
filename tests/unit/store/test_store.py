"""What a store promises to one caller."""

from __future__ import annotations

import errno
import hashlib
import random
import uuid
from pathlib import Path

import pytest

from dfs.errors import (
    BadIndex,
    BadRequest,
    Busy,
    ChecksumMismatch,
    ChunkConflict,
    CorruptChunk,
    Gone,
    NodeFull,
    NotFound,
    StartError,
    StoreReadOnly,
    Unavailable,
)
from dfs.store.disk import BLOCK, DIRECT_BYTES
from dfs.store.store import PIECE, ChunkStore, StoreOptions
from tests.support.disk import Faults, MemoryIndex, SimDisk
from tests.support.store_model import reported, small
from tests.unit.store.chunks import (
    FILE,
    FILES,
    OTHER,
    get,
    numbers,
    put,
    real_store,
    reopened,
    set_aside,
    spoil,
    volume_path,
)


def test_a_chunk_is_read_as_it_was_stored(store: ChunkStore) -> None:
    data = b"some bytes"
    stored = put(store, 3, data, chunk_size=1024, file_size=5000, attributes={"colour": "grün"})
    assert stored.checksum == hashlib.sha256(data).hexdigest()
    assert (stored.file_id, stored.chunk_index, stored.length) == (FILE, 3, 10)
    assert (stored.chunk_size, stored.file_size) == (1024, 5000)
    assert store.stat(FILE, 3) == stored
    assert store.verify(FILE, 3) == stored
    assert get(store, 3) == data
    assert store.stat(FILE, 4) is None
    with pytest.raises(NotFound):
        store.open_chunk(FILE, 4)
    with pytest.raises(NotFound):
        store.verify(FILE, 4)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("size", [0, 1, 1000, PIECE, PIECE + 1, 3 * PIECE + 17])
def test_all_sizes_survive_a_restart_with_and_without_the_index(
    kind: type, size: int, disk: SimDisk, index: MemoryIndex
) -> None:
    data = random.Random(size).randbytes(size)
    store = reopened(disk, index)
    put(store, 0, kind(data), file_size=size)
    assert get(store) == data
    store.close()
    for snapshot in (index.snapshot, b""):
        again = reopened(disk, MemoryIndex(snapshot))
        assert get(again) == data
        info = again.stat(FILE, 0)
        assert info is not None
        assert (info.file_size, len(info.piece_crcs)) == (size, -(-size // PIECE))


def test_pieces_are_read_by_number(store: ChunkStore) -> None:
    data = random.Random(1).randbytes(2 * PIECE + 100)
    put(store, 0, data)
    with store.open_chunk(FILE, 0) as reader:
        assert b"".join(map(bytes, reader.pieces(1))) == data[PIECE:]
        assert b"".join(map(bytes, reader.pieces(1, 1))) == data[PIECE : 2 * PIECE]
        assert b"".join(map(bytes, reader.pieces(0, 0))) == data[:PIECE]
        for first, last in ((-1, None), (3, None), (0, 3), (0, 99)):
            with pytest.raises(ValueError, match="has 3 pieces"):
                reader.pieces(first, last)
    put(store, 1, b"short")
    with store.open_chunk(FILE, 1) as reader:
        assert [bytes(piece) for piece in reader.pieces(0, 0)] == [b"short"]
        reader.close()


def test_bytes_that_are_not_what_was_declared_are_not_stored(store: ChunkStore) -> None:
    with pytest.raises(ChecksumMismatch):
        put(store, 0, b"data", checksum="0" * 64)
    assert store.stat(FILE, 0) is None
    assert put(store, 0, b"data", checksum=hashlib.sha256(b"data").hexdigest().upper())


def test_bad_names_are_refused(store: ChunkStore) -> None:
    with pytest.raises(BadRequest):
        put(store, file_id="no-uuid")
    with pytest.raises(BadIndex):
        put(store, -1)
    with pytest.raises(BadRequest, match="4096"):
        put(store, attributes={"long": "x" * 5000})
    assert put(store, file_id=FILE.upper()).file_id == FILE


def test_a_repeat_is_checked_and_not_written_again(store: ChunkStore, disk: SimDisk) -> None:
    first = put(store)
    steps = len(disk.trace)
    assert put(store) == first
    assert len(disk.trace) == steps


def test_other_bytes_are_refused(store: ChunkStore) -> None:
    put(store)
    with pytest.raises(ChunkConflict):
        put(store, 0, b"other")
    assert get(store) == b"data"


def test_a_bad_copy_is_set_aside_and_replaced_by_a_repeat(store: ChunkStore, disk: SimDisk) -> None:
    first = put(store)
    spoil(disk, store)
    with pytest.raises(CorruptChunk):
        get(store)
    assert len(set_aside(disk)) == 1
    second = put(store)
    assert second.sequence > first.sequence
    assert get(store) == b"data"
    assert store.usage().chunks == 0 or len(store.inventory(0, 10)) == 1
    report = reported(store, "corrupt_chunk")[0]
    assert (report.file_id, report.chunk_index, report.volume) == (FILE, 0, 1)
    assert report.set_aside == set_aside(disk)[0]


@pytest.mark.parametrize("at", [0, 20, 100, 130])
def test_a_record_with_a_bad_header_is_corrupt(at: int, store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    spoil(disk, store, at=at)
    for read in (
        lambda: store.open_chunk(FILE, 0),
        lambda: store.stat(FILE, 0),
        lambda: store.verify(FILE, 0),
    ):
        with pytest.raises(CorruptChunk):
            read()
    assert len(set_aside(disk)) == 1
    put(store)
    assert get(store) == b"data"


def test_a_bad_piece_is_never_handed_out(store: ChunkStore, disk: SimDisk) -> None:
    data = random.Random(3).randbytes(3 * PIECE)
    put(store, 0, data)
    spoil(disk, store, at=BLOCK + PIECE + 5)
    with store.open_chunk(FILE, 0) as reader:
        pieces = reader.pieces()
        assert bytes(next(pieces)) == data[:PIECE]
        with pytest.raises(CorruptChunk, match="piece 1"):
            next(pieces)
        assert b"".join(map(bytes, reader.pieces(2))) == data[2 * PIECE :]


def test_a_piece_that_cannot_be_read_is_corrupt(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, bytes(2 * PIECE))
    with store.open_chunk(FILE, 0) as reader:
        disk.faults = Faults(1, errno.EIO)
        with pytest.raises(CorruptChunk, match="cannot be read"):
            list(reader.pieces())
    store._parts.files.close()
    disk.faults = Faults(2, errno.EIO)  # the first call opens the volume
    with pytest.raises(CorruptChunk, match="cannot be read"):
        store.open_chunk(FILE, 0)


def test_a_volume_that_cannot_be_opened_is_no_excuse_to_doubt_its_chunks(
    store: ChunkStore, disk: SimDisk
) -> None:
    put(store)
    store._parts.files.close()
    disk.faults = Faults(1, errno.EMFILE)
    with pytest.raises(Busy):
        store.open_chunk(FILE, 0)
    disk.faults = Faults(1, errno.EIO)
    with pytest.raises(CorruptChunk, match="cannot be opened"):
        store.open_chunk(FILE, 0)
    disk.faults = None
    assert get(store) == b"data"


def test_a_missing_volume_is_reported(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    store._parts.files.close()
    disk.unlink(volume_path(1))
    with pytest.raises(CorruptChunk, match="is missing"):
        store.open_chunk(FILE, 0)
    assert reported(store, "corrupt_chunk")


def test_verify_compares_the_sha256_too(
    store: ChunkStore, disk: SimDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store)
    assert store.last_verified(FILE, 0) is None
    store.verify(FILE, 0)
    assert store.last_verified(FILE, 0) is not None
    assert store.last_verified(OTHER, 0) is None
    monkeypatch.setattr("dfs.store.access.hashlib.sha256", hashlib.sha512)
    with pytest.raises(CorruptChunk, match="SHA-256"):
        store.verify(FILE, 0)


def test_a_drop_hides_a_chunk_and_lets_it_return(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    assert store.drop(FILE, 0)
    assert not store.drop(FILE, 0)
    assert not store.drop(FILE, 7)
    assert store.stat(FILE, 0) is None
    assert store.inventory(0, 10) == []
    put(store, 0, b"other bytes now")
    assert get(reopened(disk)) == b"other bytes now"


def test_an_erased_file_is_gone_for_ever(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    put(store, 1)
    put(store, 0, file_id=OTHER)
    store.note([{"file_id": FILE, "op_id": "1"}, {"file_id": OTHER, "op_id": "2"}])
    store.erase([FILE, FILES[5], FILE])
    store.erase([FILE])
    for again in (store, reopened(disk)):
        for call in (again.stat, again.open_chunk, again.verify):
            with pytest.raises(Gone):
                call(FILE, 0)
        with pytest.raises(Gone):
            put(again, 5)
        with pytest.raises(Gone):
            put(again, 0, file_id=FILES[5])
        assert not again.drop(FILE, 0)
        again.note([{"file_id": FILE, "op_id": "3"}])
        assert [note.note["op_id"] for note in again.notes(0, 10)] == ["2"]
        assert get(again, 0, OTHER) == b"data"
        assert again.usage().chunks <= 1


def test_many_files_are_erased_at_once(store: ChunkStore) -> None:
    names = [str(uuid.UUID(int=n << 80 | 0x40008000 << 64, version=4)) for n in range(600)]
    store.erase(names)
    for name in (names[0], names[300], names[599]):
        with pytest.raises(Gone):
            store.stat(name, 0)


def test_notes_are_kept_once_and_listed_in_order(store: ChunkStore, disk: SimDisk) -> None:
    notes = [{"op_id": str(n), "file_id": FILE, "path": "ü/" * 30} for n in range(20)]
    store.note(notes[:12])
    store.note(notes[5:])
    store.note(notes)
    store.note([])
    for again in (store, reopened(disk)):
        found = again.notes(0, 100)
        assert [note.note for note in found] == notes
        assert again.notes(found[4].sequence, 3) == found[5:8]


def test_bad_notes_are_refused(store: ChunkStore) -> None:
    with pytest.raises(BadRequest, match="65536"):
        store.note([{"op_id": "x" * 70_000}])
    for bad in ({"x": object()}, {"x": float("nan")}, {"x": "\ud800"}):
        with pytest.raises(BadRequest, match="JSON"):
            store.note([bad])
    store.note([{"file_id": 7}, {"file_id": "not a uuid"}])
    assert len(store.notes(0, 10)) == 2


@pytest.mark.parametrize("at", [20, 150])
def test_a_spoilt_note_is_left_out_and_reported(at: int, store: ChunkStore, disk: SimDisk) -> None:
    store.note([{"op_id": "1"}, {"op_id": "2"}])
    first = store._parts.catalog.ask(lambda index: index.notes_after(0, 1))[0]
    disk.files[volume_path(first[1])].cache[first[2] + at] ^= 1
    assert [note.note["op_id"] for note in store.notes(0, 10)] == ["2"]
    assert reported(store, "corrupt_record")


def test_notes_are_read_over_a_failing_disk_as_far_as_it_goes(store: ChunkStore, disk: SimDisk) -> None:
    store.note([{"op_id": "x" * 9000}])
    store.notes(0, 1)
    disk.faults = Faults(2, errno.EIO)
    assert store.notes(0, 10) == []
    disk.faults = None
    store._parts.files.close()
    disk.unlink(volume_path(1))
    with pytest.raises(Unavailable, match="missing"):
        store.notes(0, 10)


def test_the_inventory_is_paged_by_sequence(store: ChunkStore) -> None:
    stored = [put(store, index, bytes(index)) for index in range(7)]
    store.drop(FILE, 3)
    listed = store.inventory(0, 100)
    assert [chunk.chunk_index for chunk in listed] == [0, 1, 2, 4, 5, 6]
    assert all(chunk.piece_crcs == () for chunk in listed)
    assert [chunk.checksum for chunk in listed[:3]] == [chunk.checksum for chunk in stored[:3]]
    assert store.inventory(listed[2].sequence, 2) == listed[3:5]
    assert store.inventory(listed[-1].sequence, 10) == []


def test_usage_counts(store: ChunkStore, disk: SimDisk) -> None:
    for index in range(5):
        put(store, index)
    store.inventory(0, 1)
    usage = store.usage()
    assert usage.chunks == 5
    assert usage.used_bytes == len(disk.files[volume_path(1)].cache)
    assert usage.read_only_reason is None
    assert usage.capacity_bytes == disk.capacity
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"space"}))
    assert store.usage().full
    assert "failed" in (store.usage().read_only_reason or "")
    with pytest.raises(NodeFull, match="cannot be told"):
        put(store, 9)


def test_a_record_larger_than_a_volume_gets_one_of_its_own(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, b"small")
    for index in (1, 2):
        put(store, index, bytes(9000))
    put(store, 3, b"small")
    assert len(numbers(store)) == 4
    assert get(reopened(disk), 2) == bytes(9000)


def test_a_closed_store_takes_nothing(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    store.close()
    store.close()
    with pytest.raises((StoreReadOnly, Unavailable)):
        put(store, 1)
    with pytest.raises(Unavailable):
        store.open_chunk(FILE, 0)
    assert store.usage().read_only_reason == "the store is closing"
    again = reopened(disk)
    assert get(again) == b"data"
    assert again.reports() == [], "a clean stop leaves nothing to find"


def test_a_real_directory_is_locked_and_found_again(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    put(store, 0, b"on a real disk")
    with pytest.raises(StartError, match="in use"):
        real_store(tmp_path)
    store.close()
    again = real_store(tmp_path)
    assert get(again) == b"on a real disk"
    assert again.reports() == []
    again.close()


def test_a_start_that_fails_releases_the_directory(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    put(store)
    store.close()
    (tmp_path / "set-aside").rmdir()
    (tmp_path / "set-aside").touch()
    with pytest.raises(StartError, match="cannot be used"):
        real_store(tmp_path)
    (tmp_path / "set-aside").unlink()
    identity = store.identity
    foreign = type(identity)("n2", identity.disk_id[::-1], "c1", 1)
    with pytest.raises(StartError, match="belongs to disk"):
        ChunkStore.open(tmp_path, foreign, small())
    again = real_store(tmp_path)
    assert get(again) == b"data"
    again.close()


def test_the_defaults_are_those_of_the_settings() -> None:
    options = StoreOptions()
    assert options.volume_size == 256 << 20
    assert options.reserve == 512 << 20
    options.on_fatal("the disk failed")


def test_a_large_body_begins_with_a_block_of_the_disk(tmp_path: Path) -> None:
    rng = random.Random(5)
    sizes = [10, DIRECT_BYTES, 1, DIRECT_BYTES + 1, 77, DIRECT_BYTES - 1, 3 * PIECE + 12345, DIRECT_BYTES]
    chunks = [rng.randbytes(size) for size in sizes]
    store = real_store(tmp_path, volume_size=1 << 20)
    for index, data in enumerate(chunks):
        stored = put(store, index, data, attributes={"n": str(index)})
        assert store.stat(FILE, index) == stored
    store.close()
    volumes = [path.read_bytes() for path in (tmp_path / "volumes").iterdir()]
    large = [data for data in chunks if len(data) >= DIRECT_BYTES]
    starts = [volume.index(data) for data in large for volume in volumes if data in volume]
    assert len(starts) == len(large) == 4
    assert [start % BLOCK for start in starts] == [0] * 4
    again = real_store(tmp_path)
    assert [get(again, index) for index in range(len(chunks))] == chunks
    assert [again.verify(FILE, index).length for index in range(len(chunks))] == sizes
    again.close()


def test_attributes_too_long_to_be_stretched_leave_a_large_body_where_it_falls(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    for index in range(8):
        put(store, index, bytes([index]) * DIRECT_BYTES, attributes={"note": "x" * (3500 + index)})
    assert [get(store, index)[:1] for index in range(8)] == [bytes([index]) for index in range(8)]
    store.close()
