"""A disk that is nearly full, or full: deletes work, and the space comes back."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
import threading
from pathlib import Path

import pytest

from dfs.errors import Gone, NodeFull, Unavailable
from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk
from tests.support.store_model import DIRECTORY, check_index, open_store, small
from tests.unit.store.chunks import FILE, FILES, get, put, real_store, reopened

VOLUME = 16 * 1024
DATA = bytes(range(256)) * 4


def filled(disk: SimDisk, index: MemoryIndex, volumes: int = 12) -> tuple[ChunkStore, int]:
    """A store with a reserve of two volumes that takes no more chunks, and how many it took, of FILES in turn."""
    disk.capacity = (volumes + 2) * VOLUME
    store = open_store(disk, index, small(volume_size=VOLUME, reserve_bytes=None, ballast_bytes=8192))
    count = 0
    try:
        while True:
            put(store, count, DATA, file_id=FILES[count % len(FILES)])
            count += 1
    except NodeFull:
        return store, count


def living(store: ChunkStore, count: int, *erased: int) -> None:
    """Every chunk of a file that was not erased is still read."""
    for number in range(count):
        if number % len(FILES) in erased:
            with pytest.raises(Gone):
                get(store, number, FILES[number % len(FILES)])
        else:
            assert get(store, number, FILES[number % len(FILES)]) == DATA


def test_what_is_erased_from_a_full_disk_gives_its_space_back(disk: SimDisk, index: MemoryIndex) -> None:
    store, count = filled(disk, index)
    store.erase(FILES[:1])  # an eighth of every volume: not worth it when there is room
    assert store.compact().volumes > 0
    assert not store.usage().full
    put(store, 1000, DATA, file_id=FILES[1])
    living(store, count, 0)
    check_index(store)


def test_with_room_to_spare_little_is_not_worth_a_compaction(disk: SimDisk, index: MemoryIndex) -> None:
    store, count = filled(disk, index)
    disk.capacity *= 4
    store.erase(FILES[:1])
    assert store.compact().volumes == 0
    living(store, count, 0)


def test_no_more_is_compacted_than_space_is_wanted(disk: SimDisk, index: MemoryIndex) -> None:
    store, count = filled(disk, index, volumes=40)
    store.erase(FILES[:2])
    before = len(store._parts.volumes.all())
    done = store.compact()
    assert 0 < done.volumes < before - 2
    assert store._room.tight() is None
    living(store, count, 0, 1)


def test_on_a_disk_that_others_filled_to_the_brim_deletes_and_compaction_work(
    disk: SimDisk, index: MemoryIndex
) -> None:
    store, count = filled(disk, index)
    disk.capacity = disk.used
    with pytest.raises(NodeFull):
        put(store, 1000, DATA)
    for number in range(0, count, 8):
        assert store.drop(FILES[0], number)
    store.erase(FILES[1:])
    assert f"{DIRECTORY}/ballast" not in disk.files, "it made room for them"
    for _ in range(3):
        with contextlib.suppress(Unavailable):  # the next round has the room that the last one made
            store.compact()
    assert store.usage().used_bytes < 3 * VOLUME
    again = reopened(disk)
    assert again.stat(FILE, 0) is None
    with pytest.raises(Gone):
        get(again, 1, FILES[1])
    check_index(again)


def test_a_volume_that_does_not_fit_beside_its_copy_waits(disk: SimDisk, index: MemoryIndex) -> None:
    store, _ = filled(disk, index)
    store.erase(FILES[:1])
    disk.capacity = disk.used + VOLUME // 2
    assert store.compact().volumes == 0, "and nothing was begun that could not end"
    store.erase(FILES[1:6])
    assert store.compact().volumes > 0


def test_an_index_that_finds_the_disk_full_has_the_ballast_released(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index)
    put(store)

    def fail(sql: str) -> None:
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    index.faults = fail
    assert not store._parts.catalog.flush()
    index.faults = None
    assert f"{DIRECTORY}/ballast" not in disk.files
    assert store._parts.catalog.flush()


def test_a_disk_that_does_not_tell_its_space_is_not_taken_for_full(disk: SimDisk, index: MemoryIndex) -> None:
    store, _ = filled(disk, index)
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"space"}))
    assert store._room.tight() is None
    assert store.compact().volumes == 0


def test_the_thread_compacts_soon_and_unpaced_while_space_is_tight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.store.maintenance._TIGHT_SECONDS", 0.01)
    store = real_store(tmp_path, compact_interval=0.02)
    monkeypatch.setattr(store._room, "tight", lambda: 1 << 30)
    seen: list[bool] = []
    twice = threading.Event()

    def compact(volumes: object) -> None:
        seen.append(store._maintenance._paced)
        if len(seen) == 2:
            twice.set()

    monkeypatch.setattr(store._maintenance, "compact", compact)
    store.start_maintenance()
    assert twice.wait(30)
    assert not any(seen[:2])
    store.close()
