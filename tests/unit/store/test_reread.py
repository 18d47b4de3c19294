"""Passes over everything that stands, and the list of bad chunks."""

from __future__ import annotations

import errno
import sqlite3
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.errors import Busy, CorruptChunk, Gone, NotFound, Unavailable
from dfs.store.reread import Phase, Position
from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk
from tests.support.store_model import DIRECTORY, check_index, open_store, reported, small
from tests.unit.store.chunks import (
    FILE,
    FILES,
    OTHER,
    get,
    put,
    real_store,
    reopened,
    set_aside,
    spoil,
    volume_path,
)

NOTE = {"op_id": "1", "file_id": OTHER}


def whole_pass(store: ChunkStore, between: Callable[[Position], None] = lambda position: None) -> tuple[int, int]:
    """Records read and bad records found by a pass; `between` is called before each step."""
    position = store.upkeep.begin_pass()
    records = bad = 0
    while position.phase is not Phase.DONE:
        between(position)
        step = store.upkeep.reread(position, lambda size: None)
        position, records, bad = step.position, records + step.records, bad + step.bad
    return records, bad


def bad(store: ChunkStore) -> list[tuple[str, int]]:
    return [(chunk.file_id, chunk.chunk_index) for chunk in store.upkeep.bad_chunks(None, 100)]


def filled(store: ChunkStore, count: int = 20) -> None:
    for number in range(count):
        put(store, number, bytes([number]) * (300 + number))


def test_a_pass_reads_everything_that_stands_and_says_when(store: ChunkStore) -> None:
    filled(store)
    store.drop(FILE, 3)
    store.note([NOTE])
    store.erase([FILES[5]])
    assert store.last_verified(FILE, 0) is None
    assert whole_pass(store) == (20 + 1 + 1, 0)
    assert store.last_verified(FILE, 0)
    assert store.last_verified(FILE, 3) is None, "a chunk that is not here"
    assert {chunk.chunk_index for chunk in store.inventory(0, 99) if chunk.verified} == set(range(20)) - {3}


def test_a_pass_is_about_what_stood_when_it_began(store: ChunkStore) -> None:
    filled(store, 3)
    position = store.upkeep.begin_pass()
    put(store, 7)
    assert store.upkeep.reread(position, lambda size: None).records == 3


def test_the_bytes_read_are_counted_and_paced(store: ChunkStore) -> None:
    filled(store, 5)
    paced: list[int] = []
    step = store.upkeep.reread(store.upkeep.begin_pass(), paced.append)
    assert sum(paced) >= step.bytes == store.upkeep.total_bytes()


@pytest.mark.parametrize("at", [0, 4, 40, 64, 100, 130, -1])
def test_a_flipped_bit_anywhere_is_found(store: ChunkStore, disk: SimDisk, at: int) -> None:
    filled(store)
    spoil(disk, store, 4, at=at)
    assert whole_pass(store) == (20, 1)
    assert bad(store) == [(FILE, 4)]
    assert store.usage().bad_chunks == 1
    assert len(set_aside(disk)) == 1
    assert store.last_verified(FILE, 4) is None
    assert whole_pass(store)[1] == 1, "still bad"
    assert len(set_aside(disk)) == 1, "kept once"


def test_a_flipped_bit_behind_the_bytes_is_found(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, b"12345")
    entry = store._find((uuid.UUID(FILE).bytes, 0))
    assert entry is not None
    disk.files[volume_path(entry.volume)].cache[entry.offset + entry.size - 1] ^= 1
    assert whole_pass(store) == (1, 1)
    assert get(store) == b"12345", "the bytes themselves are good"
    put(store, 0, b"12345")
    assert bad(store) == []


def test_a_chunk_stored_again_is_no_longer_bad(store: ChunkStore, disk: SimDisk) -> None:
    filled(store)
    for number in (2, 5, 9):
        spoil(disk, store, number)
    whole_pass(store)
    assert bad(store) == [(FILE, 2), (FILE, 5), (FILE, 9)]
    page = store.upkeep.bad_chunks((FILE, 2), 1)
    assert [chunk.chunk_index for chunk in page] == [5]
    assert page[0].why and page[0].found_at
    put(store, 2, bytes([2]) * 302)
    store.drop(FILE, 5)
    assert bad(store) == [(FILE, 9)]
    store.erase([FILE])
    assert bad(store) == [] and store.usage().bad_chunks == 0


def test_a_reader_finds_a_bad_chunk_too(store: ChunkStore, disk: SimDisk) -> None:
    filled(store)
    spoil(disk, store, 1)
    with pytest.raises(CorruptChunk):
        get(store, 1)
    assert bad(store) == [(FILE, 1)]


def test_a_bad_chunk_that_turns_out_good_is_no_longer_bad(store: ChunkStore, disk: SimDisk) -> None:
    filled(store)
    spoil(disk, store, 1)
    whole_pass(store)
    spoil(disk, store, 1)
    store.verify(FILE, 1)
    assert bad(store) == []


@pytest.mark.parametrize("lost", [False, True])
def test_bad_chunks_are_remembered_over_a_restart(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex, lost: bool
) -> None:
    filled(store)
    for number in (2, 5):
        spoil(disk, store, number, at=140)
    whole_pass(store)
    put(store, 5, bytes([5]) * 305)
    store.inventory(0, 1)
    again = reopened(disk, None if lost else index)
    assert bad(again) == [(FILE, 2)]
    assert again.usage().bad_chunks == 1
    put(again, 2, bytes([2]) * 302)
    assert bad(again) == []
    assert bad(reopened(disk)) == []


@pytest.mark.parametrize("how", ["drop", "erase", "put"])
def test_a_bad_chunk_of_which_no_record_is_left(store: ChunkStore, disk: SimDisk, how: str) -> None:
    filled(store, 4)
    spoil(disk, store, 2, at=140)
    whole_pass(store)
    again = reopened(disk)
    assert again.stat(FILE, 2) is None and bad(again) == [(FILE, 2)]
    if how == "drop":
        assert not again.drop(FILE, 2)
    elif how == "erase":
        again.erase([FILE])
    else:
        put(again, 2)
    assert bad(again) == []
    assert bad(reopened(disk)) == []


def test_a_bad_chunk_that_compaction_did_not_move_stays_bad(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    filled(store)
    spoil(disk, store, 0)
    whole_pass(store)
    spoil(disk, store, 1)
    store.compact([1])
    store.inventory(0, 1)
    assert bad(store) == [(FILE, 0), (FILE, 1)], "neither is here any more, though somebody counts on it"
    assert whole_pass(store) == (20, 0)
    assert bad(store) == [(FILE, 0), (FILE, 1)]
    with pytest.raises(NotFound):
        get(store, 1)
    put(store, 1, b"\1" * 301)
    assert bad(reopened(disk, index)) == [(FILE, 0)]


@pytest.mark.parametrize("known", [True, False])
def test_a_chunk_whose_header_is_damaged_is_bad_after_compaction_too(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex, known: bool
) -> None:
    filled(store)
    spoil(disk, store, 2, at=40)
    if known:
        whole_pass(store)
    store.compact([1])
    assert store.stat(FILE, 2) is None
    assert bad(store) == [(FILE, 2)] and store.usage().bad_chunks == 1
    check_index(store)
    again = reopened(disk, index)
    assert bad(again) == [(FILE, 2)]
    put(again, 2, bytes([2]) * 302)
    assert bad(again) == [] and again.usage().bad_chunks == 0


def test_chunks_of_a_volume_file_that_vanished_while_the_node_was_down_are_bad(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    filled(store, 3)
    store.drop(FILE, 0)
    store.close()
    del disk.files[volume_path(1)]
    again = reopened(disk, index)
    assert [(chunk.chunk_index, chunk.found_at > 0) for chunk in again.upkeep.bad_chunks(None, 9)] == [(1, True), (2, True)]
    assert again.usage().bad_chunks == 2
    put(again, 1)
    again.erase([FILE])
    assert bad(again) == []


def test_compaction_keeps_when_chunks_were_verified(store: ChunkStore) -> None:
    filled(store)
    whole_pass(store)
    before = store.last_verified(FILE, 1)
    store.compact([1])
    assert store.last_verified(FILE, 1) == before is not None


def test_what_compaction_moves_during_a_pass_is_neither_lost_nor_read_twice(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=64 * 1024, pending_limit=1000))
    for number in range(600):
        put(store, number, b"x" * 200)
    volumes = iter([1, 2, 3])
    records, found = whole_pass(store, lambda position: store.compact([next(volumes, 4)]) and None)
    assert (records, found) == (600, 0)
    assert all(chunk.verified for chunk in store.inventory(0, 1000))


def test_a_volume_compacted_between_the_lookup_and_the_reading(store: ChunkStore, disk: SimDisk) -> None:
    filled(store)
    page = store.upkeep._rereader._page

    def look(position: Position) -> list[object]:
        found = page(position)
        if position.phase is Phase.CHUNKS:
            store.compact([1])
        return found  # type: ignore[return-value]

    store.upkeep._rereader._page = look  # type: ignore[method-assign, assignment]
    assert whole_pass(store) == (20, 0)
    assert all(chunk.verified for chunk in store.inventory(0, 99))
    assert not store.reports()


def test_what_is_erased_or_replaced_between_the_lookup_and_the_reading_is_not_reported(
    store: ChunkStore, disk: SimDisk
) -> None:
    filled(store, 5)
    put(store, 0, file_id=OTHER)
    store.drop(FILE, 1)
    spoil(disk, store, 2)
    spoil(disk, store, 0, OTHER)
    entry = store._parts.catalog.find((uuid.UUID(FILE).bytes, 1))[1]
    assert entry is not None
    disk.files[volume_path(entry.volume)].cache[entry.offset + 50] ^= 1
    page = store.upkeep._rereader._page

    def look(position: Position) -> list[object]:
        found = page(position)
        if position.phase is Phase.CHUNKS:
            store.erase([OTHER])
            store.drop(FILE, 2)
            put(store, 1, b"again")
        return found  # type: ignore[return-value]

    store.upkeep._rereader._page = look  # type: ignore[method-assign, assignment]
    assert whole_pass(store)[1] == 0
    assert not store.reports()
    with pytest.raises(Gone):
        store.verify(OTHER, 0)


def test_bad_drops_and_erasures_are_written_anew_and_bad_notes_are_taken_again(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    filled(store, 3)
    store.drop(FILE, 1)
    store.erase([FILES[4]])
    store.note([NOTE])
    parts = store._parts
    drop = parts.catalog.find((uuid.UUID(FILE).bytes, 1))[1]
    assert drop is not None
    places = [(drop.volume, drop.offset)]
    places += parts.catalog.ask(lambda index: index.select("SELECT volume, offset FROM erased"))
    places += parts.catalog.ask(lambda index: index.select("SELECT volume, offset FROM notes"))
    for volume, offset in places:
        disk.files[volume_path(volume)].cache[offset + 50] ^= 1
    assert whole_pass(store) == (5, 3)
    assert len(reported(store, "corrupt_record")) == 3
    assert bad(store) == [], "these are no chunks"
    assert store.notes(0, 9) == []
    store.note([NOTE])
    assert len(store.notes(0, 9)) == 1
    assert whole_pass(store) == (5, 0)
    check_index(store)
    again = reopened(disk)  # from the volumes alone
    assert again.stat(FILE, 1) is None
    with pytest.raises(Gone):
        put(again, 0, file_id=FILES[4])


def test_a_bad_drop_that_cannot_be_written_anew_is_found_by_the_next_pass(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 2)
    store.drop(FILE, 1)
    drop = store._parts.catalog.find((uuid.UUID(FILE).bytes, 1))[1]
    assert drop is not None
    disk.files[volume_path(drop.volume)].cache[drop.offset + 50] ^= 1
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"sync"}))
    assert whole_pass(store) == (2, 1)
    disk.faults = None
    assert whole_pass(store) == (2, 1)
    assert whole_pass(store) == (2, 0)


def test_a_note_whose_volume_cannot_be_read_is_reported(store: ChunkStore, disk: SimDisk) -> None:
    store.note([NOTE])
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"read"}))
    assert whole_pass(store) == (1, 1)
    disk.faults = None
    assert "cannot be read" in store.reports()[-1].message


def test_one_unreadable_place_does_not_condemn_its_neighbours(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 5)
    disk.faults = Faults(1, errno.EIO, only=frozenset({"read"}))
    assert whole_pass(store) == (5, 0)
    disk.faults = None
    assert all(chunk.verified for chunk in store.inventory(0, 9))


def test_too_many_open_files_say_nothing_about_the_disk(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 5)
    store._parts.files.close()
    disk.faults = Faults(1, errno.EMFILE, lasting=True, only=frozenset({"open"}))
    with pytest.raises(Busy):
        whole_pass(store)
    disk.faults = None
    assert whole_pass(store) == (5, 0)


def test_too_many_open_files_do_not_condemn_a_note(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 1)
    store.note([NOTE])
    position = Position(store.upkeep.begin_pass().upto, Phase.NOTES)
    store._parts.files.close()
    opened = Faults(2, errno.EMFILE, lasting=True, only=frozenset({"open"}))
    reading = Faults(1, errno.EIO, only=frozenset({"read"}))
    disk.faults = lambda name: reading(name) or opened(name)
    disk.faults("open")  # the first reading fails, and then there is no descriptor to read it again
    with pytest.raises(Busy):
        store.upkeep.reread(position, lambda size: store._parts.files.close())
    disk.faults = None
    assert store.reports() == [] and len(store.notes(0, 9)) == 1


def test_chunks_of_a_volume_file_that_cannot_be_opened_are_bad(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 3)
    store._parts.files.close()
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"open"}))
    assert whole_pass(store) == (3, 3)
    assert [chunk.why for chunk in store.upkeep.bad_chunks(None, 9)] == [
        "the volume file that holds it cannot be opened: Input/output error"
    ] * 3
    disk.faults = None
    assert whole_pass(store) == (3, 0)
    assert bad(store) == [], "the disk has come round"


def test_a_volume_file_that_vanished_makes_its_chunks_bad(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 3)
    store._parts.files.close()
    del disk.files[volume_path(1)]
    assert whole_pass(store) == (3, 3)
    assert len(bad(store)) == 3


def test_an_index_that_is_wrong_is_rebuilt_and_nothing_is_called_bad(store: ChunkStore, index: MemoryIndex) -> None:
    filled(store, 3)
    store.inventory(0, 1)
    writer = store._parts.catalog.index._writer  # type: ignore[union-attr]
    rows = writer.execute("SELECT file_id, chunk_index, volume, offset FROM chunks ORDER BY sequence").fetchall()
    assert rows
    store._parts.catalog.index.apply(  # type: ignore[union-attr]
        [entry._replace(sequence=entry.sequence + 100) for entry in store._parts.catalog.index.chunks_after(0, 1)],  # type: ignore[union-attr]
    )
    store._parts.volumes.start_from(0, 200)
    with pytest.raises(Unavailable):
        whole_pass(store)
    assert whole_pass(store) == (3, 0)
    assert reported(store, "index_discarded")
    assert bad(store) == []


def test_advice_to_the_page_cache_may_fail(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 3)
    disk.faults = Faults(1, errno.EINVAL, lasting=True, only=frozenset({"forget_cached"}))
    assert whole_pass(store) == (3, 0)


def test_a_chunk_asked_for_is_verified_whatever_the_page_cache_says(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, b"abc")
    disk.faults = Faults(1, errno.EINVAL, lasting=True, only=frozenset({"forget_cached"}))
    assert store.verify(FILE, 0).length == 3


def test_a_record_of_which_any_part_cannot_be_read_is_corrupt(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0, b"abc")  # three bytes, and padding behind them
    for number in range(1, 20):
        disk.faults = faults = Faults(number, errno.EIO, only=frozenset({"read"}))
        try:
            store.verify(FILE, 0)
        except CorruptChunk as error:
            assert "cannot be read" in error.message or "damaged" in error.message
        if not faults.hit:
            break
    assert number > 3, "header, bytes and padding were read"


def test_large_chunks_are_read_piece_by_piece(tmp_path: Path) -> None:
    store = real_store(tmp_path, volume_size=16 << 20)
    data = bytes(range(256)) * 4096 * 3
    put(store, 0, data, chunk_size=1 << 23)
    put(store, 1, data, chunk_size=1 << 23)
    paced: list[int] = []
    step = store.upkeep.reread(store.upkeep.begin_pass(), paced.append)
    assert (step.records, step.bad) == (1, 0), "a few megabytes at a time"
    assert set(paced) == {256 * 1024} and sum(paced) == len(data)
    assert whole_pass(store) == (2, 0)
    store.close()


def test_bytes_come_from_the_disk_on_a_real_file_system(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    filled(store)
    assert whole_pass(store) == (20, 0)
    store.close()


# --- set aside, facts ---------------------------------------------------------------------------


def test_a_chunk_set_aside_is_kept_and_gone(store: ChunkStore, disk: SimDisk, index: MemoryIndex) -> None:
    filled(store, 3)
    assert store.upkeep.set_aside(FILE, 1)
    assert len(set_aside(disk)) == 1
    assert not store.upkeep.set_aside(FILE, 1)
    assert not store.upkeep.set_aside(OTHER, 1)
    with pytest.raises(NotFound):
        get(store, 1)
    assert bad(store) == []
    assert bad(reopened(disk)) == []


def test_what_is_set_aside_is_the_record_as_it_is_now(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 3)
    spoil(disk, store, 1)
    whole_pass(store)
    spoil(disk, store, 1)  # it reads well again: it was not the disk
    assert whole_pass(store) == (3, 0)
    assert store.upkeep.set_aside(FILE, 1)
    misread, kept = (disk.files[f"{DIRECTORY}/set-aside/{name}"].cache for name in set_aside(disk))
    assert bytes([1]) * 301 not in misread and bytes([1]) * 301 in kept
    again = reopened(disk)
    again.compact([1])
    assert again.stat(FILE, 1) is None, "the DROP is remembered for as long as the file is there"
    assert bad(again) == []


def test_what_cannot_be_set_aside_stays(store: ChunkStore, disk: SimDisk) -> None:
    filled(store, 3)
    disk.faults = Faults(1, errno.ENOSPC, lasting=True, only=frozenset({"create"}))
    with pytest.raises(Unavailable, match="it stays"):
        store.upkeep.set_aside(FILE, 1)
    disk.faults = None
    assert get(store, 1) == b"\1" * 301
    store._parts.files.close()
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"open"}))
    with pytest.raises(Unavailable, match="cannot be read"):
        store.upkeep.set_aside(FILE, 1)
    disk.faults = None
    del disk.files[volume_path(1)]
    with pytest.raises(Unavailable, match="missing"):
        store.upkeep.set_aside(FILE, 1)


def test_facts_live_as_long_as_the_index(store: ChunkStore, disk: SimDisk, index: MemoryIndex) -> None:
    assert store.upkeep.fact("scrub") is None
    store.upkeep.keep_fact("scrub", "here")
    store.upkeep.keep_fact("scrub", "there")
    assert reopened(disk, index).upkeep.fact("scrub") == "there"
    assert reopened(disk).upkeep.fact("scrub") is None


def test_a_fact_that_the_index_does_not_take_is_not_kept(store: ChunkStore, index: MemoryIndex) -> None:
    import sqlite3

    def fail(sql: str) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    index.faults = fail
    with pytest.raises(Unavailable):
        store.upkeep.keep_fact("scrub", "here")
    index.faults = None
    assert store.upkeep.fact("scrub") is None


def test_memory_stays_bounded_while_the_index_takes_nothing(disk: SimDisk, index: MemoryIndex) -> None:
    import sqlite3

    store = open_store(disk, index, small(pending_limit=8, volume_size=1 << 20))
    filled(store, 20)
    entries = store._parts.catalog.ask(lambda found: found.chunks_after(0, 99))

    def fail(sql: str) -> None:
        if "bad" in sql or "verified" in sql:
            raise sqlite3.OperationalError("database or disk is full")

    index.faults = fail
    catalog = store._parts.catalog
    for entry in entries:
        catalog.is_bad(entry, 1, "test")
        catalog.was_verified((entry.file_id, entry.chunk_index + 100), entry.sequence, 1)
    assert not catalog.flush()
    catalog.is_bad(entries[0], 2, "later")
    catalog.was_verified(entries[1].key, entries[1].sequence, 2)
    assert not catalog.flush()
    assert len(catalog._pending.bad) == 7 and len(catalog._pending.verified) <= 9
    index.faults = None
    assert len(bad(store)) == 7


def test_an_index_of_an_earlier_release_learns_of_bad_chunks(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    filled(store, 5)
    spoil(disk, store, 2)
    whole_pass(store)
    store.inventory(0, 1)
    writer = store._parts.catalog.index._writer  # type: ignore[union-attr]
    writer.execute("DROP TABLE bad")
    writer.execute("DELETE FROM facts WHERE name = 'set_aside'")
    index.snapshot = writer.serialize()
    again = reopened(disk, index)
    assert index.discarded == 0
    assert bad(again) == [(FILE, 2)]


def test_an_index_whose_schema_is_damaged_is_made_anew(tmp_path: Path) -> None:
    store = real_store(tmp_path)
    filled(store, 3)
    store.close()
    writer = sqlite3.connect(tmp_path / "index.db")
    writer.execute("ALTER TABLE chunks RENAME COLUMN verified TO verifiee")
    writer.close()
    again = real_store(tmp_path)
    assert reported(again, "index_discarded")
    assert len(again.inventory(0, 9)) == 3
    again.close()
