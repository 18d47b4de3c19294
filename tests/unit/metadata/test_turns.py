"""Turns pass between processes and threads, and no crash or wait holds them up."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import threading
from pathlib import Path

import pytest

from dfs.metadata import turns
from dfs.metadata.turns import Turns, a_turn

LONG = 30.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "turns")


def child_holding(path: str) -> int:
    """A process that holds the turn until it is killed."""
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        Turns(path).take(LONG)
        os.write(tell, b"x")
        while True:
            signal.pause()
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.close(tell)
    return child


def test_a_free_turn_is_taken_without_another_thread(path: str) -> None:
    one = Turns(path)
    before = threading.active_count()
    for _ in range(3):
        assert one.take(LONG)
        one.give()
    assert threading.active_count() == before
    one.close()


def test_a_turn_comes_when_the_one_before_it_ends(path: str) -> None:
    first, second = Turns(path), Turns(path)
    assert first.take(LONG)
    came: list[bool] = []
    waiting = threading.Thread(target=lambda: came.append(second.take(LONG)))
    waiting.start()
    while not second._waiting:
        pass
    assert not came
    first.give()
    waiting.join(LONG)
    assert came == [True]
    assert not first.take(0)
    second.give()
    first.close()
    second.close()


def test_the_turn_of_a_killed_process_passes_on(path: str) -> None:
    child = child_holding(path)
    mine = Turns(path)
    assert not mine.take(0)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert mine.take(LONG)
    mine.give()
    mine.close()


def test_a_turn_that_comes_too_late_is_passed_on(path: str) -> None:
    holder, late, third = Turns(path), Turns(path), Turns(path)
    assert holder.take(LONG)
    assert not late.take(0)
    holder.give()
    assert third.take(LONG)
    third.give()
    assert late.take(LONG)  # and it can be waited for again
    late.give()
    for each in (holder, late, third):
        each.close()


def test_closing_while_a_turn_is_waited_for_lets_go_when_it_comes(path: str) -> None:
    holder, waiting = Turns(path), Turns(path)
    assert holder.take(LONG)
    assert not waiting.take(0)
    thread = waiting._waiter
    assert thread is not None
    waiting.close()
    holder.give()
    thread.join(LONG)
    assert not thread.is_alive()
    assert holder.take(LONG)
    holder.close()


def test_an_idle_waiter_ends_with_close(path: str) -> None:
    holder, other = Turns(path), Turns(path)
    assert holder.take(LONG)
    assert not other.take(0)
    holder.give()
    assert other.take(LONG)
    other.give()
    thread = other._waiter
    assert thread is not None
    other.close()
    thread.join(LONG)
    assert not thread.is_alive()
    holder.close()


def test_where_files_cannot_be_locked_nobody_waits(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(fd: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr(turns.fcntl, "flock", refuse)
    one = Turns(path)
    assert not one.take(LONG)
    one.close()


def test_without_a_thread_to_wait_with_nobody_waits_and_later_turns_come(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    holder, other = Turns(path), Turns(path)
    assert holder.take(LONG)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        assert not other.take(LONG)
    assert not other.take(0)
    holder.give()
    assert other.take(LONG)
    other.give()
    for each in (holder, other):
        each.close()


def test_a_single_turn_ends_though_a_process_forked_meanwhile_has_its_file(path: str) -> None:
    other = Turns(path)
    alive, end = os.pipe()
    with a_turn(path):
        child = os.fork()
        if child == 0:
            os.close(end)
            os.read(alive, 1)
            os._exit(0)
    assert other._try()
    other.give()
    other.close()
    os.close(end)
    os.close(alive)
    os.waitpid(child, 0)


def test_a_single_turn_is_held_to_the_end_of_the_block(path: str) -> None:
    other = Turns(path)
    with a_turn(path):
        assert not other.take(0)
    assert other.take(LONG)
    other.close()


def test_a_fork_does_not_share_the_turn(path: str) -> None:
    mine = Turns(path)
    assert mine.take(LONG)
    child = os.fork()
    if child == 0:
        mine.forget()
        os._exit(0 if not Turns(path).take(0) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with pytest.raises(BlockingIOError), open(path) as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    mine.give()
    mine.close()
