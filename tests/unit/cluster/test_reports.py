"""Reports of bad copies, and the look that a node is asked to take, off the request path."""

from __future__ import annotations

import threading

import pytest

from dfs.cluster import background
from dfs.cluster.background import Background
from dfs.cluster.reports import Reports
from dfs.errors import CorruptChunk, NotFound
from tests.unit.cluster.fakes import FILE, Clock

BAD = CorruptChunk("bad")


class Looks:
    """What was looked at; `hold` keeps a look from ending."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, int, str]] = []
        self.happened = threading.Semaphore(0)
        self.go_on = threading.Event()
        self.go_on.set()
        self.failure: Exception | None = None

    def __call__(self, file_id: str, chunk_index: int, node_id: str) -> None:
        self.seen.append((file_id, chunk_index, node_id))
        self.happened.release()
        self.go_on.wait(30)
        if self.failure is not None:
            raise self.failure

    def await_one(self) -> None:
        assert self.happened.acquire(timeout=30)


def test_a_copy_that_sent_bad_bytes_is_looked_at_once_in_a_while() -> None:
    clock, looks = Clock(), Looks()
    told: list[tuple[str, int]] = []
    reports = Reports(lambda *chunk: told.append(chunk), looks, clock=clock)
    for _ in range(3):
        reports.bad_replica(FILE, 1, "a", BAD, look=True)
    looks.await_one()
    reports.bad_replica(FILE, 2, "a", NotFound("none"))
    reports.bad_replica(FILE, 1, "b", BAD, look=True)
    looks.await_one()
    clock.now += 3600
    reports.bad_replica(FILE, 1, "a", BAD, look=True)
    looks.await_one()
    reports.close()
    assert looks.seen == [(FILE, 1, "a"), (FILE, 1, "b"), (FILE, 1, "a")]
    assert told == [(FILE, 1), (FILE, 2), (FILE, 1), (FILE, 1)]


@pytest.mark.parametrize("failure", [None, CorruptChunk("set aside"), NotFound("gone by now"), ZeroDivisionError()])
def test_a_look_that_fails_is_not_the_last(failure: Exception | None) -> None:
    looks = Looks()
    looks.failure = failure
    reports = Reports(lambda *_: None, looks)
    for index in range(3):
        reports.bad_replica(FILE, index, "a", BAD, look=True)
        looks.await_one()
    reports.close()
    assert len(looks.seen) == 3


def test_looks_that_wait_are_bounded_and_disturb_no_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.cluster.reports._MOST_LOOKS", 3)
    looks = Looks()
    looks.go_on.clear()
    told: list[tuple[str, int]] = []
    reports = Reports(lambda *chunk: told.append(chunk), looks)
    reports.bad_replica(FILE, 0, "a", BAD, look=True)
    looks.await_one()
    for index in range(1, 20):
        reports.bad_replica(FILE, index, "a", BAD, look=True)
    assert len(told) == 20
    looks.go_on.set()
    for _ in range(3):
        looks.await_one()
    reports.close()
    assert [index for _, index, _ in looks.seen] == [0, 1, 2, 3]
    reports.bad_replica(FILE, 99, "a", BAD, look=True)
    assert len(looks.seen) == 4


def test_closing_drops_what_waits_and_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "CLOSE_SECONDS", 0.01)
    begun, go_on = threading.Event(), threading.Event()
    done: list[int] = []
    worker = Background("test-background", 5)

    def held() -> None:
        begun.set()
        go_on.wait(30)

    assert worker.submit(held)
    assert begun.wait(30)
    thread = worker._thread
    assert thread is not None
    assert worker.submit(lambda: done.append(1))
    worker.close()
    assert thread.is_alive()
    assert not worker.submit(lambda: done.append(2))
    go_on.set()
    thread.join(30)
    assert not thread.is_alive()
    assert done == []
    worker.close()
    Background("never-used", 1).close()


def test_without_a_thread_to_be_had_a_job_is_left_out_and_the_next_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    done = threading.Event()
    worker = Background("test-background", 5)

    def no_thread(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert not worker.submit(lambda: None)
    worker.close()
    worker = Background("test-background", 5)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_thread)
        assert not worker.submit(lambda: None)
    assert worker.submit(done.set)
    assert done.wait(30)
    worker.close()
