"""What a start makes of what it finds."""

from __future__ import annotations

import errno
import logging
import sqlite3

import pytest

from dfs.errors import CorruptChunk, StartError, StoreReadOnly
from dfs.store.record import Kind
from dfs.store.scan import walk
from dfs.store.store import ChunkStore, Report, StoreOptions
from dfs.store.volume import make_header
from tests.support.disk import Faults, MemoryIndex, SimDisk, Wreck
from tests.support.store_model import DIRECTORY, IDENTITY, check_index, open_store, reported, small
from tests.unit.store.chunks import FILE, OTHER, get, numbers, put, reopened, set_aside, spoil, volume_path


def cut_power(disk: SimDisk) -> SimDisk:
    """The disk after a power cut that leaves nothing unsynced."""
    wreck = Wreck(disk)
    for event in disk.trace:
        wreck.step(event)
    return SimDisk.holding(wreck.image(lambda _: False, lambda _: None))


def kinds(disk: SimDisk, number: int) -> list[object]:
    data = bytes(disk.files[volume_path(number)].cache)
    file = SimDisk.holding({"/f": data}).open("/f")
    return [getattr(item, "kind", None) for item in walk(file, None, 0, len(data))]


def test_an_empty_directory_is_an_empty_store(disk: SimDisk) -> None:
    store = open_store(disk, MemoryIndex())
    assert store.usage().chunks == 0
    assert numbers(store) == []
    assert store.inventory(0, 10) == []
    store.close()


def test_a_volume_is_never_appended_to_after_a_restart(disk: SimDisk, index: MemoryIndex) -> None:
    for round_ in range(3):
        store = reopened(disk, MemoryIndex(index.snapshot))
        put(store, round_)
        store.close()
    assert numbers(reopened(disk)) == [1, 2, 3]
    assert kinds(disk, 1) == [Kind.VOLUME, Kind.DATA, Kind.MARK]


def test_the_unacknowledged_tail_is_set_aside_and_cut_off(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    put(store, 0, b"acknowledged")
    put(store, 1, b"also")
    volume = disk.files[volume_path(1)].cache
    whole = len(volume)
    volume += b"half a record" * 10
    again = reopened(disk)
    assert get(again) == b"acknowledged"
    assert len(disk.files[volume_path(1)].cache) == whole
    name = set_aside(disk)[0]
    assert name == f"0000000001-{whole:012d}-130.tail"
    assert bytes(disk.files[f"{DIRECTORY}/set-aside/{name}"].cache) == b"half a record" * 10
    assert [report.kind for report in again.reports()] == ["cut_tail"]
    assert reopened(disk).reports() == []
    put(again, 2)
    assert again.inventory(0, 10)[-1].sequence > 1 << 20, "a cut record's number could be given out again"


def test_a_tail_of_zeros_is_cut_without_being_kept(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    disk.files[volume_path(1)].cache.extend(bytes(5000))
    again = reopened(disk)
    assert get(again) == b"data"
    assert set_aside(disk) == []
    assert len(disk.files[volume_path(1)].cache) < 5000


def test_a_tail_that_cannot_be_set_aside_stays_and_does_not_count(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    size = len(disk.files[volume_path(1)].cache)
    disk.files[volume_path(1)].cache.extend(b"garbage!")
    disk.faults = Faults(1, errno.ENOSPC, lasting=True, only=frozenset({"create"}))
    again = reopened(disk, ballast_bytes=0)
    assert len(disk.files[volume_path(1)].cache) == size + 8
    assert reported(again, "cut_tail")[0].set_aside is None
    disk.faults = None
    put(again)  # acknowledged without writing, so the end of volume 1 must be settled first
    assert numbers(again) == [1, 2]
    last = reopened(disk)
    assert get(last) == b"data"
    assert len(disk.files[volume_path(1)].cache) == size


def test_damage_below_the_durable_length_is_reported_and_the_rest_is_kept(
    store: ChunkStore, disk: SimDisk
) -> None:
    for number in range(4):
        put(store, number, b"x" * 200)
    spoil(disk, store, 1, at=0)
    size = len(disk.files[volume_path(1)].cache)
    again = reopened(disk)
    assert [again.stat(FILE, number) is not None for number in range(4)] == [True, False, True, True]
    report = reported(again, "corrupt_region")[0]
    assert report.set_aside in set_aside(disk)
    assert len(disk.files[volume_path(1)].cache) == size, "bytes in doubt stay where they are"


def test_a_spoilt_volume_header_costs_no_chunk(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    put(store, 1)
    store.close()
    disk.files[volume_path(1)].cache[40] ^= 1
    for index in (MemoryIndex(), MemoryIndex(store._maintenance._index_file.snapshot)):  # type: ignore[attr-defined]
        again = reopened(SimDisk.holding(disk.contents()), index)
        assert get(again, 0) == get(again, 1) == b"data"


@pytest.mark.parametrize("content", [b"", bytes(700), b"dfsR but not really" * 30])
def test_a_volume_that_was_being_made_is_removed(content: bytes, store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    disk.create(volume_path(2)).write([content], 0)
    again = reopened(disk)
    assert numbers(again) == [1]
    assert volume_path(2) not in disk.files
    put(again, 1)
    assert numbers(again) == [1, 3], "the number of a volume that was is used again"


def test_leftovers_of_compaction_are_removed_and_strange_files_are_not(
    store: ChunkStore, disk: SimDisk
) -> None:
    put(store)
    disk.create(f"{DIRECTORY}/volumes/0000000009.vol.tmp")
    disk.create(f"{DIRECTORY}/volumes/README")
    reopened(disk)
    assert f"{DIRECTORY}/volumes/0000000009.vol.tmp" not in disk.files
    assert f"{DIRECTORY}/volumes/README" in disk.files


def test_the_volume_of_another_disk_stops_the_start(store: ChunkStore, disk: SimDisk) -> None:
    put(store)
    other = type(IDENTITY)("n9", "00000000-0000-4000-8000-000000000009", "c9", 1)
    disk.create(volume_path(2)).write([make_header(other, 2, b"o" * 16, 1, 0, None, False)], 0)
    with pytest.raises(StartError, match="belongs to disk 00000000-0000-4000-8000-000000000009"):
        reopened(disk)


def test_a_volume_that_vanished_is_reported(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=1500))
    for number in range(4):
        put(store, number, bytes(700))
    store.close()
    disk.unlink(volume_path(1))
    again = reopened(disk, MemoryIndex(index.snapshot))
    assert [report.volume for report in reported(again, "volume_missing")] == [1]
    assert again.stat(FILE, 0) is None
    assert get(again, 3) == bytes(700)
    check_index(again)


def test_a_volume_that_was_cut_short_is_reported_and_its_chunks_are_corrupt(
    disk: SimDisk, index: MemoryIndex
) -> None:
    store = open_store(disk, index)
    put(store, 0)
    put(store, 1)
    store.close()
    del disk.files[volume_path(1)].cache[-300:]
    again = reopened(disk, MemoryIndex(index.snapshot))
    assert reported(again, "truncated_volume")
    assert get(again, 0) == b"data"
    with pytest.raises(CorruptChunk):
        get(again, 1)
    put(again, 1)
    assert get(again, 1) == b"data"


def test_a_volume_cut_to_nothing_is_let_go(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index)
    put(store)
    store.close()
    disk.files[volume_path(1)].cache.clear()
    again = reopened(disk, MemoryIndex(index.snapshot))
    assert reported(again, "truncated_volume")
    assert again.stat(FILE, 0) is None
    check_index(again)


def test_a_compacted_volume_without_its_end_is_reported(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    store.close()
    again = reopened(disk)
    put(again, 1)
    again.compact([1])
    compacted = numbers(again)[-1]
    del disk.files[volume_path(compacted)].cache[-100:]
    last = reopened(disk)
    assert reported(last, "truncated_volume")
    assert get(last, 1) == b"data"


def test_a_foreign_or_damaged_or_newer_index_is_made_anew(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    put(store)
    store.inventory(0, 1)

    def changed(sql: str) -> bytes:
        connection = sqlite3.connect(":memory:", isolation_level=None)
        connection.deserialize(index.snapshot)
        connection.execute(sql)
        return connection.serialize()

    for snapshot in (
        changed("UPDATE facts SET value = 'other' WHERE name = 'disk_id'"),
        changed("DELETE FROM facts WHERE name = 'disk_id'"),
        changed("PRAGMA user_version = 99"),
        changed("DROP TABLE dead"),
        changed("DELETE FROM chunks"),
        changed("UPDATE chunks SET offset = offset + 8"),
        changed("UPDATE volumes SET upto = upto + 8"),
        changed("UPDATE volumes SET live = 'x'"),
        b"not a database at all" * 100,
        index.snapshot[:3000],
    ):
        again = reopened(SimDisk.holding(disk.contents()), MemoryIndex(snapshot))
        assert [report.kind for report in again.reports()] == ["index_discarded"]
        assert get(again) == b"data"
        check_index(again)


def test_an_index_that_knows_another_life_of_a_volume_forgets_it(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index)
    put(store, 0)
    store.close()
    other = SimDisk()
    second = open_store(other, MemoryIndex())
    put(second, 1, b"another life")
    again = reopened(SimDisk.holding(other.contents()), MemoryIndex(index.snapshot))
    assert again.stat(FILE, 0) is None
    assert get(again, 1) == b"another life"
    check_index(again)


def test_an_index_that_cannot_be_written_at_all_stops_the_start(disk: SimDisk, index: MemoryIndex) -> None:
    def fail(sql: str) -> None:
        raise sqlite3.OperationalError("unable to open database file")

    index.faults = fail
    with pytest.raises(StartError, match="unable to open"):
        open_store(disk, index)


def test_what_is_found_in_the_page_cache_after_a_kill_is_durable_before_it_counts(disk: SimDisk) -> None:
    """A failed sync, then `kill -9`: the record can be read, and the disk does not have it."""
    store = open_store(disk, MemoryIndex())
    put(store, 0)
    disk.faults = Faults(1, errno.EIO, only=frozenset({"sync"}))
    with pytest.raises(StoreReadOnly):
        put(store, 1, b"only in the page cache")
    disk.faults = None
    killed = open_store(disk, MemoryIndex())
    put(killed, 1, b"only in the page cache")  # a repeat: acknowledged because it is there
    assert get(open_store(cut_power(disk), MemoryIndex()), 1) == b"only in the page cache"


def test_a_disk_that_cannot_read_its_tail_loses_nothing_of_it(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex
) -> None:
    put(store, 0)
    put(store, 1, file_id=OTHER)
    size = len(disk.files[volume_path(1)].cache)
    reads = 0

    def unreadable(name: str) -> bool:
        nonlocal reads
        reads += name == "read"
        if name == "read" and reads > 2:
            raise OSError(errno.EIO, "I/O error")
        return False

    disk.faults = unreadable
    broken = reopened(disk, index)
    disk.faults = None
    assert reported(broken, "unreadable")
    assert len(disk.files[volume_path(1)].cache) == size
    put(broken, 2)
    again = reopened(disk, MemoryIndex(index.snapshot))
    assert get(again, 0) == get(again, 1, OTHER) == get(again, 2) == b"data"
    check_index(again)


def test_a_disk_that_fails_at_the_start_stops_it(disk: SimDisk, store: ChunkStore) -> None:
    put(store)
    disk.files[volume_path(1)].cache.extend(b"garbage!")
    for name in ("listdir", "sync_directory", "make_directory", "truncate", "sync"):
        broken = SimDisk.holding(disk.contents())
        broken.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({name}))
        with pytest.raises(OSError):
            reopened(broken, ballast_bytes=0)
        broken.faults = None
        assert get(reopened(broken)) == b"data"


def test_a_tail_that_cannot_be_read_is_not_cut(store: ChunkStore, disk: SimDisk, index: MemoryIndex) -> None:
    put(store)
    size = len(disk.files[volume_path(1)].cache)
    for failing in range(1, 8):
        broken = SimDisk.holding(disk.contents())
        broken.files[volume_path(1)].cache.extend(b"garbage!")
        broken.faults = Faults(failing, errno.EIO, lasting=True, only=frozenset({"read"}))
        try:
            reopened(broken)
        except OSError:
            pass
        broken.faults = None
        again = reopened(broken)
        assert get(again) == b"data"
        assert len(broken.files[volume_path(1)].cache) == size


def test_reports_and_stops_are_logged_unless_the_owner_does_more(caplog: pytest.LogCaptureFixture) -> None:
    options = StoreOptions()
    with caplog.at_level(logging.INFO, "dfs"):
        options.on_report(Report("cut_tail", "bytes 5 to 9", 1, volume=3, offset=5))
        options.on_fatal("the disk failed")
    assert [record.getMessage() for record in caplog.records] == ["store.cut_tail", "store.stopped"]


def test_a_long_volume_is_indexed_in_parts(disk: SimDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.store.recovery._BATCH", 3)
    store = open_store(disk, MemoryIndex(), small(volume_size=1 << 20))
    for number in range(20):
        put(store, number)
    again = reopened(disk)
    assert len(again.inventory(0, 100)) == 20
    check_index(again)
