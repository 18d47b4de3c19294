"""The trash on SQLite: what goes when, what a restore saves, and what goes sooner for want of space."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from dfs.errors import BadRequest, NotFound, Unavailable
from dfs.metadata import operations
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.lease import LeaseHolder
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import PutFile, PutReplica, RemoveFile, Step
from dfs.model import AdminState, Bucket, FileRecord, FileState, NodeStatus, Retired, new_file_id
from dfs.repair import purge, relief, trash
from dfs.repair.eraser import Eraser
from dfs.repair.purge import purge_some
from dfs.repair.relief import Relief
from dfs.repair.retention import Retention
from dfs.repair.trash import Trash, TrashStatus, load
from tests.support.metadata_records import a_record, a_replica
from tests.unit.cluster.fakes import Cluster

NOW = 10_000_000_000
KEPT = Retention(deleted_ms=1_000_000, replaced_ms=1_000)


class Stop(Exception):
    """As when the server stops, or the lease is lost."""


class World:
    """Metadata, nodes a, b, c of 5,000 bytes (so a full one lacks 100), and the trash."""

    def __init__(self, path: Path) -> None:
        self.store = SqliteStore(str(path / "meta.db"))
        self.store.create()
        self.cluster = Cluster("a", "b", "c")
        for name in "abc":
            self.cluster.registry.change(name, capacity_bytes=5000, free_bytes=4000)
        self.cluster.membership.refresh()
        self.now = NOW
        self.trash = self.make()

    def make(self, retention: Retention = KEPT) -> Trash:
        wait = Relief(self.store, self.cluster.membership, largest=50, grace=90.0, settle=10.0)
        return Trash(self.store, retention, wait)

    def file(
        self,
        at: int = NOW,
        why: Retired = Retired.DELETED,
        *,
        state: FileState = FileState.TRASHED,
        size: int = 10,
        on: str = "ab",
        bucket: str = "default",
        path: str | None = None,
    ) -> str:
        file_id = new_file_id()
        record = a_record(
            path or f"p/{file_id}", file_id=file_id, state=state, size=size, version=7, touched_at=at,
            bucket=bucket, retired=why.value,
        )  # fmt: skip
        rows = [PutReplica(a_replica(file_id, 0, name, length=size)) for name in on]
        self.store.transact([PutFile(record), *rows])
        return file_id

    def run(self, at: int | None = None, go_on: Any = lambda: None) -> TrashStatus:
        self.now = self.now if at is None else at
        self.trash.run(self.now, go_on)
        status = load(self.store)
        assert status is not None
        return status

    def record(self, file_id: str) -> FileRecord:
        record = self.store.get_file(file_id)
        assert record is not None
        return record

    def kept(self, *file_ids: str) -> list[bool]:
        return [self.record(file_id).state is FileState.TRASHED for file_id in file_ids]

    def full(self, names: str, *, free: int = 0) -> None:
        for name in "abc":
            status = NodeStatus.FULL if name in names else NodeStatus.ACTIVE
            self.cluster.registry.change(name, status=status, free_bytes=free if name in names else 4000)
        self.cluster.membership.refresh()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


# --- retention ---------------------------------------------------------------------------------------


def test_deleted_and_replaced_files_have_their_own_times(world: World) -> None:
    world.store.put_bucket(Bucket("other", 1))
    gone = [
        world.file(NOW - 1_000_000),
        world.file(NOW - 1_000, Retired.REPLACED),
        world.file(NOW - 1_000_000, bucket="other"),
    ]
    kept = [world.file(NOW - 999_999, size=3), world.file(NOW - 999, Retired.REPLACED, size=4)]
    committed = world.file(state=FileState.COMMITTED, at=0)
    status = world.run()
    assert world.kept(*gone) == [False] * 3 and world.kept(*kept) == [True] * 2
    assert world.record(committed).state is FileState.COMMITTED
    for file_id in gone:
        record = world.record(file_id)
        assert (record.state, record.touched_at, record.retired) == (FileState.DELETING, NOW, ""), "the grace begins"
    assert (status.files, status.bytes, status.oldest_at) == (2, 7, NOW - 999_999)
    assert (status.expired_files, status.expired_bytes, status.at) == (3, 30, NOW)


def test_a_million_entries_are_gone_through_by_keys_alone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as a test can show it: no record is read, and pages are bounded."""
    for number in range(2500):
        world.file(NOW - number)
    limits = []
    real = world.store.gc_entries

    def entries(partition: str, **more: Any) -> Any:
        limits.append(more["limit"])
        return real(partition, **more)

    def read(*_: Any) -> Any:
        raise AssertionError("a record was read")

    monkeypatch.setattr(world.store, "gc_entries", entries)
    monkeypatch.setattr(world.store, "get_file", read)
    rests = []
    assert world.run(go_on=lambda: rests.append(1)).files == 2500
    assert set(limits) == {1000} and len(rests) >= 3


def test_a_restore_before_the_sweep_wins_and_one_after_it_loses(world: World) -> None:
    early, late, again = (world.file(NOW - 1_000_000, path=name) for name in ("early", "late", "again"))
    stale = world.store.gc_entries("trashed#default")
    operations.restore_path(world.store, "default", "early", early, NOW)
    operations.restore_path(world.store, "default", "again", again, NOW)
    operations.delete_path(world.store, "default", "again", operations.ALWAYS, NOW)
    assert purge.discard(world.store, stale, NOW) == [entry for entry in stale if entry.id == late]
    assert world.record(early).state is FileState.COMMITTED
    assert world.kept(late, again) == [False, True], "what was deleted again has its time before it"
    with pytest.raises(NotFound):
        operations.restore_path(world.store, "default", "late", late, NOW)


@pytest.mark.parametrize("applied", [False, True])
def test_a_batch_whose_answer_was_lost_is_gone_through_one_by_one(
    world: World, monkeypatch: pytest.MonkeyPatch, applied: bool
) -> None:
    files = [world.file(NOW - 1_000_000) for _ in range(5)]
    real, lost = world.store.transact, [True]

    def flaky(steps: Sequence[Step]) -> None:
        if lost:
            lost.clear()
            if applied:
                real(steps)
            raise OutcomeUnknown("lost")
        real(steps)

    monkeypatch.setattr(world.store, "transact", flaky)
    status = world.run()
    assert world.kept(*files) == [False] * 5
    assert status.expired_files == (0 if applied else 5), "counted is what is known"


def test_a_sweep_that_is_broken_off_is_made_again_by_whoever_comes(world: World, rng: random.Random) -> None:
    files = [world.file(NOW - 1_000_000 + rng.randrange(-5, 1)) for _ in range(120)]
    left = len(files)
    for _ in range(10):
        steps = iter(range(2))

        def stop(steps: Iterator[int] = steps) -> None:
            if next(steps, None) is None:
                raise Stop

        world.trash = world.make()
        try:
            world.trash.run(NOW, stop)
        except Stop:
            now_left = sum(world.kept(*files))
            assert now_left < left or not now_left
            left = now_left
    assert not any(world.kept(*files))


def test_metadata_that_is_away_is_raised(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.file(NOW - 1_000_000)

    def away(*_: Any, **__: Any) -> Any:
        raise Unavailable("away")

    monkeypatch.setattr(world.store, "transact", away)
    with pytest.raises(Unavailable):
        world.run()


# --- when the next sweep is due ----------------------------------------------------------------------


def sweeps(world: World, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    seen: list[int] = []
    real = trash.Trash._sweep

    def sweep(self: Trash, before: TrashStatus, now_ms: int, go_on: Any) -> TrashStatus:
        seen.append(now_ms)
        return real(self, before, now_ms, go_on)

    monkeypatch.setattr(trash.Trash, "_sweep", sweep)
    return seen


def test_the_next_sweep_is_due_when_the_first_file_can_go(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = sweeps(world, monkeypatch)
    first = world.file(NOW - 999_500)
    assert world.run().next_at == NOW + 500
    world.run(NOW + 499)
    assert (seen, world.kept(first)) == ([NOW], [True])
    world.run(NOW + 500)
    assert (seen, world.kept(first)) == ([NOW, NOW + 500], [False])
    assert load(world.store).next_at == NOW + 1500, "what comes now may go after the shortest time"  # type: ignore[union-attr]


def test_the_more_trash_the_rarer_the_sweeps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trash, "_GAP_PER_FILE_MS", 100_000)
    for number in range(12):
        world.file(NOW - 999_000 + number)
    assert world.run().next_at == NOW + 1_200_000
    monkeypatch.setattr(trash, "_GAP_PER_FILE_MS", 1_000_000)
    world.trash = world.make(Retention(1_000_000, 2_000))
    assert world.run().next_at == NOW + 3_600_000, "an hour at most"


def test_another_leader_goes_by_the_document_and_other_settings_do_not_wait(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = sweeps(world, monkeypatch)
    file_id = world.file(NOW - 500)
    world.run()
    world.trash = world.make()
    world.run(NOW + 1)
    assert seen == [NOW]
    world.trash = world.make(Retention(400, 400))
    world.run(NOW + 2)
    assert seen == [NOW, NOW + 2] and world.kept(file_id) == [False]
    world.run(NOW - 50)
    assert seen[2:] == [NOW - 50], "a clock that was ahead has planned nothing"


def test_without_retention_everything_goes_with_the_next_run(world: World) -> None:
    world.trash = world.make(Retention(0, 0))
    for turn in range(3):
        file_id = world.file(NOW + turn)
        world.run(NOW + turn)
        assert world.kept(file_id) == [False]


def test_figures_that_cannot_be_kept_stop_nothing(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> Any:
        raise OutcomeUnknown("lost")

    real = world.store.write_document
    monkeypatch.setattr(world.store, "write_document", lost)
    file_id = world.file(NOW - 1_000_000)
    world.trash.run(NOW, lambda: None)
    assert world.kept(file_id) == [False] and load(world.store) is None
    monkeypatch.setattr(world.store, "write_document", real)
    assert world.run().files == 0


def test_figures_of_another_release_are_read_as_far_as_they_go(world: World) -> None:
    world.store.write_document("trash", {"files": 3, "invented": True, "relief_nodes": ["a"]}, None)
    assert load(world.store) == TrashStatus(files=3, relief_nodes=("a",))


def test_the_eraser_tends_the_trash(world: World) -> None:
    file_id = world.file(NOW - 1_000_000, on="")
    lease = LeaseHolder(world.store, "eraser", "me", 10.0)
    it = Eraser(
        world.store, world.cluster.membership, world.cluster.calls, lease, grace=0.0, upload_ttl=1e6, interval=1.0,
        pace=0.0, trash=world.trash,
    )  # fmt: skip
    assert it.run_once(NOW).finished and it.run_once(NOW).files == 1
    assert world.store.get_file(file_id) is None


# --- below the reserve -------------------------------------------------------------------------------


def test_the_oldest_goes_first_and_no_more_than_is_needed(world: World) -> None:
    files = [world.file(NOW - 900 * age, size=40) for age in range(10)]
    world.full("a")
    status = world.run()
    assert [number for number, kept in enumerate(world.kept(*files)) if not kept] == [7, 8, 9]
    assert (status.relief_files, status.relief_bytes, status.relief_nodes) == (3, 120, ("a",))
    assert (status.files, status.bytes, status.relief_at) == (7, 280, NOW)


def test_files_that_free_nothing_on_the_full_node_stay(world: World) -> None:
    elsewhere = [world.file(NOW - 9000, size=50, on="bc"), world.file(NOW - 9000, size=0, on="a")]
    here = [world.file(NOW - 10 * age, size=60, on="ab") for age in range(3)]
    world.full("a")
    world.run()
    assert world.kept(*elsewhere) == [True, True] and world.kept(*here) == [True, False, False]


def test_each_full_node_gets_what_it_needs(world: World) -> None:
    on_a, on_b = ([world.file(NOW - 10 * age, size=100, on=name) for age in range(3)] for name in "ab")
    world.full("ab")
    world.run()
    assert world.kept(*on_a) == world.kept(*on_b) == [True, True, False]


@pytest.mark.parametrize("free", [0, 60, 100, 200])
def test_what_is_free_counts(world: World, free: int) -> None:
    files = [world.file(NOW - 10 * age, size=40) for age in range(4)]
    world.full("a", free=free)
    world.run()
    assert sum(world.kept(*files)) == {0: 1, 60: 3, 100: 4, 200: 4}[free]


@pytest.mark.parametrize(("free", "kept"), [(0, False), (49, False), (50, True)])
def test_a_node_without_room_for_the_largest_chunk_is_full_whatever_it_says(
    world: World, free: int, kept: bool
) -> None:
    file_id = world.file(NOW - 5, size=200)
    world.cluster.registry.change("a", free_bytes=free)
    world.cluster.membership.refresh()
    world.run()
    assert world.kept(file_id) == [kept]


def test_a_refusal_that_is_younger_than_what_is_known_of_the_space_waits_for_the_next_heartbeat(
    world: World,
) -> None:
    file_id = world.file(NOW - 5, size=200)
    world.cluster.membership.report_refusal("a", "node_full")
    assert (world.run().relief_at, world.kept(file_id)) == (0, [True])
    world.full("a")
    assert (world.run(NOW + 1).relief_at, world.kept(file_id)) == (NOW + 1, [False])


def test_bytes_that_are_on_their_way_out_count(world: World) -> None:
    files = [world.file(NOW - 10 * age, size=40) for age in range(4)]
    for _ in range(2):
        world.file(NOW, size=40, state=FileState.DELETING, on="ac")
    world.full("a")
    world.run()
    assert sum(world.kept(*files)) == 3
    for _ in range(9):
        world.file(NOW, size=40, state=FileState.DELETING, on="a")
    world.run(NOW + 100_001)
    assert sum(world.kept(*files)) == 3


def test_so_many_small_files_on_their_way_are_waited_for(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relief, "_MOST_LEAVING", 5)
    kept = world.file(NOW - 10, size=400)
    for _ in range(120):
        world.file(NOW, size=0, state=FileState.DELETING, on="a")
    world.full("a")
    world.run()
    assert world.kept(kept) == [True]


def test_nothing_more_goes_until_the_space_can_be_there(world: World) -> None:
    files = [world.file(NOW - 10 * age, size=100) for age in range(4)]
    world.full("a")
    for at in (NOW, NOW + 1, NOW + 99_999):
        world.run(at)
        assert sum(world.kept(*files)) == 3
    world.trash = world.make()
    world.run(NOW + 99_999)
    assert sum(world.kept(*files)) == 3, "nor under another leader"
    for file_id in files[3:]:  # erased, and the node still has no room
        world.store.transact([RemoveFile(file_id, frozenset({FileState.DELETING}))])
    world.run(NOW + 100_000)
    assert sum(world.kept(*files[:3])) == 2


def test_nor_when_the_document_fails_to_say_so(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [world.file(NOW - 10 * age, size=100) for age in range(4)]
    world.full("a")
    monkeypatch.setattr(world.store, "write_document", lambda *_: None)
    for at in (NOW, NOW + 1, NOW + 99_999):
        world.trash.run(at, lambda: None)
    assert sum(world.kept(*files)) == 3


@pytest.mark.parametrize("change", [{"status": NodeStatus.READ_ONLY}, {"admin_state": AdminState.DRAINING}])
def test_a_node_that_would_take_nothing_anyway_is_not_helped(world: World, change: dict[str, Any]) -> None:
    file_id = world.file(NOW - 5)
    world.full("a")
    world.cluster.registry.change("a", **change)
    world.cluster.membership.refresh()
    world.run()
    assert world.kept(file_id) == [True]


def test_what_is_remembered_of_the_trash_is_bounded_and_the_order_holds(
    world: World, monkeypatch: pytest.MonkeyPatch, rng: random.Random
) -> None:
    monkeypatch.setattr(relief, "_CANDIDATES", 4)
    ages = list(range(30))
    rng.shuffle(ages)
    files = {age: world.file(NOW - 10 * age, size=10) for age in ages}
    world.full("a")
    assert world.run().relief_files == 10
    assert [age for age in range(30) if world.kept(files[age]) == [False]] == list(range(20, 30))


def test_a_file_restored_meanwhile_is_not_counted(world: World) -> None:
    oldest = world.file(NOW - 99, size=60, path="x")
    others = [world.file(NOW - age, size=60) for age in range(3)]
    world.full("a")
    calls = []

    def go_on() -> None:
        calls.append(1)
        if len(calls) == 2:  # after the sweep and the walk
            operations.restore_path(world.store, "default", "x", oldest, NOW)

    status = world.run(go_on=go_on)
    assert world.record(oldest).state is FileState.COMMITTED
    assert (status.relief_files, sum(world.kept(*others))) == (2, 1)


def test_without_trash_that_helps_it_is_said_and_nothing_is_done(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    kept = world.file(NOW - 5, on="bc")
    world.full("a")
    world.run()
    assert world.kept(kept) == [True] and "trash.nothing_to_purge_for_space" in caplog.text


# --- by order ----------------------------------------------------------------------------------------


def steps_of(world: World, **order: Any) -> list[purge.Purged]:
    """Every step of an order."""
    done: list[purge.Purged] = []
    cursor = None
    while True:
        what = {"bucket": None, "before": NOW, "plan": False} | order
        done.append(purge_some(world.store, cursor=cursor, now_ms=NOW, **what))
        cursor = done[-1].cursor
        if cursor is None:
            return done


def test_an_order_empties_what_it_names_and_a_plan_changes_nothing(world: World) -> None:
    world.store.put_bucket(Bucket("other", 1))
    old, young = world.file(NOW - 10, size=4), world.file(NOW - 3, size=5)
    other = world.file(NOW - 20, size=6, bucket="other")
    (plan,) = steps_of(world, plan=True, before=NOW - 5)
    assert (plan.amount.files, plan.amount.bytes, plan.oldest_at) == (2, 10, NOW - 20)
    assert world.kept(old, young, other) == [True] * 3
    (done,) = steps_of(world, bucket="default", before=NOW - 5)
    assert (done.amount.files, done.amount.bytes) == (1, 4)
    assert world.kept(old, young, other) == [False, True, True]
    (rest,) = steps_of(world)
    assert rest.amount.files == 2 and not any(world.kept(young, other))
    (nothing,) = steps_of(world)
    assert (nothing.amount.files, nothing.oldest_at) == (0, None)


@pytest.mark.parametrize("plan", [False, True])
def test_a_large_order_goes_step_by_step(world: World, monkeypatch: pytest.MonkeyPatch, plan: bool) -> None:
    for name, value in {"PAGE": 3, "_TOGETHER": 2, "_MOST_READ": 10, "_MOST_PURGED": 4}.items():
        monkeypatch.setattr(purge, name, value)
    world.store.put_bucket(Bucket("other", 1))
    files = [world.file(NOW - 1 - number, bucket=("default", "other")[number % 2]) for number in range(50)]
    done = steps_of(world, plan=plan)
    assert len(done) > 3 and sum(step.amount.files for step in done) == 50
    assert all(world.kept(*files)) if plan else not any(world.kept(*files))


def test_a_cursor_of_another_listing_is_refused(world: World) -> None:
    with pytest.raises(BadRequest):
        purge_some(world.store, bucket=None, before=NOW, plan=True, cursor="WzIsICJhIl0", now_ms=NOW)
