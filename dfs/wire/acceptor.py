"""Taking connections off the listening socket, as many as there is room for.

Above the capacity nothing is refused: connections stay in the kernel's queue until there is room.
When several processes accept from the socket, each leaves to the others what is theirs (`balance`).
"""

from __future__ import annotations

import errno
import selectors
import socket
from collections.abc import Callable

from dfs import logs
from dfs.wire.balance import Fairness, Seat
from dfs.wire.listening import Watch, queued, waits

AT_ONCE = 64
"""Accepted in one go, so that those already connected are heard in between."""
PAUSE_SECONDS = 0.1

_ONE_LOST = frozenset({errno.ECONNABORTED, errno.EINTR, errno.EPERM, errno.EPROTO})
"""Errors of accept() that concern a single connection: the next one may be fine."""


class Acceptor:
    """Owns `listener`; hands each new socket to `adopt`. `seat`: among processes that share the socket."""

    def __init__(
        self,
        listener: socket.socket,
        selector: selectors.BaseSelector,
        adopt: Callable[[socket.socket, tuple[str, int]], None],
        seat: Seat | None = None,
    ) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._selector = selector
        self._adopt = adopt
        self._fairness = None if seat is None else Fairness(seat)
        self._watch = Watch(selector, listener, self.accept, shared=seat is not None)
        if seat is not None:
            selector.register(seat, selectors.EVENT_READ, self._poked)
        self._room = 0
        self._held = 0
        self._pause_until: float | None = None
        self._closing = False
        self._now = 0.0
        self.closed = False
        self.accepted = 0

    def update(self, room: int, now: float, held: int = 0) -> None:
        """Take up to `room` more connections beside the `held`, from `now` on; call it before every wait."""
        if self.closed:
            return
        self._room = room
        self._held = held
        self._now = now
        if self._pause_until is not None and now >= self._pause_until:
            self._pause_until = None
        if self._closing and room > 0 and self._pause_until is None:
            self._empty_queue()
        wanted = self._able() and not self.closed
        if self._fairness is not None and not self._closing:
            wanted = self._is_my_turn(self._fairness, wanted)
        if wanted:
            self._watch.start()
        else:
            self._watch.stop()

    def next_due(self) -> float | None:
        """When `update` is to be called even if nothing happens; None for no such time."""
        if self._fairness is None or self._closing or not self._able():
            return self._pause_until  # there is no look at the queue by one who could take nothing
        return self._fairness.next_look

    def finish(self) -> None:
        """From the next `update` on: accept what is in the queue already, then close the listener."""
        self._closing = True
        if self._fairness is not None:
            self._fairness.seat.leave()

    def accept(self) -> None:
        """Take what is in the queue, `AT_ONCE` at most, and what is this process's share."""
        if self._fairness is None or self._closing:
            self._take(AT_ONCE)
        elif self._able():
            waiting = queued(self._listener)
            mine = min(self._fairness.share(self._held, waiting), AT_ONCE)
            emptied = mine > 0 and not self._take(mine)
            if waiting > mine and not emptied:
                self._fairness.pass_on(self._held, waiting - mine)

    def close(self) -> None:
        """Close the listener."""
        if not self.closed:
            self.closed = True
            self._watch.close()
            if self._fairness is not None:
                self._fairness.seat.leave()
                self._selector.unregister(self._fairness.seat)
            self._listener.close()

    def _able(self) -> bool:
        return self._room > 0 and self._pause_until is None

    def _is_my_turn(self, fairness: Fairness, able: bool) -> bool:
        """Whether to listen now; tells the others how things stand."""
        if able and self._now >= fairness.next_look:
            if fairness.looked(waits(self._listener), self._watch.on, self._now):
                self._take(1)
            able = self._able()
        listen = able and fairness.share(self._held, 1) > 0
        fairness.seat.tell(self._held, able=able, listening=listen)
        if self._watch.on and not listen:
            fairness.pass_on(self._held, 0)
        return listen

    def _poked(self) -> None:
        if self._fairness is not None:
            self._fairness.seat.heard()
            self.accept()

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
            self._held += 1
            self._adopt(sock, (str(address[0]), int(address[1])))
        return True
