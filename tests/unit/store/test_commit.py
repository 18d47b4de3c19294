"""Group commit and claims: many threads, one sync; joins, races and stops."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from dfs.errors import ChunkConflict, Gone, StoreReadOnly
from dfs.store.disk import Bytes, DiskFile
from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk, SimFile
from tests.support.store_model import DIRECTORY, open_store, small
from tests.unit.store.chunks import FILE, FILES, OTHER, get, put, reopened

WAIT = 30.0


class Gate:
    """Holds the calls of one kind on a disk until it is opened."""

    def __init__(self, disk: SimDisk, name: str) -> None:
        self.reached = threading.Semaphore(0)
        self.open = threading.Event()
        self._name = name
        self.calls = 0
        disk.faults = self

    def __call__(self, name: str) -> bool:
        if name == self._name:
            self.calls += 1
            self.reached.release()
            assert self.open.wait(WAIT)
        return False


class Threads:
    """Calls in threads of their own; `join` gives what they returned or raised."""

    def __init__(self) -> None:
        self.results: dict[int, Any] = {}
        self._threads: list[threading.Thread] = []

    def start(self, call: Callable[..., Any], *args: Any, **more: Any) -> None:
        number = len(self._threads)

        def run() -> None:
            try:
                self.results[number] = call(*args, **more)
            except Exception as error:
                self.results[number] = error

        thread = threading.Thread(target=run, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> list[Any]:
        for thread in self._threads:
            thread.join(WAIT)
            assert not thread.is_alive()
        return [self.results[number] for number in range(len(self._threads))]


def wait_until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT
    blank = threading.Event()
    while not true():
        assert time.monotonic() < deadline
        blank.wait(0.001)


@pytest.fixture
def store(disk: SimDisk, index: MemoryIndex) -> ChunkStore:
    opened = open_store(disk, index, small(volume_size=1 << 20))
    put(opened, 999)  # the volume is there
    return opened


def queued(store: ChunkStore) -> int:
    return len(store._parts.committer._queue)


def syncs(disk: SimDisk) -> int:
    return sum(event[0] == "sync" for event in disk.trace)


def test_all_who_come_during_a_sync_share_the_next(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads, before = Gate(disk, "sync"), Threads(), syncs(disk)
    threads.start(put, store, 0)
    gate.reached.acquire()
    for index in range(1, 9):
        threads.start(put, store, index)
    wait_until(lambda: queued(store) == 8)
    assert store.stat(FILE, 0) is None, "readable before it is durable"
    gate.open.set()
    stored = threads.join()
    assert [chunk.chunk_index for chunk in stored] == list(range(9))
    assert syncs(disk) - before == 2
    assert all(get(store, index) == b"data" for index in range(9))


def test_a_failing_sync_fails_its_whole_batch_and_nobody_else(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    for index in range(1, 5):
        threads.start(put, store, index)
    wait_until(lambda: queued(store) == 4)
    failing = Faults(1, errno.EIO, only=frozenset({"sync"}))
    disk.faults = failing  # the one that runs has passed its gate
    gate.open.set()
    results = threads.join()
    assert results[0].chunk_index == 0
    assert all(isinstance(error, StoreReadOnly) for error in results[1:])
    disk.faults = None
    assert [store.stat(FILE, index) is not None for index in range(5)] == [True] + [False] * 4
    put(store, 1)
    again = reopened(disk)
    assert [again.stat(FILE, index) is not None for index in range(5)] == [True, True, False, False, False]


def test_a_batch_never_spans_volumes(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=4096))
    put(store, 999)
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    for number in range(1, 9):
        threads.start(put, store, number, bytes(900))
    wait_until(lambda: queued(store) == 8)
    gate.open.set()
    assert all(not isinstance(result, Exception) for result in threads.join())
    assert max(volume.end for volume in store._parts.volumes.all()) <= 4096 + 200  # and a MARK
    assert len(store._parts.volumes.all()) >= 3
    assert all(get(store, number) == bytes(900) for number in range(1, 9))


def test_a_concurrent_repeat_joins_the_store_that_runs(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads, before = Gate(disk, "sync"), Threads(), syncs(disk)
    threads.start(put, store, 0)
    gate.reached.acquire()
    for _ in range(4):
        threads.start(put, store, 0)
    threads.start(put, store, 0, b"other")
    gate.open.set()
    results = threads.join()
    assert results[:5] == [results[0]] * 5
    assert isinstance(results[5], ChunkConflict)
    assert syncs(disk) - before == 1


def test_who_joined_a_store_that_failed_tries_for_himself(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads = Gate(disk, "write"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    threads.start(put, store, 0)
    failing = Faults(1, errno.EIO, only=frozenset({"sync"}))
    disk.faults = failing
    gate.open.set()
    results = threads.join()
    assert isinstance(results[0], StoreReadOnly)
    assert results[1].checksum
    assert get(store) == b"data"


def test_a_drop_waits_for_the_store_of_its_chunk(store: ChunkStore, disk: SimDisk) -> None:
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    threads.start(store.drop, FILE, 0)
    gate.open.set()
    results = threads.join()
    assert results[1] is True
    assert store.stat(FILE, 0) is None


def test_an_erase_beats_the_stores_that_run(store: ChunkStore, disk: SimDisk) -> None:
    """The ERASE is written before the chunk, whose caller must not be told that it is stored."""
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 0, b"first", OTHER)
    gate.reached.acquire()
    threads.start(store.erase, [FILE])
    wait_until(lambda: queued(store) == 1)
    threads.start(put, store, 0)
    wait_until(lambda: queued(store) == 2)
    gate.open.set()
    results = threads.join()
    assert results[1] is None
    assert isinstance(results[2], Gone)
    for again in (store, reopened(disk)):
        with pytest.raises(Gone):
            again.stat(FILE, 0)
        assert get(again, 0, OTHER) == b"first"
    store.inventory(0, 10)
    assert store.usage().chunks == 1


def test_an_erase_after_the_check_of_a_repeat_is_noticed(store: ChunkStore, disk: SimDisk) -> None:
    put(store, 0)
    gate, threads = Gate(disk, "forget_cached"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    store.erase([FILE])
    gate.open.set()
    assert isinstance(threads.join()[0], Gone)


def test_a_close_finishes_what_is_queued_and_refuses_what_comes_later(
    store: ChunkStore, disk: SimDisk
) -> None:
    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    for index in range(1, 4):
        threads.start(put, store, index)
    wait_until(lambda: queued(store) == 3)
    threads.start(store.close)
    wait_until(lambda: queued(store) == 4)
    with pytest.raises(StoreReadOnly, match="closing"):
        put(store, 9)
    gate.open.set()
    assert all(not isinstance(result, Exception) for result in threads.join())
    again = reopened(disk)
    assert all(get(again, index) == b"data" for index in range(4))
    assert again.reports() == []


def test_a_bug_in_the_leader_reaches_every_waiter(store: ChunkStore, disk: SimDisk) -> None:
    class Broken(Exception):
        pass

    gate, threads = Gate(disk, "sync"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    for index in range(1, 4):
        threads.start(put, store, index)
    wait_until(lambda: queued(store) == 3)

    def broken(name: str) -> bool:
        raise Broken

    disk.faults = broken
    gate.open.set()
    results = threads.join()
    assert results[0].chunk_index == 0
    disk.faults = None
    assert all(isinstance(error, StoreReadOnly) for error in results[1:])
    assert "log says why" in str(results[1])
    put(store, 1)
    assert get(store, 1) == b"data"


def test_an_interrupted_leader_hands_over(
    store: ChunkStore, disk: SimDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: SimFile, buffers: list[Bytes], offset: int) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(SimFile, "write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            put(store, 0)
    put(store, 0)
    assert get(store) == b"data"


def test_a_volume_that_cannot_be_begun_is_cleared_away_and_its_number_not_used_again(
    disk: SimDisk, index: MemoryIndex
) -> None:
    store = open_store(disk, index, small())
    for number, name in enumerate(("write", "sync", "sync_directory")):
        disk.faults = Faults(1, errno.EIO, only=frozenset({name}))
        with pytest.raises(StoreReadOnly):
            put(store)
        assert not disk.listdir(f"{DIRECTORY}/volumes"), number
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"sync", "unlink"}))
    with pytest.raises(StoreReadOnly):
        put(store)
    disk.faults = None
    put(store)
    assert [volume.number for volume in store._parts.volumes.all()] == [5]
    again = reopened(disk)
    assert get(again) == b"data"
    put(again, 1)


def test_a_mark_that_fails_at_a_roll_costs_nothing(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(volume_size=2048))
    put(store, 0, bytes(900))
    disk.faults = Faults(1, errno.EIO, only=frozenset({"sync"}))
    put(store, 1, bytes(900))
    disk.faults = None
    for snapshot in (index.snapshot, b""):
        again = reopened(SimDisk.holding(disk.contents()), MemoryIndex(snapshot))
        assert get(again, 0) == get(again, 1) == bytes(900)


def test_a_store_that_cannot_be_marked_at_its_close_is_whole_all_the_same(
    store: ChunkStore, disk: SimDisk
) -> None:
    put(store)
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"sync", "write", "close"}))
    store.close()
    disk.faults = None
    assert get(reopened(disk)) == b"data"


def test_many_threads_and_everything_at_once(real: ChunkStore) -> None:
    threads = Threads()

    def work(number: int) -> int:
        done = 0
        for round_ in range(40):
            index = (number * 7 + round_) % 50
            put(real, index, b"%d" % index * 100, FILES[2])
            assert get(real, index, FILES[2]) == b"%d" % index * 100
            put(real, number * 1000 + round_, b"mine", FILES[3])
            if round_ % 5 == 0:
                assert real.drop(FILES[3], number * 1000 + round_)
            done += 1
        return done

    for number in range(8):
        threads.start(work, number)
    threads.start(lambda: [real.compact() for _ in range(5)])
    assert threads.join()[:8] == [40] * 8
    assert len(real.inventory(0, 10_000)) == 50 + 8 * 32


def test_the_file_protocol_is_what_the_simulated_disk_offers(disk: SimDisk) -> None:
    file: DiskFile = disk.create("/f")
    assert file.write([b"ab", b"cd"], 2) == 4
    assert file.size() == 6
    assert bytes(disk.files["/f"].cache) == b"\0\0abcd"


def test_who_waits_when_the_store_stops_is_told(disk: SimDisk, index: MemoryIndex) -> None:
    store = open_store(disk, index, small(failures_until_stop=1, volume_size=1 << 20))
    put(store, 999)
    gate, threads = Gate(disk, "write"), Threads()
    threads.start(put, store, 0)
    gate.reached.acquire()
    for number in range(1, 4):
        threads.start(put, store, number)
    wait_until(lambda: queued(store) == 3)
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"sync"}))
    gate.open.set()
    results = threads.join()
    assert all(isinstance(error, StoreReadOnly) for error in results)
    assert all("1 times in a row" in str(error) for error in results[1:])


def test_an_index_that_cannot_be_sealed_is_doubted_by_the_next_start(
    store: ChunkStore, disk: SimDisk, index: MemoryIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    put(store)
    monkeypatch.setattr(index, "checkpoint", fail)
    store.close()
    assert get(reopened(disk, MemoryIndex(index.snapshot))) == b"data"
