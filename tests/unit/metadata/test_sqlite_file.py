"""The shared SQLite file: faults, processes, forks, foreign files."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dfs import METADATA_FORMAT
from dfs.errors import StartError, Unavailable
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.sqlite_file import MAX_BATCH, TURNS_SUFFIX, SqliteFile
from dfs.metadata.steps import PutFile
from dfs.model import Bucket
from tests.support.fakes.chaos_sqlite import Faults
from tests.support.metadata_records import NOW, a_node, a_record, put


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "metadata.sqlite")
    store = SqliteStore(path)
    store.create()
    store.close()
    return path


def failing(path: str, *faults: tuple[str, str], **options: Any) -> tuple[SqliteStore, Faults]:
    """A store in which the faults (kind, fault) come in this order, each once."""
    waiting = list(faults)

    def decide(kind: str) -> str | None:
        return waiting.pop(0)[1] if waiting and waiting[0][0] == kind else None

    injected = Faults(decide)
    return SqliteStore(path, file=SqliteFile(path, connect=injected.connect, **options)), injected


@pytest.mark.parametrize("fault", ["full", "io", "busy"])
def test_a_failing_statement_undoes_the_batch_and_the_store_goes_on(path: str, fault: str) -> None:
    store, _ = failing(path, ("write", fault))
    with pytest.raises(Unavailable, match="cannot be used") as caught:
        put(store, "p")
    assert not isinstance(caught.value, OutcomeUnknown)
    assert store.get_head("default", "p") is None
    put(store, "p")
    store.close()


@pytest.mark.parametrize(("fault", "applied"), [("lost", True), ("refused", False)])
def test_a_failing_commit_is_unknown(path: str, fault: str, applied: bool) -> None:
    store, _ = failing(path, ("commit", fault))
    record = a_record()
    with pytest.raises(OutcomeUnknown):
        store.transact([PutFile(record)])
    assert (store.get_file(record.file_id) is not None) == applied
    store.close()


def test_a_failing_commit_is_unknown_to_all_who_shared_it(path: str) -> None:
    entered, go = threading.Event(), threading.Event()
    answers: list[str | None] = []

    def decide(kind: str) -> str | None:
        if kind == "begin" and not entered.is_set():
            entered.set()
            go.wait(30)
        return answers.pop(0) if kind == "commit" and answers else None

    store = SqliteStore(path, file=SqliteFile(path, connect=Faults(decide).connect))
    answers.extend([None, "refused"])
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(store.put_bucket, Bucket("first", NOW))
        assert entered.wait(30)
        others = [pool.submit(store.put_bucket, Bucket(f"b{number}", NOW)) for number in range(8)]
        queue = store._file._here().batcher._queue
        while len(queue) < 8:
            pass
        go.set()
        assert first.result() is True
        for other in others:
            with pytest.raises(OutcomeUnknown):
                other.result()
    assert [bucket.name for bucket in store.list_buckets()] == ["default", "first", "uploads"]
    store.close()


def test_a_failing_read_is_unavailable(path: str) -> None:
    store, _ = failing(path, ("read", "io"))
    with pytest.raises(Unavailable):
        store.get_file("x")
    assert store.get_file("x") is None
    store.close()


def test_a_busy_file_is_waited_for_and_then_unavailable(path: str) -> None:
    store, faults = failing(path, *[("begin", "busy")] * 3)
    assert store.put_bucket(Bucket("b", NOW))
    assert faults.counts == {"busy": 3}
    store.close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    ticks = iter(range(100))
    waiting = SqliteStore(path, file=SqliteFile(path, lock_timeout=3, clock=lambda: next(ticks)))
    with pytest.raises(Unavailable, match="locked"):
        waiting.put_bucket(Bucket("c", NOW))
    other.execute("ROLLBACK")
    assert waiting.put_bucket(Bucket("c", NOW))
    waiting.close()
    other.close()


def test_a_file_that_stays_locked_is_not_waited_for_as_long_by_everybody(path: str) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    ticks = itertools.count()
    store = SqliteStore(path, file=SqliteFile(path, lock_timeout=30, clock=lambda: next(ticks)))

    def waited() -> int:
        began = next(ticks)
        with pytest.raises(Unavailable, match="locked"):
            store.put_bucket(Bucket("c", NOW))
        return next(ticks) - began

    assert waited() > 30
    assert waited() < 5
    other.execute("ROLLBACK")
    assert store.put_bucket(Bucket("c", NOW))
    other.execute("BEGIN EXCLUSIVE")
    assert waited() > 30
    other.close()
    store.close()


def test_an_error_in_one_callers_work_is_its_own(path: str) -> None:
    file = SqliteFile(path)

    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO buckets VALUES ('gone', 1)")
        raise KeyError("mine")

    with pytest.raises(KeyError):
        file.write(work)
    assert file.read("SELECT 1 FROM buckets WHERE name = 'gone'") == []
    file.close()


def test_a_statement_that_is_wrong_by_itself_fails_its_caller_only(path: str) -> None:
    file = SqliteFile(path)
    with pytest.raises(sqlite3.IntegrityError):
        file.write(lambda db: db.execute("INSERT INTO buckets VALUES (NULL, 1)"))
    assert file.write(lambda db: db.execute("SELECT 7").fetchall()) == [(7,)]
    file.close()


def test_several_processes_create_at_once(tmp_path: Path) -> None:
    path = str(tmp_path / "new.sqlite")
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            try:
                SqliteStore(path).create()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 6
    assert len(SqliteStore(path).list_buckets()) == 2


def test_an_interrupt_undoes_the_batch(path: str) -> None:
    file = SqliteFile(path)

    def work(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO buckets VALUES ('gone', 1)")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file.write(work)
    assert file.read("SELECT 1 FROM buckets WHERE name = 'gone'") == []
    assert file.write(lambda db: db.execute("SELECT 7").fetchall()) == [(7,)]
    file.close()


def test_the_log_is_synced_at_every_commit(path: str) -> None:
    file = SqliteFile(path)
    assert file.read("PRAGMA synchronous") == [(2,)]
    assert file.read("PRAGMA journal_mode") == [("wal",)]
    assert file.write(lambda db: db.execute("PRAGMA synchronous").fetchall()) == [(2,)]
    file.close()


def test_more_readers_than_are_kept_idle(path: str) -> None:
    store = SqliteStore(path)
    start = threading.Barrier(24)

    def read(number: int) -> None:
        start.wait()
        for _ in range(20):
            assert store.has_bucket("default")

    with ThreadPoolExecutor(24) as pool:
        list(pool.map(read, range(24)))
    assert len(store._file._here().readers) <= 8 + 24
    store.close()
    store.close()


def in_child(work: Callable[[], None]) -> int:
    """Exit code of a forked child that does `work`."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_store_made_before_a_fork_works_on_both_sides(path: str) -> None:
    store = SqliteStore(path)
    put(store, "parent")

    def work() -> None:
        assert store.get_head("default", "parent") is not None
        put(store, "child")

    assert in_child(work) == 0
    assert store.get_head("default", "child") is not None
    put(store, "parent again")
    store.close()


def test_the_threads_of_a_child_share_what_the_first_of_them_makes(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = SqliteStore(path)
    put(store, "p")
    file = store._file
    turns = file._here().turns
    assert turns is not None
    forget, forgotten, entered = turns.forget, [], threading.Barrier(4)

    def count() -> None:
        forgotten.append(None)
        forget()

    monkeypatch.setattr(turns, "forget", count)
    inherited = file._process
    inherited.pid = -1  # as a fork leaves it

    def enter(_: int) -> object:
        entered.wait()
        return file._here()

    with inherited.handover, ThreadPoolExecutor(3) as pool:
        found = pool.map(enter, range(3))
        entered.wait()
        inherited.handover.release()
        made = list(found)
        inherited.handover.acquire()
    assert len(forgotten) == 1
    assert {id(each) for each in made} == {id(file._process)}
    put(store, "q")
    store.close()


def test_several_processes_write_the_same_file(path: str) -> None:
    def work() -> None:
        store = SqliteStore(path)
        for number in range(50):
            put(store, f"{os.getpid()}/{number}")
        store.close()

    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            try:
                work()
            except BaseException:
                os._exit(1)
            os._exit(0)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    store = SqliteStore(path)
    assert len(store.scan_heads("default", start="", inclusive=True, end=None, limit=1000)) == 150
    store.close()


def test_a_missing_file_is_not_made_by_using_it(tmp_path: Path) -> None:
    path = tmp_path / "absent.sqlite"
    store = SqliteStore(str(path))
    with pytest.raises(Unavailable, match="create-tables"):
        store.ping()
    with pytest.raises(StartError, match=r"DFS_METADATA_URL.*create-tables"):
        store.cluster_info()
    with pytest.raises(Unavailable, match="create-tables"):
        store.register_node(a_node())
    assert not path.exists()


def test_a_start_may_wait_for_a_locked_or_failing_file(path: str) -> None:
    for fault in ("busy", "io"):
        store, _ = failing(path, ("read", fault))
        with pytest.raises(Unavailable):
            store.cluster_info()
        assert store.cluster_info().generation == 1
        store.close()


@pytest.mark.parametrize("back", [True, False], ids=["put back", "replaced"])
def test_a_file_deleted_or_replaced_in_use_takes_no_more_commits(path: str, back: bool) -> None:
    store = SqliteStore(path)
    put(store, "before")
    assert store.get_head("default", "before") is not None
    os.rename(path, path + ".away")
    for use in (lambda: put(store, "lost"), store.list_nodes):
        with pytest.raises(Unavailable, match="put it back"):
            use()
    if back:
        os.rename(path + ".away", path)
        assert store.get_head("default", "before") is not None
        put(store, "after")
    else:
        SqliteStore(path).create()
        for use in (lambda: put(store, "lost"), store.list_nodes):
            with pytest.raises(Unavailable, match="replaced while in use"):
                use()
    store.close()


def test_a_damaged_or_read_only_file_is_unavailable_and_stops_a_start(path: str) -> None:
    store = SqliteStore(path)
    put(store, "p")
    store.close()
    file = SqliteFile(path, connect=lambda name, **more: sqlite3.connect(name.replace("=rw", "=ro"), **more))
    read_only = SqliteStore(path, file=file)
    assert read_only.get_head("default", "p") is not None
    with pytest.raises(Unavailable, match="readonly"):
        put(read_only, "q")
    read_only.close()
    with open(path, "r+b") as damaged:
        damaged.seek(100)
        damaged.write(b"\xff" * 4000)
    store = SqliteStore(path)
    with pytest.raises(Unavailable, match="malformed"):
        put(store, "r")
    with pytest.raises(StartError, match="DFS_METADATA_URL.*malformed"):
        store.cluster_info()
    store.close()


def test_an_empty_file_holds_no_cluster(tmp_path: Path) -> None:
    path = tmp_path / "empty.sqlite"
    path.touch()
    store = SqliteStore(str(path))
    with pytest.raises(StartError, match=r"holds no cluster.*create-tables"):
        store.cluster_info()
    store.create()
    store.close()


def test_tables_of_the_time_before_the_first_release_are_refused_with_a_sentence(path: str) -> None:
    older = sqlite3.connect(path)
    older.execute("DROP TABLE documents")
    older.commit()
    older.close()
    store = SqliteStore(path)
    for opening in (store.cluster_info, store.create):
        with pytest.raises(StartError, match="before its first release.*begin with new metadata and new data directories"):
            opening()
    store.close()


def test_files_that_are_not_ours_or_newer_are_refused(tmp_path: Path, path: str) -> None:
    foreign = str(tmp_path / "foreign.sqlite")
    other = sqlite3.connect(foreign)
    other.execute("CREATE TABLE theirs (x)")
    other.close()
    newer = sqlite3.connect(path)
    newer.execute(f"PRAGMA user_version = {METADATA_FORMAT + 1}")
    newer.close()
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"not a database" * 100)
    for name, text in (
        (foreign, "another program"),
        (path, f"format {METADATA_FORMAT + 1}"),
        (str(garbage), "DFS_METADATA_URL"),
        (str(tmp_path / "no" / "such.sqlite"), "DFS_METADATA_URL"),
        (str(tmp_path), "DFS_METADATA_URL"),
    ):
        store = SqliteStore(name)
        with pytest.raises(StartError, match=text):
            store.create()
        with pytest.raises(StartError):
            store.cluster_info()


def test_an_unwritable_file_cannot_be_made(path: str) -> None:
    store, _ = failing(path, ("commit", "refused"))
    with pytest.raises(StartError, match="cannot be written"):
        store.create()
    store, _ = failing(path, *[("begin", "io")])
    with pytest.raises(StartError, match="cannot be written"):
        store.create()


def test_without_a_file_to_queue_at_writers_still_write(path: str) -> None:
    os.mkdir(path + TURNS_SUFFIX)  # cannot be opened as a file
    store = SqliteStore(path, file=SqliteFile(path, checkpoint_rows=1))
    put(store, "p")
    store._file._here().checkpointer.finish(30)
    put(store, "q")
    assert store.get_head("default", "q") is not None
    store.close()


def test_a_file_with_the_index_of_before_loses_it(path: str) -> None:
    with sqlite3.connect(path) as old:
        old.execute("CREATE INDEX replicas_by_node ON replicas (node_id, file_id, chunk_index)")
    old.close()
    store = SqliteStore(path)
    identity = store.cluster_info()
    put(store, "p")
    assert store.create() == identity
    assert store._file.read("SELECT name FROM sqlite_schema WHERE name = 'replicas_by_node'") == []
    assert len(store.node_chunks("n1")) == 1
    store.close()


def test_a_batch_is_bounded(path: str) -> None:
    store = SqliteStore(path)
    with ThreadPoolExecutor(32) as pool:
        assert all(pool.map(lambda n: store.put_bucket(Bucket(f"b{n}", NOW)), range(MAX_BATCH * 2)))
    assert len(store.list_buckets()) == MAX_BATCH * 2 + 2
    store.close()
