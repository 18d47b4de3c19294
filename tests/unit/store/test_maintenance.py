"""What a store does by itself, with its threads and without."""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.errors import StoreReadOnly, Unavailable
from dfs.store import maintenance
from dfs.store.chunk import CompactionResult
from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk
from tests.support.store_model import check_index, open_store, reported, small
from tests.unit.store.chunks import FILE, get, numbers, put, real_store, reopened, volume_path
from tests.unit.store.test_commit import wait_until


def damage(index: MemoryIndex) -> Callable[[], None]:
    """Every statement finds the database malformed, until the returned function is called or it is
    discarded."""
    before = index.discarded

    def fail(sql: str) -> None:
        if index.discarded == before:
            raise sqlite3.DatabaseError("database disk image is malformed")

    index.faults = fail

    def mend() -> None:
        index.faults = None

    return mend


def test_a_damaged_index_is_rebuilt_by_the_next_call(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    for number in range(5):
        put(store, number)
    store.drop(FILE, 2)
    store.note([{"op_id": "1"}])
    store.inventory(0, 1)
    damage(index)
    with pytest.raises(Unavailable):
        store.stat(FILE, 0)
    assert get(store) == b"data"
    assert index.discarded == 1
    assert reported(store, "index_discarded")
    assert store.stat(FILE, 2) is None
    assert len(store.notes(0, 9)) == 1
    put(store, 7)
    check_index(store)


def test_records_not_yet_indexed_are_found_while_the_index_is_rebuilt(
    store: ChunkStore, index: MemoryIndex
) -> None:
    put(store, 0)
    store.inventory(0, 1)
    put(store, 1)
    store._parts.catalog.report_damage(Exception("test"))
    catalog, seen = store._parts.catalog, []

    def make() -> object:
        seen.append(catalog.find((uuid.UUID(FILE).bytes, 1)))
        with pytest.raises(Unavailable, match="being rebuilt"):
            catalog.find((uuid.UUID(FILE).bytes, 0))
        with pytest.raises(Unavailable, match="being rebuilt"):
            catalog.change((), None, remove=(), forget=(), sequence=0)
        return store._maintenance._make_index()

    catalog.replace_index(make)  # type: ignore[arg-type]
    assert seen[0][1].chunk_index == 1
    assert get(store, 0) == get(store, 1) == b"data"
    check_index(store)


def test_a_rebuild_that_fails_is_tried_again(store: ChunkStore, disk: SimDisk, index: MemoryIndex) -> None:
    put(store)
    store.inventory(0, 1)
    store._parts.catalog.report_damage(Exception("test"))
    disk.faults = Faults(1, 5, lasting=True, only=frozenset({"open"}))
    for _ in range(2):
        with pytest.raises(Unavailable, match="cannot be rebuilt"):
            store.stat(FILE, 0)
    with pytest.raises(Unavailable):
        store.inventory(0, 1)
    disk.faults = None
    assert get(store) == b"data"


def test_an_index_that_points_to_something_else_is_rebuilt(store: ChunkStore, index: MemoryIndex) -> None:
    put(store, 0, b"one")
    put(store, 1, b"two")
    store.inventory(0, 1)
    found = store._parts.catalog.index
    assert found is not None
    first, second = found.chunks_after(0, 9)
    found.apply([first._replace(sequence=99, offset=second.offset, size=second.size)])
    with pytest.raises(Unavailable, match="will be rebuilt"):
        store.open_chunk(FILE, 0)
    assert get(store, 0) == b"one"
    check_index(store)


def test_a_rebuild_stops_when_the_store_closes(
    disk: SimDisk, index: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.store.rebuild._BATCH", 2)
    store = open_store(disk, index)
    for number in range(5):
        put(store, number)
    store._maintenance._stopping.set()
    store._parts.catalog.report_damage(Exception("test"))
    assert not store._maintenance._mend()
    store.close()
    assert get(reopened(disk, MemoryIndex(index.snapshot)), 4) == b"data"


def test_damage_found_by_a_rebuild_is_set_aside(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    place = store._parts.volumes.all()[0].end
    put(store, 1)
    put(store, 2)
    disk.files[volume_path(1)].cache[place] ^= 1
    store._parts.catalog.report_damage(Exception("test"))
    assert get(store, 2) == b"data"
    assert store.stat(FILE, 1) is None
    assert reported(store, "corrupt_region")


def test_what_a_rebuild_cannot_read_is_read_by_the_next_start(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index)
    put(store, 0)
    store.close()
    store = reopened(disk, index)
    put(store, 1)
    store._parts.files.close()
    store._parts.catalog.report_damage(Exception("test"))
    reads = 0

    def unreadable(name: str) -> bool:
        nonlocal reads
        reads += name == "read"
        if name == "read" and reads <= 3:
            raise OSError(5, "I/O error")
        return False

    disk.faults = unreadable
    assert store.stat(FILE, 0) is None
    disk.faults = None
    assert get(store, 1) == b"data"
    assert store.compact([1]).moved_records == 0, "a volume that could not be read was compacted"
    store.close()
    again = reopened(disk, MemoryIndex(index.snapshot))
    assert get(again, 0) == get(again, 1) == b"data"
    check_index(again)


def test_an_idle_store_marks_its_volume_once(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(idle_seconds=0.0))
    put(store)
    size = store.usage().used_bytes
    store._maintenance.tend_once()
    marked = store.usage().used_bytes
    assert marked == size + 136
    store._maintenance.tend_once()
    assert store.usage().used_bytes == marked
    assert index.history


def test_a_store_that_was_written_to_just_now_is_not_marked(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(idle_seconds=1e9))
    put(store)
    size = store.usage().used_bytes
    store._maintenance.tend_once()
    assert store.usage().used_bytes == size


def test_maintenance_goes_on_when_something_fails(
    disk: SimDisk, index: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.store.maintenance._RETRY_SECONDS", 0.0)
    store = open_store(disk, index, small(idle_seconds=0.0))
    put(store)
    disk.faults = Faults(1, 5, only=frozenset({"sync"}))
    store._maintenance.tend_once()  # the MARK fails
    disk.faults = None
    mend = damage(index)
    store._maintenance.tend_once()  # the flush fails, and finds the damage
    mend()
    put_after = threading.Event()
    rounds = 0
    tend_once = store._maintenance.tend_once

    def tend() -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 1:
            raise RuntimeError("a bug")
        tend_once()
        put_after.set()

    monkeypatch.setattr(store._maintenance, "tend_once", tend)
    store.start_maintenance()
    assert put_after.wait(30)
    assert get(store) == b"data"
    store.close()


def test_the_compaction_thread_goes_on_when_something_fails(
    disk: SimDisk, index: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(disk, index, small(compact_interval=0.001))
    failures: list[Exception] = [Unavailable("not now"), RuntimeError("a bug")]
    done = threading.Event()

    def compact(volumes: object) -> CompactionResult:
        if failures:
            raise failures.pop()
        done.set()
        return CompactionResult()

    monkeypatch.setattr(store._maintenance, "compact", compact)
    store.start_maintenance()
    store.start_maintenance()
    assert done.wait(30)
    store.close()


def test_a_full_disk_is_compacted_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maintenance, "_TIGHT_SECONDS", 0.01)
    store = real_store(tmp_path, compact_interval=3600, compact_bytes_per_second=1 << 40)
    for number in range(120):
        put(store, number, bytes(2000))
    for number in range(120):
        assert store.drop(FILE, number)
    assert 1 in numbers(store)
    monkeypatch.setattr(store._room, "tight", lambda: 1 << 30)
    store.start_maintenance()
    wait_until(lambda: 1 not in numbers(store))
    store.close()


def test_the_threads_index_and_compact(tmp_path: Path) -> None:
    store = real_store(tmp_path, compact_interval=0.01, idle_seconds=0.01, compact_bytes_per_second=1 << 40)
    store.start_maintenance()
    for number in range(120):
        put(store, number, bytes(2000))
    for number in range(90):
        assert store.drop(FILE, number)
    wait_until(lambda: 1 not in numbers(store))
    wait_until(lambda: store.usage().chunks == 30)
    assert all((store.stat(FILE, number) is None) == (number < 90) for number in range(120))
    store.close()
    again = real_store(tmp_path)
    assert again.reports() == []
    assert len(again.inventory(0, 1000)) == 30
    again.close()


def test_writers_wait_for_the_index_thread(real: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(300):  # more than the pending limit of 64
        put(real, number)
    assert len(real.inventory(0, 1000)) == 300


def test_a_damaged_index_is_rebuilt_by_the_thread(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    store.start_maintenance()
    put(store)
    store._parts.catalog.report_damage(Exception("test"))
    wait_until(lambda: store._parts.catalog.damage is None)
    assert get(store) == b"data"
    store.close()


def test_the_ballast_is_made_when_there_is_room_and_only_then(disk: SimDisk) -> None:
    store = open_store(disk, MemoryIndex(), small(ballast_bytes=5000))
    assert len(disk.files["/disk/ballast"].cache) == 5000
    ballast = store._parts.ballast
    assert ballast.release()
    assert not ballast.release()
    disk.capacity = disk.used + 100
    ballast.take()
    assert "/disk/ballast" not in disk.files
    disk.capacity = 1 << 20
    ballast.take()
    ballast.take()
    assert len(disk.files["/disk/ballast"].cache) == 5000
    del disk.files["/disk/ballast"].cache[100:]
    open_store(disk, MemoryIndex(), small(ballast_bytes=5000))
    assert len(disk.files["/disk/ballast"].cache) == 5000
    disk.faults = Faults(1, 5, only=frozenset({"unlink"}))
    assert not ballast.release()
    disk.faults = None
    assert ballast.release()
    disk.faults = Faults(1, 5, only=frozenset({"create"}))
    ballast.take()
    assert "/disk/ballast" not in disk.files
    put(store)


def test_a_store_that_has_stopped_refuses_even_what_needs_no_writing(disk: SimDisk) -> None:
    store = open_store(disk, MemoryIndex(), small(failures_until_stop=1))
    put(store)
    disk.faults = Faults(1, 5, only=frozenset({"sync"}))
    with pytest.raises(StoreReadOnly):
        put(store, 1)
    disk.faults = None
    for call in (
        lambda: put(store),
        lambda: store.drop(FILE, 9),
        lambda: store.erase([]),
        lambda: store.note([]),
    ):
        with pytest.raises(StoreReadOnly):
            call()
    assert get(store) == b"data"


def test_a_store_that_could_not_begin_a_volume_and_stopped_acknowledges_nothing(
    disk: SimDisk, index: MemoryIndex
) -> None:
    store = open_store(disk, index)
    put(store)
    store.close()
    again = reopened(disk, MemoryIndex(index.snapshot), failures_until_stop=1)
    disk.faults = Faults(1, 5, only=frozenset({"create"}))
    with pytest.raises(StoreReadOnly):
        put(again, 1)
    disk.faults = None
    with pytest.raises(StoreReadOnly, match="1 times in a row"):
        put(again)
