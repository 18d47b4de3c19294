"""A bounded set of threads that serve connections; made when needed, kept."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from dfs import logs
from dfs.wire.connection import Connection, Fate


class Workers:
    """Up to `limit` threads running `serve`; `done` gets each connection back with its fate set."""

    def __init__(
        self, limit: int, serve: Callable[[Connection], Fate], done: Callable[[Connection], None], name: str
    ) -> None:
        self._limit = limit
        self._serve = serve
        self._done = done
        self._name = name
        self._ready: deque[Connection] = deque()
        self._changed = threading.Condition(threading.Lock())
        self._idle = 0
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, connection: Connection) -> None:
        """Queue `connection`, whose head is complete, for the next free worker."""
        with self._changed:
            self._ready.append(connection)
            if self._idle >= len(self._ready):
                self._changed.notify()
            elif len(self._threads) < self._limit and not self._stopped:
                name = f"{self._name}-{len(self._threads)}"
                thread = threading.Thread(target=self._run, name=name, daemon=True)
                self._threads.append(thread)
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no more threads: the others must do
                    self._threads.pop()
                    logs.error("worker_not_started", error=error, workers=len(self._threads))

    def crowded(self) -> bool:
        """Whether connections wait because every worker is taken."""
        return bool(self._ready) and not self._idle

    def counts(self) -> dict[str, int]:
        """`workers`, of them `busy`, and connections `ready` for one."""
        with self._changed:
            total = len(self._threads)
            return {"workers": total, "busy": total - self._idle, "ready": len(self._ready)}

    def stop(self, seconds: float) -> bool:
        """End every thread once its connection is done; True if all ended within `seconds`."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
            threads = list(self._threads)
        until = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._ready:
                    if self._stopped:
                        return
                    self._idle += 1
                    self._changed.wait()
                    self._idle -= 1
                connection = self._ready.popleft()
            try:
                connection.fate = self._serve(connection)
            except Exception as error:
                connection.fate = Fate.RESET
                logs.error("worker_failed", exc=error, peer=connection.peer[0])
            self._done(connection)
            del connection
