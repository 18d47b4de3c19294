"""Taking connections off the listening socket, as many as there is room for.

Above the capacity nothing is refused: connections stay in the kernel's queue until there is room.
"""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Callable

from dfs import logs

AT_ONCE = 64
"""Accepted in one go, so that those already connected are heard in between."""
PAUSE_SECONDS = 0.1

_ONE_LOST = frozenset({errno.ECONNABORTED, errno.EINTR, errno.EPERM, errno.EPROTO})
"""Errors of accept() that concern a single connection: the next one may be fine."""


class Acceptor:
    """Owns `listener`; hands each new socket to `adopt`."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        adopt: Callable[[socket.socket, tuple[str, int]], None],
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._selector = selector
        self._adopt = adopt
        self._watched = False
        self._room = 0
        self._pause_until: float | None = None
        self._closing = False
        self._now = 0.0
        self.closed = False
        self.accepted = 0

    def update(self, room: int, now: float) -> None:
        """Take up to `room` more connections, from `now` on; call it before every wait."""
        if self.closed:
            return
        self._room = room
        self._now = now
        if self._pause_until is not None and now >= self._pause_until:
            self._pause_until = None
        if self._closing and room > 0 and self._pause_until is None:
            self._empty_queue()
        wanted = room > 0 and self._pause_until is None and not self.closed
        if wanted and not self._watched:
            self._selector.register(self._listener, selectors.EVENT_READ, self.accept)
        elif self._watched and not wanted and not self.closed:
            self._selector.unregister(self._listener)
        self._watched = wanted

    def next_due(self) -> float | None:
        """When accepting goes on after an error; None when it is not paused."""
        return self._pause_until

    def finish(self) -> None:
        """From the next `update` on: accept what is in the queue already, then close the listener."""
        self._closing = True

    def accept(self) -> None:
        """Take what is in the queue, `AT_ONCE` at most."""
        self._take(AT_ONCE)

    def close(self) -> None:
        """Close the listener."""
        if not self.closed:
            self.closed = True
            if self._watched:
                self._selector.unregister(self._listener)
                self._watched = False
            self._listener.close()

    def _empty_queue(self) -> None:
        while self._room > 0 and self._pause_until is None:
            if not self._take(self._room):
                self.close()
                return

    def _take(self, most: int) -> bool:
        """Accept up to `most`; False when the queue is empty."""
        for _ in range(min(most, self._room)):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return False
            except OSError as error:
                if error.errno in _ONE_LOST:
                    continue
                self._pause_until = self._now + PAUSE_SECONDS
                logs.warning("accept_paused", error=error)
                return True
            self.accepted += 1
            self._room -= 1
            self._adopt(sock, (str(address[0]), int(address[1])))
        return True
