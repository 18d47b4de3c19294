"""A bounded set of threads that serve connections; made when needed, kept."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from dfs import logs
from dfs.wire.connection import Connection, Fate


class _Seat:
    """Where a worker finds its connection: an idle one sleeps there until it is woken (None: to end)."""

    __slots__ = ("connection", "wake")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.wake = threading.Lock()
        self.wake.acquire()

    def take(self) -> Connection | None:
        """The connection that was put here, once."""
        connection, self.connection = self.connection, None
        return connection


class Workers:
    """Up to `limit` threads running `serve`; `done` gets each connection back with its fate set.

    Work goes straight to the worker that fell idle last: its stack and caches are the warmest, and
    the others may sleep on.
    """

    def __init__(
        self, limit: int, serve: Callable[[Connection], Fate], done: Callable[[Connection], None], name: str
    ) -> None:
        self._limit = limit
        self._serve = serve
        self._done = done
        self._name = name
        self._ready: deque[Connection] = deque()
        self._lock = threading.Lock()
        self._idle: list[_Seat] = []
        self._threads: list[threading.Thread] = []
        self._stopped = False

    def submit(self, connection: Connection) -> None:
        """Give `connection`, whose head is complete, to an idle worker, or queue it for the next."""
        with self._lock:
            if self._idle:
                seat = self._idle.pop()
                seat.connection = connection
                seat.wake.release()
                return
            if len(self._threads) >= self._limit or self._stopped or not self._add(connection):
                self._ready.append(connection)

    def _add(self, connection: Connection) -> bool:
        """One more worker, with `connection` for a start; False when there can be no more threads."""
        seat = _Seat()
        seat.connection = connection
        name = f"{self._name}-{len(self._threads)}"
        thread = threading.Thread(target=self._run, args=(seat,), name=name, daemon=True)
        self._threads.append(thread)
        try:
            thread.start()
        except RuntimeError as error:  # the others must do
            self._threads.pop()
            logs.error("worker_not_started", error=error, workers=len(self._threads))
            return False
        return True

    def crowded(self) -> bool:
        """Whether connections wait because every worker is taken."""
        return bool(self._ready)

    def at_ease(self) -> bool:
        """Whether at least half of the workers there may be have nothing to do."""
        return 2 * (len(self._threads) - len(self._idle)) <= self._limit

    def counts(self) -> dict[str, int]:
        """`workers`, of them `busy`, and connections `ready` for one."""
        with self._lock:
            total = len(self._threads)
            return {"workers": total, "busy": total - len(self._idle), "ready": len(self._ready)}

    def stop(self, seconds: float) -> bool:
        """End every thread once its connection is done; True if all ended within `seconds`."""
        with self._lock:
            self._stopped = True
            for seat in self._idle:
                seat.wake.release()
            self._idle.clear()
            threads = list(self._threads)
        until = time.monotonic() + seconds
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        return not any(thread.is_alive() for thread in threads)

    def _next(self, seat: _Seat) -> Connection | None:
        """The next connection for the worker of `seat`; None when it shall end."""
        with self._lock:
            if self._ready:
                return self._ready.popleft()
            if self._stopped:
                return None
            self._idle.append(seat)
        seat.wake.acquire()
        return seat.take()

    def _run(self, seat: _Seat) -> None:
        connection = seat.take()
        while connection is not None:
            try:
                connection.fate = self._serve(connection)
            except Exception as error:
                connection.fate = Fate.RESET
                logs.error("worker_failed", exc=error, peer=connection.peer[0])
            self._done(connection)
            connection = self._next(seat)
