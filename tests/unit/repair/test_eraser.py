"""The eraser, on SQLite and nodes in memory: what goes, in which order, and what must not."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs import errors
from dfs.metadata.contract import GcKind, OutcomeUnknown, StepsRefused
from dfs.metadata.lease import LeaseHolder
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import PutFile, PutOperation, PutReplica, PutShort, Step
from dfs.model import AdminState, ChunkReplica, FileRecord, FileState, Lease, new_file_id
from dfs.repair import eraser as module
from dfs.repair.eraser import Eraser, EraseReport
from tests.unit.cluster.fakes import Cluster, refuse

NOW = 10_000_000_000
DAY = 86_400_000


class World:
    """Metadata, nodes a, b, c, and an eraser with no grace and a day for uploads."""

    def __init__(self, path: Path, **more: Any) -> None:
        self.store = SqliteStore(str(path / "meta.db"))
        self.store.create()
        self.cluster = Cluster("a", "b", "c")
        for info in self.cluster.registry.nodes.values():
            self.store.register_node(info)
        self.eraser = self.make(**more)

    def make(self, **more: Any) -> Eraser:
        lease = more.pop("lease", None) or LeaseHolder(self.store, "lease#eraser", new_file_id(), 10.0)
        options: dict[str, Any] = {"grace": 0.0, "upload_ttl": DAY / 1000, "interval": 0.001, "pace": 0.0}
        return Eraser(
            self.store, self.cluster.membership, self.cluster.calls, lease, **(options | more)
        )

    def file(self, state: FileState, *, at: int = NOW, chunks: int = 1, on: str = "ab") -> str:
        file_id = new_file_id()
        record = FileRecord(
            file_id, state, "default", f"p/{file_id}", chunks, 1, chunks, "x", None, "p", 1, at, at
        )
        self.store.transact([PutFile(record)])
        rows = [
            ChunkReplica(file_id, index, name, "0" * 64, 1, "primary", 1) for index in range(chunks) for name in on
        ]
        for start in range(0, len(rows), 90):
            self.store.transact([PutReplica(row) for row in rows[start : start + 90]])
        for row in rows:
            self.cluster[row.node_id].chunks[file_id, row.chunk_index] = b"x"
        return file_id

    def run(self, now_ms: int = NOW) -> EraseReport:
        return self.eraser.run_once(now_ms)

    def left(self, file_id: str) -> tuple[bool, int, int]:
        """Whether the record is there, the number of rows, the number of chunks on nodes."""
        chunks = sum(key[0] == file_id for node in self.cluster.network.nodes.values() for key in node.chunks)
        return self.store.get_file(file_id) is not None, len(list(self.store.replicas(file_id))), chunks

    def down(self, name: str, down: bool = True) -> None:
        self.cluster[name].down = down
        if down:
            self.cluster.membership.report_failure(name, "refused")
        else:
            self.cluster.membership.refresh()


NOTHING = (False, 0, 0)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    made.store.close()


def test_a_deleted_file_goes_from_nodes_rows_and_records(world: World) -> None:
    gone = [world.file(FileState.DELETING, chunks=chunks) for chunks in (1, 3, 150)]
    kept = [world.file(state) for state in (FileState.COMMITTED, FileState.TRASHED, FileState.UPLOADING)]
    world.store.transact([PutShort(gone[1], 2, 5)])
    report = world.run()
    assert (report.files, report.rows, report.waiting, report.errors, report.finished) == (3, 308, 0, 0, True)
    assert [world.left(file_id) for file_id in gone] == [NOTHING] * 3
    assert [world.left(file_id) for file_id in kept] == [(True, 2, 2)] * 3
    assert not any(world.store.gc_entries(place) for place in world.store.gc_partitions(GcKind.SHORT))
    assert all(set(gone) <= world.cluster[name].erased for name in "abc"), "later stores are refused everywhere"
    assert world.run() == EraseReport(finished=True)


def test_not_before_the_grace_is_over(tmp_path: Path) -> None:
    world = World(tmp_path, grace=900)
    file_id = world.file(FileState.DELETING, at=NOW - 900_000 + 1)
    assert world.run().files == 0
    assert world.left(file_id) == (True, 2, 2)
    assert world.run(NOW + 1).files == 1


def test_a_record_goes_only_when_every_node_with_a_row_has_confirmed(world: World) -> None:
    file_id = world.file(FileState.DELETING, chunks=2)
    world.down("b")
    report = world.run()
    assert (report.files, report.rows, report.waiting) == (0, 2, 1)
    assert world.left(file_id) == (True, 2, 2)
    assert {row.node_id for row in world.store.replicas(file_id)} == {"b"}
    world.down("b", False)
    assert world.run().files == 1
    assert world.left(file_id) == NOTHING


def test_chunks_that_lie_on_different_nodes(world: World) -> None:
    file_id = world.file(FileState.DELETING, on="a")
    world.store.transact([PutReplica(ChunkReplica(file_id, index, "b", "0" * 64, 1, "primary", 1)) for index in (1, 2)])
    world.down("b")
    assert (world.run().rows, world.left(file_id)[1]) == (1, 2)
    world.down("b", False)
    assert (world.run().rows, world.left(file_id)) == (2, NOTHING)


def test_nodes_that_were_told_are_not_told_again_while_another_is_away(world: World) -> None:
    world.file(FileState.DELETING)
    world.down("a")
    world.down("b")
    for _ in range(3):
        assert world.run().waiting == 1
    assert "/erase-files" not in world.cluster["c"].calls
    world.eraser._waiting.clear()
    assert world.run().waiting == 1, "found out again after a restart"


def test_a_node_that_is_away_and_has_no_row_is_not_waited_for(world: World) -> None:
    file_id = world.file(FileState.DELETING)
    world.down("c")
    assert world.run().files == 1
    assert world.left(file_id) == NOTHING


def test_a_file_without_rows_is_erased_wherever_bytes_may_be(world: World) -> None:
    file_id = world.file(FileState.DELETING, on="")
    world.cluster["b"].chunks[file_id, 0] = b"left by a failed write"
    assert world.run().files == 1
    assert world.left(file_id) == NOTHING


@pytest.mark.parametrize("error", [errors.StoreReadOnly("disk"), errors.WrongNode("no")])
def test_a_node_that_does_not_confirm_keeps_its_rows(world: World, error: errors.DfsError) -> None:
    file_id = world.file(FileState.DELETING)
    world.cluster["a"].trouble = refuse(error, "/erase-files")
    assert world.run().waiting == 1
    assert [row.node_id for row in world.store.replicas(file_id)] == ["a"]
    assert world.cluster.suspects() == ({"a"} if error.code == "wrong_node" else set())


@pytest.mark.parametrize("how", ["decommissioned", "never registered"])
def test_rows_of_nodes_that_are_ours_no_more_go_without_asking(tmp_path: Path, how: str) -> None:
    world = World(tmp_path)
    if how == "decommissioned":
        real = world.store.list_nodes

        def nodes() -> Any:
            return [replace(n, admin_state=AdminState.DECOMMISSIONED) if n.node_id == "a" else n for n in real()]

        world.store.list_nodes = nodes  # type: ignore[method-assign]
        file_id = world.file(FileState.DELETING)
    else:
        file_id = world.file(FileState.DELETING, on="b")
        world.store.transact([PutReplica(ChunkReplica(file_id, 0, "zz", "0" * 64, 1, "secondary", 1))])
    assert world.run().files == 1
    assert "/erase-files" not in world.cluster["a"].calls or how == "never registered"


def test_an_abandoned_upload_is_given_up_and_erased(world: World) -> None:
    old = world.file(FileState.UPLOADING, at=NOW - DAY)
    young = world.file(FileState.UPLOADING, at=NOW - DAY + 1)
    first, second = world.run(), world.run()
    assert first.abandoned == 1 and first.files + second.files == 1
    assert world.left(old) == NOTHING
    assert world.left(young) == (True, 2, 2)


def test_the_index_is_only_a_hint(world: World) -> None:
    stale = {
        GcKind.UPLOADING: [world.file(FileState.COMMITTED), world.file(FileState.UPLOADING)],
        GcKind.DELETING: [world.file(FileState.COMMITTED), world.file(FileState.DELETING, at=NOW + 5), new_file_id()],
        GcKind.OPERATION: [],
    }
    upload = world.file(FileState.UPLOADING, at=NOW - 2 * DAY)
    entries = {kind: [Entry(file_id) for file_id in ids] for kind, ids in stale.items()}
    entries[GcKind.UPLOADING] += [Entry(new_file_id()), Entry(upload)]
    world.store.gc_partitions = lambda kind: [kind]  # type: ignore[method-assign]
    world.store.gc_entries = (  # type: ignore[assignment]
        lambda kind, after=None, before=None, limit=0: [] if after else entries[kind]
    )
    real = world.store.transact

    def touched_first(steps: Sequence[Step]) -> None:
        raise StepsRefused

    world.store.transact = touched_first  # type: ignore[method-assign]
    report = world.run()
    world.store.transact = real  # type: ignore[method-assign]
    assert (report.files, report.abandoned, report.errors, report.finished) == (0, 0, 0, True)
    assert world.left(upload) == (True, 2, 2), "touched just then"


class Entry:
    def __init__(self, file_id: str) -> None:
        self.id = self.key = file_id


def test_old_operations_are_forgotten_and_young_ones_kept(world: World) -> None:
    world.store.transact([PutOperation("old", {"x": 1}, NOW - 2 * DAY), PutOperation("young", {"x": 1}, NOW)])
    assert world.run().operations == 1
    assert world.store.operation("old") is None
    assert world.store.operation("young") == {"x": 1}


@pytest.mark.parametrize("error", [errors.Unavailable("away"), OutcomeUnknown("lost"), ZeroDivisionError("a bug")])
@pytest.mark.parametrize("call", ["get_file", "replicas", "transact"])
def test_one_files_trouble_stops_no_other(world: World, error: Exception, call: str) -> None:
    bad, good = world.file(FileState.DELETING), world.file(FileState.DELETING)
    abandoned = world.file(FileState.UPLOADING, at=NOW - 2 * DAY)
    real: Callable[..., Any] = getattr(world.store, call)
    trouble = [True]

    def flaky(subject: Any, *args: Any) -> Any:
        file_id = subject if isinstance(subject, str) else subject[0].file_id
        if trouble and file_id in (bad, abandoned):
            raise error
        return real(subject, *args)

    setattr(world.store, call, flaky)
    report = world.run()
    assert report.errors == 2 and report.finished
    assert world.left(good) == NOTHING
    trouble.clear()
    world.run()
    world.run()
    assert world.left(bad) == NOTHING and world.left(abandoned) == NOTHING


def test_a_lost_answer_to_a_removal_of_rows_is_repeated(world: World) -> None:
    file_id = world.file(FileState.DELETING)
    real, lost = world.store.transact, [True]

    def flaky(steps: Sequence[Step]) -> None:
        real(steps)
        if lost:
            lost.clear()
            raise OutcomeUnknown("lost")

    world.store.transact = flaky  # type: ignore[method-assign]
    assert world.run().files == 1
    assert world.left(file_id) == NOTHING


def test_metadata_that_is_away_ends_the_run(world: World) -> None:
    def away(kind: GcKind) -> list[str]:
        raise errors.Unavailable("away")

    world.store.gc_partitions = away  # type: ignore[method-assign]
    report = world.run()
    assert (report.errors, report.finished) == (1, False)


def test_two_erasers_at_once_do_no_harm(world: World) -> None:
    files = [world.file(FileState.DELETING) for _ in range(20)]
    always = [world.make(lease=Granted()) for _ in range(4)]
    threads = [threading.Thread(target=each.run_once, args=(NOW,)) for each in always]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [world.left(file_id) for file_id in files] == [NOTHING] * 20


class Granted:
    """A lease that is granted `times` times in all, counting renewals."""

    def __init__(self, times: int = 1_000_000) -> None:
        self.times = times
        self.released = threading.Event()
        self.failing: Exception | None = None

    def _take(self) -> bool:
        self.times -= 1
        return self.times >= 0

    def try_acquire(self) -> Lease | None:
        return Lease("eraser", "me", 1, 1) if self._take() else None

    def renew(self) -> bool:
        return self._take()

    def release(self) -> None:
        self.released.set()
        if self.failing is not None:
            raise self.failing


def test_without_the_lease_nothing_is_done(world: World) -> None:
    file_id = world.file(FileState.DELETING)
    other = LeaseHolder(world.store, "lease#eraser", "other", 10.0)
    assert other.try_acquire() is not None
    assert world.run() == EraseReport()
    assert world.left(file_id) == (True, 2, 2)


def test_a_run_ends_when_the_lease_is_lost_and_another_takes_it_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_RENEW_EVERY", -1.0)
    files = [world.file(FileState.DELETING, chunks=120) for _ in range(3)]
    for times in range(60):
        report = world.make(lease=Granted(times)).run_once(NOW)
        if report.finished:
            break
    assert report.finished and times > 5
    assert [world.left(file_id) for file_id in files] == [NOTHING] * 3


def test_the_thread_runs_survives_a_bug_and_gives_up_the_lease(world: World) -> None:
    file_id = world.file(FileState.DELETING)
    lease = Granted()
    lease.failing = errors.Unavailable("away")
    it = world.make(lease=lease)
    ran, runs = threading.Event(), [0]
    real = it.run_once

    def run_once(now_ms: int) -> EraseReport:
        runs[0] += 1
        if runs[0] == 1:
            raise ZeroDivisionError
        report = real(NOW)
        ran.set()
        return report

    it.run_once = run_once  # type: ignore[method-assign]
    it.start()
    assert ran.wait(30)
    it.stop()
    assert lease.released.wait(30)
    assert world.left(file_id) == NOTHING
    late = world.file(FileState.DELETING)
    assert real(NOW).finished is False
    assert world.left(late) == (True, 2, 2), "stopped"


def test_what_is_remembered_of_waiting_files_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    for _ in range(6):
        world.file(FileState.DELETING)
    world.down("a")
    world.down("b")
    assert world.run().waiting == 6
    assert len(world.eraser._waiting) == 3
