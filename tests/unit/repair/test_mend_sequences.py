"""Random histories of faults, writes, deletions and menders, two of them at once, against what must always hold.

Checked all along: no node drops a good copy unless R others, with rows, are good, and no mend leaves fewer than
R good copies with rows where there were R (faults during that mend apart); no row without bytes, unless a fault took the bytes or the chunk is marked short. Checked at the end, when
faults have stopped: a few rounds leave exactly R rows, all of good copies, of every chunk of which the faults left any.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from dfs.cluster.upkeep import Fence
from dfs.model import AdminState, FileState
from dfs.repair.mend import Mender, Outcome
from tests.support.sweep import SEED, scaled, seeded
from tests.unit.repair.turns import Turns
from tests.unit.repair.world import KEPT, Call, Crash, Key, World

SEQUENCES = scaled(300, 20_000)
GROUPS = 10
NAMES = "abcdef"


class History:
    """One random history."""

    def __init__(self, seed: int) -> None:
        self.rng = seeded("mend", seed)
        factor = self.rng.choice((1, 2, 2, 2, 3))
        zones = [self.rng.choice(("x", "y", "z", None)) for _ in NAMES]
        self.world = World(NAMES, factor=factor, zones=zones, seed=self.rng.getrandbits(32))
        self.lease = 1
        self.menders = [self.mender(1)]
        self.excused: set[tuple[Key, str]] = set()
        self.before: dict[Key, int] = {}
        self.retired = ""
        self.log: list[str] = []

    def mender(self, number: int) -> Mender:
        """One that holds the lease until somebody takes it."""
        return self.world.mender(fence=lambda: Fence("repair", 1, number) if self.lease == number else None)

    # --- what is there ---

    def keys(self) -> list[Key]:
        rows = self.world.rows
        found = {(key[0], key[1]) for key in rows.rows}
        return sorted(key for key in found if key[0] in rows.files)

    def good(self, key: Key) -> str:
        return "".join(name for name in self.world.with_good(key) if name not in self.retired)

    def copies(self) -> list[tuple[Key, str]]:
        return [(key, name) for key in self.keys() for name in self.good(key)]

    def up(self) -> list[str]:
        return [name for name in NAMES if self.world.nodes[name].up]

    # --- what happens ---

    def put(self) -> None:
        world, rng = self.world, self.rng
        able = [name for name in self.up() if not world.nodes[name].full]
        on = rng.sample(able, min(len(able), rng.randint(1, world.factor + 1)))
        if on:
            state = rng.choice((FileState.COMMITTED, FileState.COMMITTED, FileState.UPLOADING))
            world.file(state, on="".join(on), chunks=rng.choice((1, 1, 2)), size=rng.choice((10, 10, 0)))

    def kill(self) -> None:
        if up := self.up():
            self.world.kill(self.rng.choice(up), away=self.rng.random() < 0.4)

    def die_unseen(self) -> None:
        """Membership does not know yet."""
        if up := self.up():
            self.world.faults += 1
            self.world.nodes[self.rng.choice(up)].up = False

    def revive(self) -> None:
        down = [name for name in NAMES if not self.world.nodes[name].up and name not in self.retired]
        if down:
            self.world.revive(self.rng.choice(down))

    def spoil(self) -> None:
        if copies := self.copies():
            key, name = self.rng.choice(copies)
            if len(self.good(key)) == 1 and self.rng.random() < 0.8:
                return
            if self.rng.random() < 0.5:
                self.world.corrupt(key, name)
            else:
                self.world.lose(key, name)
                self.excused.add((key, name))
            if not self.good(key):
                self.world.lost.add(key)

    def operate(self) -> None:
        name = self.rng.choice(NAMES)
        if name not in self.retired:
            state = self.rng.choice((AdminState.ACTIVE, AdminState.DRAINING, AdminState.MAINTENANCE))
            self.world.change(name, admin_state=state)

    def fill(self) -> None:
        node = self.world.nodes[self.rng.choice(NAMES)]
        node.full = not node.full

    def retire(self) -> None:
        """A node is gone for good, if nothing has its only copy there."""
        name = self.rng.choice(NAMES)
        if not self.retired and all(set(self.good(key)) - {name} for key in self.keys() if self.good(key)):
            self.world.kill(name)
            self.world.change(name, admin_state=AdminState.DECOMMISSIONED)
            self.retired = name

    def change_file(self) -> None:
        files = self.world.rows.files
        if files:
            file_id = self.rng.choice(sorted(files))
            after = {
                FileState.UPLOADING: (FileState.COMMITTED, FileState.DELETING),
                FileState.COMMITTED: (FileState.TRASHED,),
                FileState.TRASHED: (FileState.COMMITTED, FileState.DELETING),
                FileState.DELETING: (),
            }[files[file_id].state]
            if after:
                self.world.set_state(file_id, self.rng.choice(after))
            else:
                self.world.erase(file_id)

    def store_again(self) -> None:
        """A client repeats a chunk, at a node that may have it or not."""
        keys = [key for key in self.keys() if self.world.rows.files[key[0]].state in KEPT and self.good(key)]
        able = [name for name in self.up() if not self.world.nodes[name].full]
        if keys and able:
            key, name = self.rng.choice(keys), self.rng.choice(able)
            row = next(row for row in self.world.rows.rows.values() if (row.file_id, row.chunk_index) == key)
            if (key, name) not in self.excused and self.world.nodes[name].chunks.get(key) is None:
                self.world.put(key, name, row.length)

    def mend(self, mender: Mender | None = None, key: Key | None = None) -> None:
        if keys := self.keys():
            chosen = key or self.rng.choice(keys)
            verify, trim, move = (self.rng.random() < chance for chance in (0.5, 0.8, 0.2))
            mended = (mender or self.menders[-1]).mend(*chosen, verify=verify, trim=trim, rebalance=move)
            self.log.append(f"  {mended.outcome} {mended.reason}")

    def mend_with_trouble(self) -> None:
        """A call fails, its answer is lost, or the process dies there."""
        at, after = self.rng.randint(1, 25), self.rng.random() < 0.5
        how = self.rng.choice(("crash", "refused", "lost", "spoil", "die", "file"))
        calls = 0

        def hook(call: Call, done: bool) -> None:
            nonlocal calls
            calls += done == after
            if calls == at and done == after:
                self.log.append(f"  {how} at {call} {'after' if after else 'before'}")
                if how == "crash":
                    raise Crash
                if how in ("refused", "lost"):
                    raise call.fail(done=how == "lost")
                {"spoil": self.spoil, "die": self.die_unseen, "file": self.change_file}[how]()

        self.world.hook = hook
        try:
            self.mend()
        except Crash:
            pass
        finally:
            self.world.hook = lambda call, after: None

    def crowd(self) -> None:
        """Two menders at one chunk, the lease changing hands at some moment, while something else goes on."""
        key = self._contested()
        if key is None:
            return
        turns = Turns(self.rng)
        self.world.hook = lambda call, after: turns.pause()
        old, new = self.menders[-1], self.mender(self.lease + 1)
        self.menders.append(new)

        def newer() -> None:
            for _ in range(self.rng.randint(0, 8)):
                turns.pause()
            self.lease += 1
            self.mend(new, key)

        kinds = (self.spoil, self.die_unseen, self.change_file, self.store_again, self.operate, self.operate)

        def others() -> None:
            for _ in range(self.rng.choice((0, 0, 1, 2, 3))):
                for _ in range(self.rng.randint(0, 8)):
                    turns.pause()
                self.happen(self.rng.choice(kinds))

        try:
            turns.run([lambda: self.mend(old, key), newer, others])
        finally:
            self.world.hook = lambda call, after: None

    def _contested(self) -> Key | None:
        """Some chunk, often one of which there are too many copies: menders that rank the nodes in different
        orders want to drop different ones."""
        able = [name for name in self.up() if not self.world.nodes[name].full]
        wanted = self.world.factor + self.rng.randint(0, 2)
        if self.rng.random() < 0.6 and len(able) >= wanted:
            key = self.world.file(on="".join(self.rng.sample(able, wanted))), 0
            self.before[key] = wanted
            return key
        keys = self.keys()
        return self.rng.choice(keys) if keys else None

    def happen(self, what: Callable[[], None]) -> None:
        self.log.append(what.__name__)
        what()

    # --- all of it ---

    def run(self) -> None:
        kinds = [
            self.put, self.put, self.kill, self.die_unseen, self.revive, self.revive, self.spoil, self.operate,
            self.fill, self.change_file, self.store_again, self.mend, self.mend, self.mend, self.mend_with_trouble,
            self.mend_with_trouble, self.mend_with_trouble, self.crowd, self.crowd,
        ]  # fmt: skip
        for _ in range(self.rng.randint(10, 50)):
            self.world.faults = 0
            self.before = {key: len(self.good(key)) for key in self.keys()}
            self.happen(self.retire if self.rng.random() < 0.02 else self.rng.choice(kinds))
            self.check()
        self.settle()

    def check(self) -> None:
        world = self.world
        for row in world.rows.rows.values():
            key = (row.file_id, row.chunk_index)
            if world.rows.files[row.file_id].state not in KEPT:
                continue
            held = key in world.nodes[row.node_id].chunks
            assert held or (key, row.node_id) in self.excused or key in world.rows.shorts, f"{row} has no bytes"
        for key in self.keys():
            if world.rows.files[key[0]].state is FileState.DELETING:
                continue
            good = len(self.good(key))
            assert good >= min(self.before.get(key, 0), world.factor) - world.faults, f"{key} has {good} good copies"
            assert good or key in world.lost

    def settle(self) -> None:
        """Faults stop; a few rounds put everything right."""
        world = self.world
        for name in NAMES:
            world.nodes[name].full = False
            if name not in self.retired:
                world.change(name, admin_state=AdminState.ACTIVE)
                world.revive(name)
        for file_id, record in sorted(world.rows.files.items()):
            if record.state is FileState.DELETING:
                world.erase(file_id)
            elif record.state is FileState.UPLOADING:
                world.set_state(file_id, FileState.COMMITTED)
        recoverable = {key: bool(self.good(key)) for key in self.keys()}
        self.lease += 1
        mender = self.mender(self.lease)
        for _ in range(2):
            world.faults = 0
            ended = {key: mender.mend(*key, verify=True) for key in recoverable}
        for key, mended in ended.items():
            if not recoverable[key]:
                assert mended.outcome is Outcome.UNRECOVERABLE and key in world.lost
                continue
            assert mended.outcome is Outcome.WHOLE, (key, mended)
            assert len(world.with_rows(key)) == world.factor
            assert self.good(key) == world.with_rows(key)


@pytest.mark.parametrize("group", range(GROUPS))
def test_whatever_happens_nothing_is_lost_by_mending_and_everything_is_whole_in_the_end(group: int) -> None:
    for seed in range(group, SEQUENCES, GROUPS):
        history = History(seed)
        try:
            history.run()
        except BaseException:
            print(f"SEED={SEED} seed={seed}: replay with History({seed}).run()", *history.log, sep="\n")
            raise


def test_turns_come_in_the_same_order_for_the_same_source() -> None:
    def order() -> list[int]:
        turns, told = Turns(random.Random(5)), []

        def actor(number: int) -> None:
            for _ in range(5):
                told.append(number)
                turns.pause()

        turns.run([lambda: actor(1), lambda: actor(2), lambda: actor(3)])
        return told

    assert order() == order() and len(set(order())) == 3
