"""T1: random sequences of calls, restarts, power cuts and failing calls, against a reference model.

Volumes, caches and batches are tiny, so that edges come often. After every step the store must agree
with the model; a call that failed may have happened only until the next one succeeds.
"""

from __future__ import annotations

import errno
import random
import sqlite3
from collections.abc import Sequence

import pytest

from dfs.errors import StartError
from dfs.store.store import ChunkStore
from tests.support.disk import Faults, MemoryIndex, SimDisk, Wreck, crash_images
from tests.support.store_model import (
    Clock,
    Workload,
    check,
    check_index,
    noted,
    open_store,
    quiet,
    read,
    small,
)
from tests.support.sweep import SEED, scaled, seeded, shrink

GROUPS = 8
SEQUENCES = scaled(2_000, 1_000_000)
STEPS = 24
CALLS = {"put": 12, "put_many": 5, "drop": 4, "erase": 1, "note": 2, "verify": 1, "compact": 2}
KINDS = {
    "call": 60,
    "restart": 5,
    "power cut": 7,
    "kill": 6,
    "broken start": 2,
    "failing disk": 16,
    "failing index": 8,
    "months": 2,
}
FINE = ("index_discarded", "cut_tail")
Step = tuple[str, int]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    quiet()


class Run:
    """One sequence. Every step draws from a seed of its own, so that steps can be left out."""

    def __init__(self) -> None:
        self.work = Workload(random.Random(0))
        self.disk = SimDisk(capacity=1 << 20)
        self.index = MemoryIndex()
        self.clock = Clock()
        self.erased_at: dict[str, float] = {}
        self.store = self.open()

    def open(self) -> ChunkStore:
        return open_store(self.disk, self.index, small(), self.clock)

    def step(self, step: Step) -> None:
        kind, seed = step
        self.work.rng = random.Random(seed)
        getattr(self, kind.replace(" ", "_"))(self.work.rng)
        for file_id in self.work.model.erased | self.work.model.maybe_erased:
            self.erased_at.setdefault(file_id, self.clock.now)
        found = check(self.store, self.work.model, self.work.keys, f"after {step}")
        if not self.work.model.maybe and not self.work.model.maybe_erased:
            assert all(found[key] == self.work.model.state(key) for key in found)

    def call(self, rng: random.Random, may_fail: bool = False) -> None:
        op = self.work.choose(CALLS)
        outcome = self.work.run(self.store, op)
        if op[0] == "compact":
            self._learn_what_was_forgotten()
        stuck = op[0] == "compact" and self.store._parts.compactor.stuck
        failed = "f" in outcome if op[0] == "put_many" else outcome == "failed"
        assert may_fail or stuck or not failed, op

    def restart(self, rng: random.Random) -> None:
        self.store.close()
        self.disk = SimDisk.holding(self.disk.contents(), self.disk.capacity)
        self.index = MemoryIndex(self.index.snapshot if rng.random() < 0.8 else b"")
        self.store = self.open()
        assert not [report for report in self.store.reports() if report.kind not in FINE]
        check_index(self.store)

    def power_cut(self, rng: random.Random) -> None:
        self._cut(rng)
        self.store = self.open()
        self._learn()

    def kill(self, rng: random.Random) -> None:
        """The process dies, the page cache lives: what a failed sync left looks as if it were stored."""
        self.index = MemoryIndex(self.index.snapshot if rng.random() < 0.7 else b"")
        self.store = self.open()
        self._learn()

    def broken_start(self, rng: random.Random) -> None:
        self._cut(rng)
        self.disk.faults = Faults(
            rng.randint(1, 60), rng.choice((errno.EIO, errno.ENOSPC)), rng.random() < 0.5
        )
        try:
            self.store = self.open()
        except (OSError, StartError):
            pass
        self.disk.faults = None
        self.power_cut(rng)

    def _cut(self, rng: random.Random) -> None:
        """The power goes: of what was not synced, the disk has what chance leaves."""
        wreck = Wreck(self.disk)
        for event in self.disk.trace:
            wreck.step(event)
        _, files = rng.choice(list(crash_images(wreck, rng, subsets=6)))
        variant = rng.choice(("current", "current", "stale", "missing", "damaged"))
        self.disk = SimDisk.holding(files, self.disk.capacity)
        self.index = MemoryIndex(self.index.at(0, variant, rng))

    def _learn(self) -> None:
        seen = check(self.store, self.work.model, self.work.keys, "after a power cut")
        self.work.model.became(seen, noted(self.store))
        check_index(self.store)

    def failing_disk(self, rng: random.Random) -> None:
        how = rng.choice((errno.EIO, errno.ENOSPC, "short"))
        only = rng.choice((None, None, frozenset({"sync"}), frozenset({"write"}), frozenset({"read"})))
        self.disk.faults = Faults(rng.randint(1, 8), how, rng.random() < 0.5, only)
        for _ in range(rng.randint(1, 3)):
            self.call(rng, may_fail=True)
        self.disk.faults = None

    def failing_index(self, rng: random.Random) -> None:
        left = rng.randint(1, 15)
        error = rng.choice(
            (
                sqlite3.OperationalError("disk I/O error"),
                sqlite3.DatabaseError("database disk image is malformed"),
            )
        )

        def fail(sql: str) -> None:
            nonlocal left
            left -= 1
            if left < 0 and sql != "ROLLBACK":
                raise error

        self.index.faults = fail
        for _ in range(rng.randint(1, 3)):
            self.call(rng, may_fail=True)
        self.index.faults = None

    def months(self, rng: random.Random) -> None:
        self.clock.now += rng.choice((3, 31, 31)) * 86_400
        if self.store._parts.compactor.stuck:
            return
        self.store.compact([volume.number for volume in self.store._parts.volumes.all()])
        self._learn_what_was_forgotten()

    def _learn_what_was_forgotten(self) -> None:
        """After 30 days a compaction may forget that a file was erased, when nothing is left of it."""
        faults, self.disk.faults = self.disk.faults, None
        index_faults, self.index.faults = self.index.faults, None
        for file_id in sorted(self.work.model.erased):
            if read(self.store, (file_id, 0)) is None:
                assert self.clock.now - self.erased_at[file_id] >= 30 * 86_400
                self.work.model.forget(file_id)
        self.disk.faults, self.index.faults = faults, index_faults


def steps(group: int, number: int) -> list[Step]:
    rng = seeded("T1", group, number)
    return [(rng.choices(list(KINDS), list(KINDS.values()))[0], rng.getrandbits(40)) for _ in range(STEPS)]


def failure(case: Sequence[Step]) -> BaseException | None:
    """What goes wrong in a case."""
    try:
        run = Run()
        for step in case:
            run.step(step)
    except Exception as error:
        return error
    return None


@pytest.mark.parametrize("group", range(GROUPS))
def test_the_store_never_differs_from_the_model(group: int) -> None:
    for number in range(group, SEQUENCES, GROUPS):
        case = steps(group, number)
        error = failure(case)
        if error is not None:
            shortest = shrink(case, lambda shorter: failure(shorter) is not None)
            print(f"sequence {group}, {number} fails; replay: SEED={SEED} pytest '{__file__}' -k '[{group}]'")
            print(f"shrunk to {len(shortest)} steps: {shortest}")
            raise error
