"""Compaction keeps what counts, forgets only what may be forgotten, and never deletes on doubt."""

from __future__ import annotations

import errno
import sqlite3
import uuid
from collections.abc import Callable

import pytest

from dfs.errors import Gone, Unavailable
from dfs.store.record import Kind
from dfs.store.scan import walk
from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk
from tests.support.store_model import DIRECTORY, Clock, check_index, open_store, reported, small
from tests.unit.store.chunks import (
    FILE,
    FILES,
    OTHER,
    get,
    numbers,
    put,
    reopened,
    set_aside,
    spoil,
    volume_path,
)

DAY = 86_400


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(disk: SimDisk, index: MemoryIndex, clock: Clock) -> ChunkStore:
    return open_store(disk, index, small(volume_size=2048), clock)


def kinds(disk: SimDisk, number: int) -> list[Kind]:
    data = bytes(disk.files[volume_path(number)].cache)
    file = SimDisk.holding({"/f": data}).open("/f")
    return [item.kind for item in walk(file, None, 0, len(data))]  # type: ignore[union-attr]


def roll(store: ChunkStore) -> None:
    """Begin a new volume."""
    put(store, 1000 + len(numbers(store)), bytes(2000), FILES[7])


def test_what_counts_moves_with_its_sequence(store: ChunkStore, disk: SimDisk) -> None:
    first = put(store, 0, b"kept")
    put(store, 1, b"dropped")
    store.note([{"op_id": "1"}])
    store.drop(FILE, 1)
    roll(store)
    used = store.usage().used_bytes
    result = store.compact([1])
    assert (result.volumes, result.moved_records, result.forgotten) == (1, 2, 1)
    assert result.freed_bytes > result.moved_bytes
    assert store.usage().used_bytes == used - result.freed_bytes + result.moved_bytes
    assert volume_path(1) not in disk.files
    assert store.stat(FILE, 0) == first
    assert get(store) == b"kept"
    for again in (store, reopened(disk)):
        assert again.stat(FILE, 1) is None
        assert [note.note for note in again.notes(0, 9)] == [{"op_id": "1"}]
        check_index(again)


def test_a_wholly_dead_volume_is_just_removed(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, bytes(1200))
    roll(store)
    store.drop(FILE, 0)
    before = numbers(store)
    result = store.compact([1])
    assert result.moved_records == 0
    assert numbers(store) == before[1:]
    assert store.compact([]).volumes == 0
    assert store.compact([99]).moved_records == 0
    check_index(reopened(disk))


def test_the_newest_volume_is_left_alone(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    assert store.compact([1]).volumes == 0
    store.close()
    again = reopened(disk)
    assert again.compact([1]).volumes == 0
    assert again.compact().volumes == 0


def test_worthwhile_volumes_are_found(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=1 << 16, compact_dead_share=0.4))
    for number in range(60):
        put(store, number, bytes(3000))
    for number in range(10):
        store.drop(FILE, number)
    assert len(numbers(store)) == 3
    result = store.compact()
    assert result.volumes == 1
    assert store.compact().volumes == 0
    assert 1 not in numbers(store)
    assert all((store.stat(FILE, number) is None) == (number < 10) for number in range(60))


def test_many_small_volumes_become_one(disk: SimDisk, index: MemoryIndex) -> None:
    for number in range(12):
        store = open_store(disk, MemoryIndex(index.snapshot), small(volume_size=1 << 16))
        put(store, number)
        store.close()
    again = reopened(disk, volume_size=1 << 16)
    assert len(numbers(again)) == 12
    assert again.compact().volumes == 11
    assert len(numbers(again)) == 2
    assert all(get(again, number) == b"data" for number in range(12))


def test_a_drop_is_kept_while_an_older_volume_holds_the_chunk(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    roll(store)
    store.drop(FILE, 0)
    dropped_in = numbers(store)[-1]
    roll(store)
    store.compact([dropped_in])
    assert Kind.DROP in kinds(disk, numbers(store)[-1])
    assert reopened(SimDisk.holding(disk.contents())).stat(FILE, 0) is None, "a dropped chunk came back"
    store.compact([1])
    result = store.compact(numbers(store))
    assert result.forgotten == 1
    assert reopened(disk).stat(FILE, 0) is None


def test_a_drop_is_kept_while_anything_set_aside_may_hold_the_chunk(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    store.drop(FILE, 0)
    roll(store)
    disk.create(f"{DIRECTORY}/set-aside/0000000009-000000000000-100.bad")
    assert store.compact([1]).forgotten == 0
    disk.unlink(f"{DIRECTORY}/set-aside/0000000009-000000000000-100.bad")
    other = f"0000000009-000000000000-100-{OTHER.replace('-', '')}-0.bad"
    disk.create(f"{DIRECTORY}/set-aside/{other}")
    store.erase([OTHER])
    roll(store)
    result = store.compact(numbers(store))
    assert result.forgotten == 1


def test_an_erase_is_remembered_for_thirty_days(store: ChunkStore, disk: SimDisk, clock: Clock) -> None:
    put(store, 0)
    store.note([{"file_id": FILE}])
    store.erase([FILE])
    roll(store)
    clock.now += 29 * DAY
    assert store.compact([1]).forgotten == 0
    with pytest.raises(Gone):
        put(store, 0)
    roll(store)
    clock.now += 2 * DAY
    assert store.compact(numbers(store)).forgotten == 1
    put(store, 0, b"as if it had never been")
    assert get(reopened(disk)) == b"as if it had never been"


def test_an_erase_is_kept_while_a_volume_holds_a_chunk_or_note_of_the_file(
    store: ChunkStore, clock: Clock
) -> None:
    store.note([{"file_id": FILE}])
    roll(store)
    store.erase([FILE])
    erased_in = numbers(store)[-1]
    roll(store)
    clock.now += 40 * DAY
    assert store.compact([erased_in]).forgotten == 0
    store.compact([1])
    assert store.compact(numbers(store)).forgotten == 1


def test_a_corrupt_chunk_is_set_aside_and_no_older_one_comes_back(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, b"first life")
    roll(store)
    store.drop(FILE, 0)
    put(store, 0, b"second life")
    second = numbers(store)[-1]
    roll(store)
    spoil(disk, store)
    store.compact([second])
    assert reported(store, "corrupt_chunk")
    assert len(set_aside(disk)) == 1
    for again in (store, reopened(disk)):
        assert again.stat(FILE, 0) is None
        check_index(again)
    put(store, 0, b"second life")
    assert get(reopened(disk)) == b"second life"


def test_a_corrupt_note_and_a_damaged_region_are_set_aside(store: ChunkStore, disk: SimDisk) -> None:
    store.note([{"op_id": "1"}])
    place = store._parts.catalog.ask(lambda index: index.notes_after(0, 1))[0][2]
    put(store, 0)
    put(store, 1)
    spoil(disk, store, 0, at=10)
    disk.files[volume_path(1)].cache[place + 150] ^= 1
    roll(store)
    store.compact([1])
    assert reported(store, "corrupt_record")
    assert reported(store, "corrupt_region")
    assert len(set_aside(disk)) == 2
    assert get(store, 1) == b"data"
    assert store.notes(0, 9) == []


@pytest.mark.parametrize("place", ["body", "header"])
def test_without_room_to_set_it_aside_a_volume_stays(place: str, store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    roll(store)
    spoil(disk, store, at=-1 if place == "body" else 10)
    disk.faults = Faults(2, errno.ENOSPC, only=frozenset({"create"}))  # the first is the new volume
    with pytest.raises(Unavailable, match="could not be set aside"):
        store.compact([1])
    disk.faults = None
    assert volume_path(1) in disk.files
    assert store.compact([1]).volumes == 1


def test_what_cannot_be_read_now_is_not_given_up(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    roll(store)
    store._parts.files.close()
    for only in range(1, 4):
        disk.faults = Faults(only, errno.EIO, lasting=True, only=frozenset({"read"}))
        with pytest.raises(Unavailable):
            store.compact([1])
        disk.faults = None
        assert get(store) == b"data"
    assert set_aside(disk) == []
    assert store.compact([1]).moved_records == 1
    assert get(store) == b"data"


def test_one_bad_volume_does_not_keep_the_others_as_they_are(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=1 << 16))
    for number in range(80):
        put(store, number, bytes(3000))
    for number in range(80):
        if number % 20 < 15:
            store.drop(FILE, number)
    entry = store._find((uuid.UUID(FILE).bytes, 19))
    assert entry is not None
    disk.files[volume_path(1)].cache[entry.offset + entry.size - 100] ^= 1
    creates = 0

    def no_set_aside(name: str) -> bool:
        nonlocal creates
        creates += name == "create"
        if name == "create" and creates in (2, 4):
            raise OSError(errno.ENOSPC, "No space left on device")
        return False

    disk.faults = no_set_aside
    with pytest.raises(Unavailable):
        store.compact()
    disk.faults = None
    assert 1 in numbers(store)
    assert 2 not in numbers(store)


def test_readers_keep_the_volume_they_hold_and_others_look_again(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, b"held")
    put(store, 1, b"looked up before")
    roll(store)
    catalog = store._parts.catalog
    with store.open_chunk(FILE, 0) as reader:
        reader.forget_cached()
        stale = catalog.find((uuid.UUID(FILE).bytes, 1))
        store.compact([1])
        assert b"".join(map(bytes, reader.pieces())) == b"held"
    answers = [stale, catalog.find((uuid.UUID(FILE).bytes, 1))]
    store._parts.files.close()
    original = catalog.find
    catalog.find = lambda key: answers.pop(0)  # type: ignore[method-assign]
    assert get(store, 1) == b"looked up before"
    catalog.find = original  # type: ignore[method-assign]
    assert answers == []


def test_notes_are_looked_up_again_after_a_compaction(store: ChunkStore) -> None:
    store.note([{"op_id": "1"}])
    roll(store)
    catalog = store._parts.catalog
    stale = catalog.ask(lambda index: index.notes_after(0, 9))
    store.compact([1])
    store._parts.files.close()
    original, answers = catalog.ask, [stale]
    catalog.ask = lambda question: answers.pop() if answers else original(question)  # type: ignore[method-assign]
    assert [note.note for note in store.notes(0, 9)] == [{"op_id": "1"}]


@pytest.mark.parametrize(
    ("name", "first"),
    [("create", 1), ("write", 1), ("sync", 1), ("close", 1), ("rename", 1), ("listdir", 1), ("unlink", 1)],
)
def test_a_compaction_that_fails_can_be_repeated(
    name: str, first: int, store: ChunkStore, disk: SimDisk
) -> None:
    put(store, 0)
    put(store, 1)
    store.drop(FILE, 1)
    roll(store)
    disk.faults = Faults(first, errno.EIO, only=frozenset({name}))
    with pytest.raises(Unavailable):
        store.compact([1])
    disk.faults = None
    assert get(store) == b"data"
    store.compact([number for number in numbers(store) if number == 1])
    assert volume_path(1) not in disk.files
    assert get(reopened(disk)) == b"data"
    assert not [file for file in disk.files if file.endswith(".tmp")]


def test_after_a_failed_directory_sync_nothing_is_compacted_before_the_next_start(
    store: ChunkStore, disk: SimDisk
) -> None:
    put(store)
    roll(store)
    disk.faults = Faults(1, errno.EIO, only=frozenset({"sync_directory"}))
    with pytest.raises(Unavailable):
        store.compact([1])
    disk.faults = None
    with pytest.raises(Unavailable, match="may be durable or not"):
        store.compact([1])
    again = reopened(disk)
    assert get(again) == b"data"
    assert again.compact([1]).volumes == 1


@pytest.mark.parametrize(
    "statement", ["BEGIN IMMEDIATE", "COMMIT", "INSERT OR REPLACE INTO chunks", "DELETE FROM dead"]
)
def test_an_index_that_does_not_take_a_compaction_takes_it_later(
    statement: str, store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    put(store, 0)
    put(store, 1)
    store.drop(FILE, 1)
    roll(store)
    store.inventory(0, 1)

    def fail(sql: str) -> None:
        if sql.startswith(statement):
            raise sqlite3.OperationalError("disk I/O error")

    index.faults = fail
    with pytest.raises(Unavailable):
        store.compact([1])
    index.faults = None
    assert get(store) == b"data"
    store.drop(FILE, 0)
    store.compact([])
    assert volume_path(1) not in disk.files
    for again in (store, reopened(disk)):
        assert again.stat(FILE, 0) is None
        check_index(again)


def test_a_compaction_ends_when_the_store_closes(store: ChunkStore) -> None:
    put(store)
    roll(store)
    store._maintenance._stopping.set()
    with pytest.raises(Unavailable, match="closing"):
        store.compact([1])


def test_on_a_full_disk_the_ballast_goes_and_compaction_works(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(ballast_bytes=3000, volume_size=2048))
    put(store, 0, bytes(1000))
    roll(store)
    disk.capacity = disk.used
    with pytest.raises(Unavailable):
        store.compact([1])
    assert f"{DIRECTORY}/ballast" not in disk.files
    assert store.compact([1]).volumes == 1
    assert get(store) == bytes(1000)


def test_the_pace_is_kept(store: ChunkStore, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    maintenance = store._maintenance
    monkeypatch.setattr(maintenance._stopping, "wait", waited.append)
    maintenance._paced = True
    pace: Callable[[int], bool] = maintenance.pace
    for _ in range(4):
        assert pace(32 << 20)
    assert [round(seconds) for seconds in waited] == [1, 2, 3, 4]
