"""The threads that do the work of repair, one job at a time each.

Jobs are given by the leader's thread, which alone knows what is to be done; what comes of a job is told in
that thread too, so that nothing it keeps needs a lock. There are never more jobs than the threads can begin
soon: what to do next is decided when there is somebody to do it.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from dfs import errors, logs


@dataclass(frozen=True, slots=True)
class Job:
    """`call` is run by some thread; `then` is given what it returned, or raised. Nobody else works on `key`
    meanwhile."""

    key: Hashable
    call: Callable[[], Any]
    then: Callable[[Any], None]


class Crew:
    """`jobs` threads. `put`, `take`, `room` and `busy` are for one thread, the leader's."""

    def __init__(self, jobs: int) -> None:
        self._count = jobs
        self._todo: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[Job, Any] | None] = queue.SimpleQueue()
        self._keys: set[Hashable] = set()
        self._threads: list[threading.Thread] = []
        self._ended = False

    def start(self) -> None:
        """Begin to work."""
        self._threads = [
            threading.Thread(target=self._work, name=f"dfs-repair-{number}", daemon=True)
            for number in range(self._count)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self, seconds: float) -> None:
        """Begin no job any more; waits at most `seconds` for those under way. What they find closed after that
        is nobody's concern."""
        self._ended = True
        while True:
            try:
                self._todo.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._todo.put(None)
        for thread in self._threads:
            thread.join(seconds / len(self._threads))

    def room(self) -> bool:
        """Whether another job would be begun soon."""
        return len(self._keys) < self._count + max(1, self._count // 2)

    def busy(self, key: Hashable) -> bool:
        """Whether somebody works on `key` (may be asked by any thread)."""
        return key in self._keys

    @property
    def idle(self) -> bool:
        """Whether nothing is under way."""
        return not self._keys

    def put(self, job: Job) -> None:
        """Have a job done; nobody may be busy with its key."""
        self._keys.add(job.key)
        self._todo.put(job)

    def take(self, timeout: float) -> bool:
        """Hear of one job that has ended, waiting at most `timeout` seconds; False when there was none, or
        `nudge` was called."""
        try:
            ended = self._done.get(timeout=timeout) if timeout > 0 else self._done.get_nowait()
        except queue.Empty:
            return False
        if ended is None:
            return False
        job, result = ended
        self._keys.discard(job.key)
        job.then(result)
        return True

    def nudge(self) -> None:
        """End the waiting of `take`. For any thread."""
        self._done.put(None)

    def _work(self) -> None:
        while (job := self._todo.get()) is not None:
            result: Any
            try:
                result = job.call()
            except errors.DfsError as error:  # told to whoever gave the job, who tries again
                result = error
            except Exception as error:  # a bug must not end the thread
                if not self._ended:
                    logs.error("repair.job_failed", exc=error, key=job.key)
                result = error
            self._done.put((job, result))
