"""T3: the n-th call on the disk, and the n-th statement on the index, fails: for every n, in every way,
once and from then on. No call that returned may be lost, neither now nor after a power cut."""

from __future__ import annotations

import errno
import random
import sqlite3
import uuid
from collections.abc import Callable, Iterator

import pytest

from dfs.errors import DfsError, NodeFull, StartError, StoreReadOnly
from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk, Wreck
from tests.support.store_model import DIRECTORY, Clock, Workload, check, check_index, open_store, quiet, small
from tests.support.sweep import seeded

WAYS: tuple[int | str, ...] = (errno.EIO, errno.ENOSPC, "short")
FILE = str(uuid.UUID(int=0x40008000 << 64 | 99, version=4))


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


class Scenario:
    """Every kind of call, a roll, a compaction, and a restart in the middle, on one disk."""

    OPTIONS = small(volume_size=2600, index_batch=4)

    def __init__(self, seed: int = 0) -> None:
        self.disk = SimDisk()
        self.index = MemoryIndex(position=lambda: len(self.disk.trace))
        self.work = Workload(random.Random(seed))
        self.clock = Clock()

    def calls(self) -> Iterator[tuple[object, ...]]:
        first, second, third = self.work.FILES[:3]
        for index in range(3):
            yield "put", (first, index), self.work.data((first, index))
        yield "put", (first, 1), self.work.data((first, 1))
        yield "note", ({"file_id": first, "op_id": "a"}, {"file_id": second, "op_id": "b"})
        yield "put", (second, 0), b"s" * 1500
        yield "drop", (first, 0)
        yield "put", (second, 1), b"t" * 1500
        yield "restart", None
        yield "put", (second, 2), b"u" * 1400
        yield "put", (third, 0), b""
        yield (
            "put_many",
            (
                ((third, 2), b"w" * 700),
                ((second, 1), b"t" * 1500),
                ((third, 2), b"w" * 700),
                ((third, 2), b"other"),
                ((first, 2), b"x" * 900),
            ),
        )
        yield "verify", (second, 1)
        yield "drop", (second, 1)
        yield "erase", (first,)
        yield "compact", None, 3
        yield "put", (third, 1), b"v" * 900
        yield "put", (second, 2), b"u" * 1400
        yield "drop", (second, 2)
        yield "note", ({"file_id": third, "op_id": "c"},)
        yield "put", (third, 1), b"v" * 900

    def run(self) -> ChunkStore | None:
        """All calls; None when the store could not be opened any more."""
        store = self.open()
        for op in self.calls():
            if store is None:
                return None
            if op[0] == "restart":
                store.close()
                store = self.open()
            else:
                self.work.run(store, op, lambda: len(self.disk.trace))
        return store

    def open(self) -> ChunkStore | None:
        try:
            return open_store(self.disk, self.index, self.OPTIONS, self.clock)
        except (OSError, StartError):
            return None

    def examine(self, store: ChunkStore | None, where: str) -> None:
        """With no more faults: what the store says now, then what it says after a power cut that
        leaves nothing unsynced."""
        self.disk.faults = None
        self.index.faults = None
        model = self.work.model
        if store is not None:
            check(store, model, self.work.keys, f"{where}, in the same process")
            check_index(store)
        wreck = Wreck(self.disk)
        for event in self.disk.trace:
            wreck.step(event)
        for keep in (False, True):
            files = wreck.image(lambda _, keep=keep: keep, lambda _: None)
            for snapshot in (self.index.snapshot, b""):
                again = open_store(SimDisk.holding(files), MemoryIndex(snapshot), self.OPTIONS, self.clock)
                check(again, model, self.work.keys, f"{where}, after a power cut")


def count(prepare: Callable[[Scenario, Callable[[str], None]], None]) -> int:
    """How many calls a run without faults makes."""
    scenario, calls = Scenario(), 0

    def one(_: str) -> None:
        nonlocal calls
        calls += 1

    prepare(scenario, one)
    store = scenario.run()
    assert store is not None
    scenario.examine(store, "without faults")
    return calls


@pytest.mark.parametrize("lasting", (False, True), ids=("once", "for good"))
@pytest.mark.parametrize("how", WAYS, ids=("EIO", "ENOSPC", "short write"))
def test_no_failing_disk_call_loses_what_was_acknowledged(how: int | str, lasting: bool) -> None:
    def prepare(scenario: Scenario, one: Callable[[str], None]) -> None:
        scenario.disk.faults = lambda name: bool(one(name))

    total = count(prepare)
    assert total > 100
    sites = set()
    for number in range(1, total + 1):
        scenario = Scenario()
        faults = scenario.disk.faults = Faults(number, how, lasting)
        store = scenario.run()
        sites.update(faults.hit)
        scenario.examine(store, f"disk call {number} ({faults.hit[:1]}) fails with {how}, lasting: {lasting}")
    assert {
        "write",
        "sync",
        "sync_directory",
        "create",
        "open",
        "unlink",
        "rename",
        "listdir",
        "close",
    } <= sites


@pytest.mark.parametrize("lasting", (False, True), ids=("once", "for good"))
@pytest.mark.parametrize("kind", ("unavailable", "damaged"))
def test_no_failing_index_statement_loses_what_was_acknowledged(kind: str, lasting: bool) -> None:
    def prepare(scenario: Scenario, one: Callable[[str], None]) -> None:
        scenario.index.faults = one

    total = count(prepare)
    assert total > 100
    step = 1 if not lasting else 2
    for number in range(1, total + 1, step):
        scenario = Scenario()
        calls = 0

        def fail(sql: str, number: int = number) -> None:
            nonlocal calls
            calls += 1
            if calls == number or (lasting and calls > number):
                if kind == "unavailable":
                    raise sqlite3.OperationalError("disk I/O error")
                raise sqlite3.DatabaseError("database disk image is malformed")

        scenario.index.faults = fail
        store = scenario.run()
        scenario.examine(store, f"index statement {number} fails ({kind}), lasting: {lasting}")


def test_a_failing_index_write_fails_no_store_and_no_delete() -> None:
    disk, index = SimDisk(), MemoryIndex()
    store = open_store(disk, index, small(index_batch=1, pending_limit=1000))

    def fail(sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            raise sqlite3.OperationalError("database or disk is full")

    index.faults = fail
    for number in range(20):
        store.put(FILE, number, b"x" * number, checksum=None, chunk_size=100, file_size=None)
    assert store.drop(FILE, 3)
    store.erase([FILE])
    index.faults = None
    assert store.inventory(0, 100) == []
    check_index(store)


def test_writers_wait_when_the_index_is_too_far_behind_and_go_on_when_it_is_not() -> None:
    disk, index = SimDisk(), MemoryIndex()
    store = open_store(disk, index, small(index_batch=1, pending_limit=5))

    def fail(sql: str) -> None:
        if sql == "BEGIN IMMEDIATE":
            raise sqlite3.OperationalError("database or disk is full")

    index.faults = fail
    stored = 0
    with pytest.raises(DfsError, match="too far behind"):
        for number in range(20):
            store.put(FILE, number, b"x", checksum=None, chunk_size=100, file_size=None)
            stored += 1
    assert stored == 5
    index.faults = None
    store.put(FILE, 19, b"x", checksum=None, chunk_size=100, file_size=None)
    assert len(store.inventory(0, 100)) == 6


def test_a_sync_that_failed_and_then_succeeds_acknowledges_nothing_of_the_first() -> None:
    disk, index = SimDisk(), MemoryIndex()
    store = open_store(disk, index, small(volume_size=1 << 16))
    store.put(FILE, 0, b"good", checksum=None, chunk_size=100, file_size=None)
    disk.faults = Faults(1, errno.EIO, only=frozenset({"sync"}))
    with pytest.raises(StoreReadOnly, match="disk failed"):
        store.put(FILE, 1, b"lost", checksum=None, chunk_size=100, file_size=None)
    disk.faults = None
    assert store.stat(FILE, 1) is None
    store.put(FILE, 2, b"later", checksum=None, chunk_size=100, file_size=None)
    volumes = [volume.number for volume in store._parts.volumes.all()]
    assert volumes == [1, 2], "the volume was not sealed"
    for snapshot in (index.snapshot, b""):
        again = open_store(SimDisk.holding(disk.contents()), MemoryIndex(snapshot))
        assert again.stat(FILE, 0) and again.stat(FILE, 2)
        assert again.stat(FILE, 1) is None, "a record came back of which a failure was reported"


def test_after_a_failed_drop_a_repeated_put_is_not_acknowledged_before_the_drop_is_undone_for_good() -> None:
    disk, index = SimDisk(), MemoryIndex()
    store = open_store(disk, index, small(volume_size=1 << 16))
    store.put(FILE, 0, b"data", checksum=None, chunk_size=100, file_size=None)
    disk.faults = Faults(1, errno.EIO, only=frozenset({"sync"}))
    with pytest.raises(StoreReadOnly):
        store.drop(FILE, 0)
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"create"}))
    with pytest.raises(StoreReadOnly):
        store.put(FILE, 0, b"data", checksum=None, chunk_size=100, file_size=None)
    disk.faults = None
    store.put(FILE, 0, b"data", checksum=None, chunk_size=100, file_size=None)
    again = open_store(SimDisk.holding(disk.contents()), MemoryIndex())
    assert again.stat(FILE, 0) is not None, "the drop of which a failure was reported came back"


def test_a_store_whose_disk_fails_again_and_again_stops_and_says_so_once() -> None:
    told: list[str] = []
    disk, index = SimDisk(), MemoryIndex()
    store = open_store(disk, index, small(failures_until_stop=3, on_fatal=told.append))
    store.put(FILE, 0, b"data", checksum=None, chunk_size=100, file_size=None)
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"sync"}))
    for number in range(1, 8):
        with pytest.raises(StoreReadOnly):
            store.put(FILE, number, b"data", checksum=None, chunk_size=100, file_size=None)
    assert len(told) == 1
    assert "3 times in a row" in told[0]
    assert store.usage().read_only_reason == told[0]
    disk.faults = None
    with pytest.raises(StoreReadOnly, match="3 times in a row"):
        store.put(FILE, 0, b"data", checksum=None, chunk_size=100, file_size=None)
    with store.open_chunk(FILE, 0) as reader:
        assert b"".join(map(bytes, reader.pieces())) == b"data"
    store.close()


def test_one_success_between_failures_keeps_the_store_going() -> None:
    told: list[str] = []
    disk = SimDisk()
    store = open_store(disk, MemoryIndex(), small(failures_until_stop=3, on_fatal=told.append))
    for number in range(12):
        disk.faults = Faults(1, errno.EIO, only=frozenset({"sync"})) if number % 3 else None
        try:
            store.put(FILE, number, b"data", checksum=None, chunk_size=100, file_size=None)
        except StoreReadOnly:
            assert number % 3
    assert told == []


def test_on_a_full_disk_stores_are_refused_and_deletes_and_compaction_work() -> None:
    disk = SimDisk(capacity=32 * 1024)
    store = open_store(disk, MemoryIndex(), small(volume_size=4096, ballast_bytes=8192))
    stored = 0
    with pytest.raises(NodeFull):
        for number in range(100):
            store.put(FILE, number, bytes([number]) * 700, checksum=None, chunk_size=700, file_size=None)
            stored += 1
    assert stored > 20
    disk.files[f"{DIRECTORY}/other"] = filler = type(next(iter(disk.files.values())))()
    filler.cache.extend(bytes(max(0, disk.capacity - disk.used)))
    assert disk.space(DIRECTORY).free == 0
    for number in range(stored - 4):
        assert store.drop(FILE, number)
    store.note([{"file_id": FILE, "op_id": "n"}])
    for volume in [volume.number for volume in store._parts.volumes.all()]:
        try:
            store.compact([volume])
        except DfsError:
            continue  # no room for a copy yet: another volume frees some
    assert disk.space(DIRECTORY).free > 4096
    store.put(FILE, 0, b"again", checksum=None, chunk_size=700, file_size=None)
    with store.open_chunk(FILE, stored - 1) as reader:
        assert b"".join(map(bytes, reader.pieces())) == bytes([stored - 1]) * 700
    check_index(store)


def test_the_reserve_is_kept() -> None:
    disk = SimDisk(capacity=100_000)
    store = open_store(disk, MemoryIndex(), small(reserve_bytes=None, volume_size=4096))
    with pytest.raises(NodeFull, match="in reserve"):
        for number in range(1000):
            store.put(FILE, number, bytes(900), checksum=None, chunk_size=900, file_size=None)
    free = disk.space(DIRECTORY).free
    assert 8192 <= free <= 8192 + 4096
    usage = store.usage()
    assert usage.free_bytes == free - 8192
    assert not usage.full
    assert store.drop(FILE, 0)
    disk.capacity -= usage.free_bytes
    assert store.usage().full


def test_a_short_write_is_gone_on_with() -> None:
    disk = SimDisk()
    store = open_store(disk, MemoryIndex(), small())
    disk.faults = Faults(1, "short", lasting=True)
    data = seeded("short").randbytes(2500)
    store.put(FILE, 0, data, checksum=None, chunk_size=2500, file_size=None)
    disk.faults = None
    with store.open_chunk(FILE, 0) as reader:
        assert b"".join(map(bytes, reader.pieces())) == data
