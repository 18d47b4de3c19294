"""T2: what the disk may hold after a power cut at any step of a trace of writes and syncs.

For every prefix of the trace: everything unsynced there, nothing, each write or name alone lost, each
torn at 512 B and 4 KiB, random subsets; with the index current, stale at any earlier commit, missing or
damaged. After recovery acknowledged ⊆ readable ⊆ attempted, recovering again changes nothing, and a
second power cut in the middle of the recovery changes no promise either.
"""

from __future__ import annotations

import errno
import itertools
import random
from collections.abc import Iterator

import pytest

from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk, Wreck, crash_images
from tests.support.store_model import (
    Clock,
    Model,
    Workload,
    check,
    check_index,
    noted,
    observe,
    open_store,
    quiet,
    small,
)
from tests.support.sweep import SEED, scaled, seeded

STATES = scaled(20_000, 2_000_000)
INDEXES = ("current", "stale", "missing", "damaged")
WORKLOADS: dict[str, dict[str, int]] = {
    "store": {"put": 10, "put_many": 4, "note": 2},
    "batch": {"put": 2, "put_many": 8, "drop": 2, "erase": 1, "note": 1},
    "delete": {"put": 8, "put_many": 2, "drop": 6, "erase": 1},
    "roll": {"put": 10, "put_many": 2, "drop": 1},
    "compaction": {"put": 8, "put_many": 2, "drop": 3, "erase": 1, "note": 1, "compact": 4},
    "index": {"put": 6, "put_many": 2, "drop": 3, "verify": 2, "compact": 1},
    "failing": {"put": 8, "put_many": 4, "drop": 4, "erase": 1, "note": 1, "compact": 1},
    "restart": {"put": 8, "put_many": 2, "drop": 4, "compact": 1, "restart": 3},
}


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


class Recording:
    """A workload run once; its trace, and what was acknowledged and attempted at every step of it."""

    def __init__(self, kind: str, rng: random.Random) -> None:
        self.disk = SimDisk()
        self.index = MemoryIndex(position=lambda: len(self.disk.trace))
        self.work = Workload(rng)
        clock = Clock()
        options = small(
            volume_size=1 << 20 if kind == "store" else 3000, index_batch=2 if kind == "index" else 5
        )
        store = open_store(self.disk, self.index, options, clock)
        for _ in range(14):
            op = self.work.choose(WORKLOADS[kind])
            if op[0] == "restart":
                if rng.random() < 0.5:
                    store.close()
                store = open_store(self.disk, self.index, options, clock)
                continue
            if kind == "failing" and rng.random() < 0.3:
                how = rng.choice((errno.EIO, errno.ENOSPC))
                only = rng.choice((frozenset({"sync"}), frozenset({"write"}), None))
                self.disk.faults = Faults(rng.randint(1, 3), how, only=only)
            self.work.run(store, op, lambda: len(self.disk.trace))
            self.disk.faults = None
        if rng.random() < 0.5:
            store.close()

    def models(self) -> Iterator[tuple[int, Model]]:
        """For each step of the trace what is promised and possible when the power goes after it."""
        finished = Model()
        log = iter(self.work.log)
        entry = next(log, None)
        for step in range(len(self.disk.trace) + 1):
            while entry is not None and entry[1] <= step:
                _, _, op, outcome = entry
                finished.ended(op, outcome)
                entry = next(log, None)
            model = finished.copy()
            if entry is not None and entry[0] < step:
                model.attempted(entry[2])
            yield step, model


def states(kind: str, rng: random.Random) -> Iterator[tuple[Recording, int, Model, str, dict[str, bytes]]]:
    """Every crash state of one recording."""
    recording = Recording(kind, rng)
    wreck = Wreck(recording.disk)
    for step, model in recording.models():
        if step:
            wreck.step(recording.disk.trace[step - 1])
        for name, files in crash_images(wreck, rng):
            yield recording, step, model, name, files


def recover(files: dict[str, bytes], snapshot: bytes) -> tuple[ChunkStore, SimDisk, MemoryIndex]:
    disk = SimDisk.holding(files)
    index = MemoryIndex(snapshot, position=lambda: len(disk.trace))
    return open_store(disk, index, small(volume_size=3000)), disk, index


def examine(
    recording: Recording, step: int, model: Model, files: dict[str, bytes], rng: random.Random, where: str
) -> None:
    """Recover from one crash state; then crash in the middle of that, or go on and crash after it."""
    snapshot = recording.index.at(step, rng.choice(INDEXES), rng)
    keys = recording.work.keys
    store, disk, index = recover(files, snapshot)
    seen = check(store, model, keys, where)
    notes = noted(store)
    choice = rng.randrange(4)
    if choice == 0:
        again, _, _ = recover(disk.contents(), index.snapshot if rng.random() < 0.5 else b"")
        assert observe(again, keys) == seen, f"{where}: recovering again changed what is stored"
        assert noted(again) == notes, f"{where}: recovering again changed the notes"
    elif choice == 1:
        second = Wreck(disk)
        steps = rng.randint(0, len(disk.trace))
        for event in disk.trace[:steps]:
            second.step(event)
        name, torn = rng.choice(list(crash_images(second, rng)))
        again, _, _ = recover(torn, index.at(steps, rng.choice(INDEXES), rng))
        check(again, model, keys, f"{where}, then a second cut after {steps} steps of recovery ({name})")
    elif choice == 2:
        check_index(store)
    else:
        go_on(store, disk, index, model, recording, rng, seen, notes, where)


def go_on(
    store: ChunkStore,
    disk: SimDisk,
    index: MemoryIndex,
    model: Model,
    recording: Recording,
    rng: random.Random,
    seen: dict[tuple[str, int], bytes | str | None],
    notes: set[str],
    where: str,
) -> None:
    """The recovered store takes calls; then the power goes again, and nothing unsynced survives."""
    work = Workload(rng)
    work.model = Model()
    work.model.became(seen, notes)
    for _ in range(3):
        work.run(store, work.choose(WORKLOADS["compaction"]))
    wreck = Wreck(disk)
    for event in disk.trace:
        wreck.step(event)
    for name, files in itertools.islice(crash_images(wreck, rng), 2):
        again, _, _ = recover(files, index.at(len(disk.trace), rng.choice(INDEXES), rng))
        check(again, work.model, recording.work.keys, f"{where}, then calls and a second cut ({name})")


@pytest.mark.parametrize("part", range(2))
@pytest.mark.parametrize("kind", WORKLOADS)
def test_acknowledged_is_readable_and_readable_was_attempted(kind: str, part: int) -> None:
    wanted = -(-STATES // (2 * len(WORKLOADS)))
    done = 0
    for number in itertools.count():
        rng = seeded("T2", kind, part, number)
        for recording, step, model, name, files in states(kind, rng):
            where = (
                f"{kind} {part}, recording {number}, cut after step {step} of {len(recording.disk.trace)}, {name} "
                f"(replay: SEED={SEED} pytest '{__file__}' -k '{kind}-{part}')"
            )
            examine(recording, step, model, files, rng, where)
            done += 1
            if done == wanted:
                return
