"""Group commit of concurrent callers: whoever finds nobody working works for all who wait.

The running batch is the batching window: callers that arrive meanwhile form the next one. There is
no thread of its own, so nothing needs starting, stopping or restarting after a fork.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

W = TypeVar("W")


class Job(Generic[W]):
    """One caller's piece of work, with its outcome once done."""

    __slots__ = ("_gate", "error", "finished", "result", "work")

    def __init__(self, work: W) -> None:
        self.work = work
        self.result: object = None
        self.error: BaseException | None = None
        self.finished = False
        self._gate = threading.Lock()
        self._gate.acquire()

    def wait(self) -> None:
        """Return when the job is finished, or its caller is asked to lead."""
        self._gate.acquire()

    def wake(self) -> None:
        """Let `wait` return."""
        self._gate.release()


class Batcher(Generic[W]):
    """Runs `run(jobs)` for batches of at most `limit` jobs, one batch at a time.

    `run` sets each job's `result` or `error`; what it raises becomes the error of every job of the
    batch that has neither. It is called by one of the waiting threads.
    """

    def __init__(self, run: Callable[[list[Job[W]]], None], limit: int) -> None:
        self._run = run
        self._limit = limit
        self._guard = threading.Lock()
        self._queue: list[Job[W]] = []
        self._leading = False

    def submit(self, work: W) -> object:
        """Do `work` in some batch; returns its result or raises its error."""
        job = Job(work)
        with self._guard:
            self._queue.append(job)
            lead = not self._leading
            self._leading = True
        if not lead:
            job.wait()
        if not job.finished:
            self._lead()
        if job.error is not None:
            raise job.error
        return job.result

    def _lead(self) -> None:
        """Run the batch at the head of the queue, which holds the caller's job; pass the lead on."""
        with self._guard:
            batch = self._queue[: self._limit]
            del self._queue[: self._limit]
        failure: BaseException = RuntimeError("the batch ended without an outcome")
        try:
            self._run(batch)
        except BaseException as error:
            failure = error
        with self._guard:
            successor = self._queue[0] if self._queue else None
            self._leading = successor is not None
        if successor is not None:
            successor.wake()
        for job in batch:
            if job.result is None and job.error is None:
                # An interrupt (always of the thread that leads: the first) is not for the others.
                own = job is batch[0] or isinstance(failure, Exception)
                job.error = failure if own else RuntimeError("the batch was interrupted")
            job.finished = True
            job.wake()
