"""What the system tells and offers about a listening socket."""

from __future__ import annotations

import os
import select
import selectors
import socket
import struct
import sys
from collections.abc import Callable

_TCP_INFO = getattr(socket, "TCP_INFO", None) if sys.platform.startswith("linux") else None
_UNACKED = struct.Struct("=24xI")
"""struct tcp_info: tcpi_unacked, which for a listening socket is the length of its accept queue."""


def queued(listener: socket.socket) -> int:
    """About how many connections wait to be accepted, 1 at least; always 1 where the system does not say."""
    if _TCP_INFO is None:
        return 1
    (length,) = _UNACKED.unpack(listener.getsockopt(socket.IPPROTO_TCP, _TCP_INFO, _UNACKED.size))
    return max(1, int(length))


def waits(listener: socket.socket) -> bool:
    """Whether a connection waits to be accepted."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    return bool(poll.poll(0))


class Watch:
    """`selector` calls `act` when something waits in the queue of `listener`, between `start` and `stop`.

    `shared`: other processes watch too, and the system need not wake all of them (EPOLLEXCLUSIVE;
    where it is missing each is woken, and all but one find the queue empty).
    """

    def __init__(
        self, selector: selectors.BaseSelector, listener: socket.socket, act: Callable[[], None], *, shared: bool
    ) -> None:
        self._selector = selector
        self._listener = listener
        self._act = act
        self._exclusive: select.epoll | None = None
        if shared and isinstance(selector, selectors.EpollSelector) and hasattr(select, "EPOLLEXCLUSIVE"):
            self._exclusive = select.epoll.fromfd(os.dup(selector.fileno()))  # the same one, to be closed here
        self.on = False

    def start(self) -> None:
        """Watch, if this does not."""
        if self.on:
            return
        self._selector.register(self._listener, selectors.EVENT_READ, self._act)
        if self._exclusive is not None:
            # Only a registration can ask for it, no change of one, and the selector knows nothing of it.
            self._exclusive.unregister(self._listener)
            self._exclusive.register(self._listener, select.EPOLLIN | select.EPOLLEXCLUSIVE)
        self.on = True

    def stop(self) -> None:
        """Watch no longer."""
        if self.on:
            self._selector.unregister(self._listener)
            self.on = False

    def close(self) -> None:
        """`stop`, for good."""
        self.stop()
        if self._exclusive is not None:
            self._exclusive.close()
