"""A little work off the request path: one thread, made when there is something to do."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable

from dfs import logs

Job = Callable[[], None]

CLOSE_SECONDS = 2.0
"""How long a stop waits for a job that waits for others."""


class Background:
    """Runs jobs one after the other, at most `most` waiting. Thread-safe."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._jobs: queue.Queue[Job | None] = queue.Queue(most)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False

    def submit(self, job: Job) -> bool:
        """Have `job` run soon; False when too many wait, when no thread is to be had, or after `close`."""
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                try:
                    thread.start()
                except RuntimeError:
                    return False
                self._thread = thread
            try:
                self._jobs.put_nowait(job)
            except queue.Full:
                return False
            return True

    def close(self) -> None:
        """Drop what waits; returns when what runs has ended, or after CLOSE_SECONDS. Harmless to repeat."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        if thread is None:
            return
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
        self._jobs.put(None)
        thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while True:
            job = self._jobs.get()
            if job is None:
                return
            try:
                job()
            except Exception as error:
                logs.error("background_failed", exc=error, thread=self._name)
