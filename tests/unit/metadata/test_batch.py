"""Concurrent callers share a batch; each gets its own outcome."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from dfs.metadata.batch import Batcher, Job


def test_callers_that_arrive_while_a_batch_runs_form_the_next_one() -> None:
    batches: list[list[int]] = []
    running, go = threading.Event(), threading.Event()

    def run(jobs: list[Job[int]]) -> None:
        batches.append([job.work for job in jobs])
        if len(batches) == 1:
            running.set()
            go.wait(30)
        for job in jobs:
            job.result = job.work * 2

    batcher: Batcher[int] = Batcher(run, limit=4)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batcher.submit, 0)
        assert running.wait(30)
        others = [pool.submit(batcher.submit, number) for number in range(1, 8)]
        while len(batcher._queue) < 7:
            pass
        go.set()
        assert first.result() == 0
        assert [other.result() for other in others] == [number * 2 for number in range(1, 8)]
    assert [len(batch) for batch in batches] == [1, 4, 3]
    assert sorted(work for batch in batches for work in batch) == list(range(8))


def test_each_job_has_its_own_error_and_a_failed_batch_fails_all() -> None:
    def run(jobs: list[Job[str]]) -> None:
        for job in jobs:
            if job.work == "own":
                job.error = KeyError("own")
            elif job.work == "all":
                raise OSError("all")

    batcher: Batcher[str] = Batcher(run, limit=9)
    with pytest.raises(KeyError):
        batcher.submit("own")
    with pytest.raises(OSError, match="all"):
        batcher.submit("all")
    with pytest.raises(RuntimeError, match="without an outcome"):
        batcher.submit("nothing")


def test_an_interrupt_is_for_the_thread_it_hit() -> None:
    def run(jobs: list[Job[int]]) -> None:
        raise KeyboardInterrupt

    batcher: Batcher[int] = Batcher(run, limit=5)
    waiting = Job(2)
    batcher._queue.append(waiting)
    batcher._queue.insert(0, mine := Job(1))
    batcher._lead()
    assert isinstance(mine.error, KeyboardInterrupt) and isinstance(waiting.error, RuntimeError)


def test_many_callers_all_get_their_answer() -> None:
    def run(jobs: list[Job[int]]) -> None:
        for job in jobs:
            job.result = (job.work,)

    batcher: Batcher[int] = Batcher(run, limit=5)
    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(batcher.submit, range(3000))) == [(number,) for number in range(3000)]
