"""The log stays short without any commit doing the work, and failures are only reported."""

from __future__ import annotations

import os
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.sqlite_file import TURNS_SUFFIX, SqliteFile
from dfs.metadata.turns import Turns
from tests.support.metadata_records import put


@pytest.fixture
def path(tmp_path: Path) -> str:
    path = str(tmp_path / "metadata.sqlite")
    store = SqliteStore(path)
    store.create()
    store.close()
    return path


def settled(file: SqliteFile) -> None:
    file._here().checkpointer.finish(30)


def test_the_log_is_bounded_however_much_is_written(path: str) -> None:
    file = SqliteFile(path, checkpoint_rows=100)
    store = SqliteStore(path, file=file)

    def write(thread: int) -> None:
        for number in range(150):
            put(store, f"{thread}/{number:04d}")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(8)))
        list(pool.map(write, range(8)))  # over what is there
    settled(file)
    assert os.path.getsize(path + "-wal") < 5 << 20
    assert len(store.scan_heads("default", start="", inclusive=True, end=None, limit=9999)) == 1200
    store.close()


def test_no_commit_checkpoints(path: str) -> None:
    file = SqliteFile(path, checkpoint_rows=1_000_000)
    store = SqliteStore(path, file=file)
    for number in range(600):
        put(store, f"p/{number:04d}")
    # SQLite by itself would have begun the log again at 1,000 pages.
    assert os.path.getsize(path + "-wal") > 1_200 * 4096
    store.close()


def test_a_checkpoint_that_fails_is_reported_and_tried_again(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    failing = threading.Event()

    def connect(*arguments: Any, **named: Any) -> sqlite3.Connection:
        if failing.is_set() and threading.current_thread().name == "metadata-checkpoint":
            raise sqlite3.OperationalError("disk I/O error")
        return sqlite3.connect(*arguments, **named)

    file = SqliteFile(path, connect=connect, checkpoint_rows=10)
    store = SqliteStore(path, file=file)
    failing.set()
    for number in range(5):
        put(store, f"p/{number}")
    settled(file)
    assert "metadata.not_checkpointed" in caplog.text
    failing.clear()
    caplog.clear()
    for number in range(5):
        put(store, f"q/{number}")
    settled(file)
    assert "metadata.not_checkpointed" not in caplog.text
    store.close()


def test_without_a_thread_for_it_commits_go_on(
    path: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    store = SqliteStore(path, file=SqliteFile(path, checkpoint_rows=10))
    monkeypatch.setattr(threading.Thread, "start", refuse)
    for number in range(5):
        put(store, f"p/{number}")
    assert "metadata.not_checkpointed" in caplog.text
    monkeypatch.undo()
    store.close()


def test_closing_waits_for_a_checkpoint_but_not_for_ever(path: str) -> None:
    turns = Turns(path + TURNS_SUFFIX)
    file = SqliteFile(path, checkpoint_rows=1, lock_timeout=0.05)
    store = SqliteStore(path, file=file)
    assert turns.take(30)
    put(store, "p")  # goes on without its turn, and begins a checkpoint that waits for one
    thread = file._here().checkpointer._thread
    assert thread is not None
    store.close()
    assert thread.is_alive()
    turns.give()
    thread.join(30)
    assert not thread.is_alive()
    turns.close()


def test_a_checkpoint_does_not_make_a_file_that_was_moved_away(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    file = SqliteFile(path, checkpoint_rows=1)
    store = SqliteStore(path, file=file)
    put(store, "p")
    settled(file)
    os.rename(path, path + ".away")
    file._here().checkpointer.wrote(1)
    settled(file)
    assert not os.path.exists(path)
    assert "metadata.not_checkpointed" in caplog.text
    os.rename(path + ".away", path)
    put(store, "q")
    store.close()
