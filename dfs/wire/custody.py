"""Every open connection and what the poller does with it: read heads, hold, discard, close.

Nothing here blocks: every system call says so. A connection has one owner at any time: this (in some state of waiting), or a
worker (state SERVED). Only this closes sockets, so a connection that a worker serves cannot lose its
descriptor to another one.
"""

from __future__ import annotations

import selectors
import socket
import time
from collections.abc import Callable

from dfs import logs
from dfs.errors import DfsError, RequestTimeout
from dfs.wire.connection import Connection, Fate, State
from dfs.wire.limits import Limits
from dfs.wire.link import PeerGone
from dfs.wire.pace import Pace
from dfs.wire.waiting import Waiting

LONG_IDLE_SECONDS = 1.0
"""At full capacity a connection that was idle for longer makes room for a new one."""

_READ = 4096


class Custody:
    """The connections of one server; used by the poller's thread only."""

    def __init__(
        self,
        selector: selectors.BaseSelector,
        limits: Limits,
        capacity: int,
        *,
        submit: Callable[[Connection], None],
        refusal: Callable[[DfsError], bytes],
        pressed: Callable[[], bool],
    ) -> None:
        """`submit` gives a connection to a worker; `refusal` makes an error answer that ends one."""
        self._selector = selector
        self._limits = limits
        self._capacity = capacity
        self._submit = submit
        self._refusal = refusal
        self._pressed = pressed
        self._scratch = memoryview(bytearray(64 * 1024))
        self.open: set[Connection] = set()
        self.waiting = Waiting(
            {
                State.FRESH: limits.head_seconds,
                State.HEAD: limits.head_seconds,
                State.IDLE: limits.idle_seconds,
                State.SKIP: limits.drain_seconds,
                State.LINGER: limits.drain_seconds,
            }
        )

    def full(self) -> bool:
        """Whether new connections have to wait."""
        return len(self.open) >= self._capacity

    def room(self, now: float) -> int:
        """How many more connections there is room for; some is made by closing the longest idle."""
        if self.full():
            oldest = self.waiting.oldest(State.IDLE)
            if oldest is not None and now - self.waiting.since(oldest) >= LONG_IDLE_SECONDS:
                oldest.due = now
                self.guarded(self.time_over, oldest)
        return self._capacity - len(self.open)

    def next_due(self) -> float | None:
        """When the next time limit is reached, or `room` can make room."""
        due = self.waiting.next_due()
        oldest = self.waiting.oldest(State.IDLE) if self.full() else None
        if oldest is None or due is None:
            return due
        return min(due, self.waiting.since(oldest) + LONG_IDLE_SECONDS)

    def guarded(self, step: Callable[[Connection], None], connection: Connection) -> None:
        """One connection's trouble must never stop the others."""
        try:
            step(connection)
        except Exception as error:
            logs.error("connection_failed", exc=error, peer=connection.peer[0])
            self.close(connection)

    def adopt(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        limits = self._limits
        pace = Pace(limits.stall_seconds, limits.min_rate, limits.rate_window, self._pressed)
        try:
            connection = Connection(sock, peer, pace)
        except OSError:  # reset before we got to it
            sock.close()
            return
        self.open.add(connection)
        self.guarded(self.readable, connection)  # the request has often come along

    def _watch(self, connection: Connection, state: State) -> None:
        """Wait for `connection`, which nobody does, in `state`."""
        self._selector.register(connection.link.sock, selectors.EVENT_READ, connection)
        self.waiting.enter(connection, state, time.monotonic())

    def _move(self, connection: Connection, state: State) -> None:
        """Wait for something else than before."""
        if connection.state is State.SERVED:
            self._watch(connection, state)
        else:
            self.waiting.leave(connection)
            self.waiting.enter(connection, state, time.monotonic())

    def _release(self, connection: Connection) -> None:
        """Wait for `connection` no longer."""
        if connection.state is not State.SERVED:
            self._selector.unregister(connection.link.sock)
            self.waiting.leave(connection)

    def close(self, connection: Connection) -> None:
        if connection in self.open:
            self.open.discard(connection)
            self._release(connection)
            connection.link.close()

    def readable(self, connection: Connection) -> None:
        """Read what is there; a complete head goes to a worker."""
        if connection.state in (State.SKIP, State.LINGER):
            self._discard(connection)
            return
        try:
            read = connection.link.sock.recv(_READ, socket.MSG_DONTWAIT)
        except BlockingIOError:
            if connection.state is State.SERVED:  # just accepted
                self._watch(connection, State.FRESH)
            return
        except OSError:
            read = b""
        if not read:
            self.close(connection)
            return
        connection.link.data += read
        self.waiting.grew(connection, len(read))
        self._sort(connection)

    def _sort(self, connection: Connection) -> None:
        """Where does a connection belong that holds some bytes?"""
        if connection.has_work(self._limits):
            self._release(connection)
            self._submit(connection)
            return
        if connection.state is not State.HEAD:
            self._move(connection, State.HEAD)
        while self.waiting.head_bytes > self._limits.heads_bytes:
            oldest = self.waiting.oldest(State.HEAD)
            if oldest is not None:
                self._refuse(oldest)

    def _discard(self, connection: Connection) -> None:
        """Throw away what nobody wants; after a skipped body the connection is as good as new."""
        skipping = connection.state is State.SKIP
        room = self._scratch[: connection.skip] if skipping else self._scratch
        try:
            count = connection.link.sock.recv_into(room, 0, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self.close(connection)
        elif skipping:
            connection.skip -= count
            if not connection.skip:
                self._move(connection, State.IDLE)
        else:
            connection.discarded += count
            if connection.discarded > self._limits.drain_bytes:
                self.close(connection)

    def take_back(self, connection: Connection) -> None:
        """A worker let go of `connection`."""
        fate = connection.fate
        if fate is Fate.READY:
            self._submit(connection)
        elif fate is Fate.LINGER:
            self._linger(connection)
        elif fate is not Fate.WAIT:
            if fate is Fate.RESET:
                connection.link.reset_on_close()
            self.close(connection)
        else:
            connection.pass_over()
            if connection.skip:
                self._watch(connection, State.SKIP)
            elif connection.link.data:
                self._sort(connection)
            else:
                self._watch(connection, State.IDLE)

    def _linger(self, connection: Connection) -> None:
        """Nothing more will be sent; what still comes is read and thrown away for a while.

        Closing with unread bytes would reset the connection, and the peer might lose the answer.
        """
        try:
            connection.link.finish_sending()
        except PeerGone:
            self.close(connection)
            return
        self._release(connection)
        connection.link.data.clear()
        self._watch(connection, State.LINGER)

    def _refuse(self, connection: Connection) -> None:
        """Cut off a head that takes too long. The answer fits the empty send buffer, or is lost."""
        error = RequestTimeout("the request head came too slowly")
        try:
            connection.link.sock.send(self._refusal(error), socket.MSG_DONTWAIT)
        except OSError:
            self.close(connection)
            return
        self._linger(connection)

    def time_over(self, connection: Connection) -> None:
        """The time limit of its state has passed, by a list that may be stale."""
        state = connection.state
        if state is State.SERVED or connection.due > time.monotonic():
            return  # dealing with another one has moved it on
        if state is State.HEAD:
            self._refuse(connection)
        elif state in (State.FRESH, State.IDLE):
            self.readable(connection)  # a request may have arrived this very moment
            if connection.state is state:
                self.close(connection)
        else:
            self.close(connection)
