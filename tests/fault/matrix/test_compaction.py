"""A node compacts a volume, and something fails at each call on its disk or index: what counts stays, what
does not stays away, and the next compaction does what this one did not."""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Callable

import pytest

from dfs.errors import Unavailable
from dfs.store.store import ChunkStore
from tests.support.disk import MemoryIndex, SimDisk, Wreck, crash_images
from tests.support.store_model import DIRECTORY, State, check_index, noted, observe, open_store, quiet, small
from tests.support.sweep import seeded
from tests.unit.store.chunks import FILE, FILES, OTHER, get, put, volume_path

STEPS = ("copy", "sync", "name", "index", "removal")
OPTIONS = small(volume_size=2048)
NEWER = (FILES[7], 1000)
ERASED = FILES[2]
STORED: dict[tuple[str, int], State] = {
    (FILE, 0): b"data",
    (FILE, 1): None,
    (OTHER, 0): b"other",
    (ERASED, 0): "gone",
    NEWER: bytes(2000),
}


class Killed(BaseException):
    """The process is no more: nothing that it would have done still happens."""


class Run:
    """One compaction of volume 1, watched call by call. `hurt` is asked at each call on the disk or the
    index, with its name, the step it belongs to and its number in that step, and may raise."""

    def __init__(self, hurt: Callable[[str, str, int], None] = lambda name, step, number: None) -> None:
        self.disk = SimDisk()
        self.index = MemoryIndex(position=lambda: len(self.disk.trace))
        self.calls: list[tuple[str, str]] = []
        self.store = open_store(self.disk, self.index, OPTIONS)
        for index in range(2):
            put(self.store, index)
        put(self.store, 0, b"other", OTHER)
        put(self.store, 0, b"to be erased", ERASED)
        self.store.note([{"file_id": FILE, "op_id": "a"}])
        self.store.drop(FILE, 1)
        self.store.erase([ERASED])
        put(self.store, NEWER[1], bytes(2000), NEWER[0])
        self.store.inventory(0, 1)  # the index is up to date: what it does now belongs to the compaction
        self.notes = noted(self.store)
        self._hurt = hurt
        self.failure: BaseException | None = None

    def go(self) -> None:
        self.disk.faults = self._on_disk
        self.index.faults = self._on_index
        try:
            self.store.compact([1])
        except (Unavailable, Killed) as error:
            self.failure = error
        finally:
            self.disk.faults = self.index.faults = None

    def _on_disk(self, name: str) -> bool:
        self._called(name)
        return False

    def _on_index(self, sql: str) -> None:
        self._called("commit" if sql == "COMMIT" else "index")

    def _called(self, name: str) -> None:
        if isinstance(self.failure, Killed):
            raise self.failure
        step = self._step(name)
        self.calls.append((name, step))
        try:
            self._hurt(name, step, sum(1 for _, other in self.calls if other == step) - 1)
        except Killed as error:
            self.failure = error
            raise

    def _step(self, name: str) -> str:
        seen = [call for call, _ in self.calls]
        if "sync" not in seen:
            return "sync" if name == "sync" else "copy"
        if "sync_directory" not in seen:
            return "name"
        return "removal" if name == "listdir" or "removal" in [step for _, step in self.calls] else "index"


def calls_of(step: str) -> list[str]:
    """The calls of a step when nothing fails."""
    run = Run()
    run.go()
    assert run.failure is None and volume_path(1) not in run.disk.files
    assert {step for _, step in run.calls} == set(STEPS)
    return [name for name, other in run.calls if other == step]


def check(store: ChunkStore, notes: set[str], where: str) -> None:
    """Everything that counts, and nothing else, is there, and the store takes more."""
    assert observe(store, list(STORED)) == STORED, where
    assert noted(store) == notes, where


def finish(store: ChunkStore, disk: SimDisk, notes: set[str], where: str) -> None:
    """The store goes on: it takes a chunk, and a compaction does the rest and gives the space back."""
    put(store, 5, b"afterwards")
    if volume_path(1) in disk.files:
        store.compact([1])
    else:
        store.compact([])
    assert volume_path(1) not in disk.files, where
    assert not [name for name in disk.files if name.endswith(".tmp")], where
    assert get(store, 5) == b"afterwards", where
    store.drop(FILE, 5)
    check(store, notes, where)
    check_index(store)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


@pytest.mark.parametrize("step", STEPS)
def test_compaction_and_a_process_killed(step: str) -> None:
    for number, name in enumerate(calls_of(step)):
        where = f"killed before call {number} of {step} ({name})"

        def kill(_: str, at: str, count: int, number: int = number) -> None:
            if (at, count) == (step, number):
                raise Killed

        run = Run(kill)
        run.go()
        assert isinstance(run.failure, Killed)
        disk = SimDisk.holding(run.disk.contents())
        again = open_store(disk, MemoryIndex(run.index.snapshot), OPTIONS)
        check(again, run.notes, where)
        finish(again, disk, run.notes, where)


@pytest.mark.parametrize("step", STEPS)
def test_compaction_and_power_lost(step: str) -> None:
    rng = seeded("compaction", step)
    names = calls_of(step)
    chosen = [number for number, name in enumerate(names) if name != "index"] or [0]
    for number in chosen:

        def kill(_: str, at: str, count: int, number: int = number) -> None:
            if (at, count) == (step, number):
                raise Killed

        run = Run(kill)
        run.go()
        wreck = Wreck(run.disk)
        for event in run.disk.trace:
            wreck.step(event)
        for kind, files in crash_images(wreck, rng):
            examine_wreck(run, files, rng, f"power lost before call {number} of {step} ({names[number]}), {kind}")


def examine_wreck(run: Run, files: dict[str, bytes], rng: random.Random, where: str) -> None:
    for state in ("current", "stale", "missing"):
        disk = SimDisk.holding(files)
        snapshot = run.index.at(len(run.disk.trace), state, rng)
        again = open_store(disk, MemoryIndex(snapshot), OPTIONS)
        check(again, run.notes, f"{where}, index {state}")
        finish(again, disk, run.notes, f"{where}, index {state}")


def fail_each(step: str, number_of_error: int, sql_error: str, names: Callable[[str], bool]) -> None:
    """Each call of the step whose name is chosen fails once."""
    struck = 0
    for number, name in enumerate(calls_of(step)):
        if not names(name):
            continue
        where = f"call {number} of {step} ({name}) fails"

        def fail(name: str, at: str, count: int, number: int = number) -> None:
            if (at, count) == (step, number):
                if name in ("index", "commit"):
                    raise sqlite3.OperationalError(sql_error)
                raise OSError(number_of_error, "injected")

        run = Run(fail)
        run.go()
        struck += 1
        # Clients go on reading and writing, whether the compaction failed or went on.
        check(run.store, run.notes, where)
        put(run.store, 6, b"meanwhile")
        assert get(run.store, 6) == b"meanwhile", where
        run.store.drop(FILE, 6)
        if name == "sync_directory":
            with pytest.raises(Unavailable, match="durable or not"):
                run.store.compact([1])
        else:
            finish(run.store, run.disk, run.notes, where)
        disk = SimDisk.holding(run.disk.contents())
        again = open_store(disk, MemoryIndex(run.index.snapshot), OPTIONS)
        check(again, run.notes, f"{where}, after a restart")
        finish(again, disk, run.notes, f"{where}, after a restart")
    assert struck


@pytest.mark.parametrize("step", STEPS)
def test_compaction_and_a_disk_error(step: str) -> None:
    fail_each(step, errno.EIO, "disk I/O error", lambda name: True)


@pytest.mark.parametrize("step", ("copy", "sync", "name", "index"))
def test_compaction_and_a_disk_that_is_full(step: str) -> None:
    needing_room = {"create", "write", "sync", "rename", "index", "commit"}
    fail_each(step, errno.ENOSPC, "database or disk is full", lambda name: name in needing_room)


def test_a_compaction_that_meets_a_disk_without_a_byte_left_uses_the_ballast() -> None:
    disk = SimDisk(capacity=16 * 1024)
    store = open_store(disk, MemoryIndex(), small(volume_size=2048, ballast_bytes=4096))
    for number in range(3):
        put(store, number, bytes([number]) * 600)
    store.drop(FILE, 1)
    put(store, 9, bytes(2000))
    filler = disk.files[f"{DIRECTORY}/other"] = type(next(iter(disk.files.values())))()
    filler.cache.extend(bytes(disk.capacity - disk.used))
    assert disk.space(DIRECTORY).free == 0
    try:
        store.compact([1])
    except Unavailable:
        store.compact([1])  # the first has given the ballast away
    assert volume_path(1) not in disk.files
    assert [get(store, number) for number in (0, 2)] == [bytes([number]) * 600 for number in (0, 2)]
    put(store, 10, b"and there is room again")
