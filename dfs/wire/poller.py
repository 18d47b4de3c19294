"""The thread that waits for everybody: new connections, heads, idle connections, time limits."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from collections import deque
from collections.abc import Callable

from dfs.errors import DfsError
from dfs.wire.acceptor import Acceptor
from dfs.wire.balance import Seat
from dfs.wire.connection import Connection, State
from dfs.wire.custody import Custody
from dfs.wire.limits import Limits

STOP_SECONDS = 2.0
"""How long `stop()` waits for workers to notice that their connection was cut off."""

DRAIN_HEAD_SECONDS = 2.0
"""How long a drain waits for the rest of a head: whoever dawdles must not hold up a restart."""


class Poller:
    """Owns the listener and every connection that no worker serves. Made and run in one thread."""

    def __init__(
        self,
        listener: socket.socket,
        limits: Limits,
        capacity: int,
        *,
        submit: Callable[[Connection], None],
        refusal: Callable[[DfsError], bytes],
        pressed: Callable[[], bool],
        seat: Seat | None = None,
    ) -> None:
        self._limits = limits
        self._selector = selectors.DefaultSelector()
        self._custody = Custody(
            self._selector, limits, capacity, submit=submit, refusal=refusal, pressed=pressed
        )
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector.register(self._wake_in, selectors.EVENT_READ, self._woken_up)
        self._acceptor = Acceptor(listener, self._selector, self._custody.adopt, seat)
        self._woken = False
        self._returned: deque[Connection] = deque()
        self._drain_asked = False
        self._stop_asked = False
        self.finished = threading.Event()
        """Set once a drain has closed the listener and every connection, or the poller has stopped."""

    # -- called by other threads --

    def give_back(self, connection: Connection) -> None:
        """A worker is done with `connection`; its `fate` says what follows."""
        self._returned.append(connection)
        self._wake()

    def drain(self) -> None:
        """Accept what is already connected, close the listener, then each connection as it falls idle."""
        self._drain_asked = True
        self._wake()

    def stop(self) -> None:
        """End `run()`: everything is closed; connections that workers serve are cut off."""
        self._stop_asked = True
        self._wake()

    def full(self) -> bool:
        """Whether new connections have to wait."""
        return self._custody.full()

    def counts(self) -> dict[str, int]:
        """Open connections, all accepted so far, and how many wait for what."""
        return {
            "connections": len(self._custody.open),
            "accepted": self._acceptor.accepted,
            **self._custody.waiting.counts(),
        }

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            try:
                self._wake_out.send(b"w")
            except OSError:  # stopped meanwhile: nobody is left to wake
                return

    # -- the loop --

    def run(self) -> None:
        """Serve until `stop()`."""
        draining = False
        try:
            while not self._stop_asked:
                now = time.monotonic()
                if self._drain_asked and not draining:
                    draining = True
                    self._acceptor.finish()
                    for state in (State.FRESH, State.IDLE):
                        self._custody.waiting.shorten(state, self._limits.quiet_seconds, now)
                    self._custody.waiting.shorten(State.HEAD, DRAIN_HEAD_SECONDS, now)
                self._acceptor.update(self._custody.room(now), now, len(self._custody.open))
                if draining and self._acceptor.closed and not self._custody.open:
                    self.finished.set()
                self._turn()
                for connection in self._custody.waiting.overdue(time.monotonic()):
                    self._custody.guarded(self._custody.time_over, connection)
            self._cut_off()
        finally:
            self._shut()

    def _turn(self) -> None:
        """Wait for something to happen, once, and deal with it."""
        dues = [due for due in (self._custody.next_due(), self._acceptor.next_due()) if due is not None]
        timeout = max(0.0, min(dues) - time.monotonic()) if dues else None
        for key, _ in self._selector.select(timeout):
            owner = key.data
            if isinstance(owner, Connection):
                if owner.state is not State.SERVED:  # closed or handed on since the wait ended
                    self._custody.guarded(self._custody.readable, owner)
            else:
                owner()
        while self._returned:
            self._custody.guarded(self._custody.take_back, self._returned.popleft())

    def _woken_up(self) -> None:
        self._wake_in.recv(4096)
        self._woken = False  # before the queue is read: whoever comes later wakes us again

    # -- the end --

    def _cut_off(self) -> None:
        """Close everything; wake the workers that wait for a peer and take their connections back."""
        self._acceptor.close()
        for connection in list(self._custody.open):
            if connection.state is State.SERVED:
                connection.link.cut_off()
            else:
                self._custody.close(connection)
        until = time.monotonic() + STOP_SECONDS
        while self._custody.open and (left := until - time.monotonic()) > 0:
            if self._selector.select(left):
                self._woken_up()
            while self._returned:
                self._custody.close(self._returned.popleft())

    def _shut(self) -> None:
        self._acceptor.close()
        for connection in list(self._custody.open):
            self._custody.close(connection)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()
        self.finished.set()
