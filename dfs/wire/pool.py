"""Idle client connections, kept for the next request to the same peer."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from dfs.wire.link import Link

Peer = tuple[str, int]


class IdlePool:
    """Up to `per_peer` idle connections to each peer, none older than `seconds`; thread-safe."""

    def __init__(self, per_peer: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_peer = per_peer
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._idle: dict[Peer, deque[tuple[Link, float]]] = {}
        self._swept = clock()
        self._closed = False

    def take(self, peer: Peer) -> Link | None:
        """The connection used last, if it is still good: one that has something to say is not."""
        while True:
            with self._lock:
                links = self._idle.get(peer)
                if not links:
                    return None
                link, since = links.pop()
            if self._clock() - since <= self._seconds and not link.readable(0.0):
                return link
            link.close()

    def put(self, peer: Peer, link: Link) -> None:
        """Keep `link`, or close it when there is no room for it."""
        now = self._clock()
        surplus: list[Link] = []
        with self._lock:
            if self._closed:
                surplus.append(link)
            else:
                links = self._idle.setdefault(peer, deque())
                links.append((link, now))
                if len(links) > self._per_peer:
                    surplus.append(links.popleft()[0])
                if now - self._swept > self._seconds / 2:
                    self._swept = now
                    surplus += self._sweep(now)
        for each in surplus:
            each.close()

    def drop(self, peer: Peer) -> None:
        """Close the idle connections to `peer`."""
        with self._lock:
            links = self._idle.pop(peer, deque())
        for link, _ in links:
            link.close()

    def close(self) -> None:
        """Close all, and what is put later too."""
        with self._lock:
            self._closed = True
            every = list(self._idle)
        for peer in every:
            self.drop(peer)

    def count(self) -> int:
        """How many connections are idle."""
        with self._lock:
            return sum(map(len, self._idle.values()))

    def _sweep(self, now: float) -> list[Link]:
        """Take out what is too old, for every peer; the lock is held."""
        old: list[Link] = []
        for peer, links in list(self._idle.items()):
            while links and now - links[0][1] > self._seconds:
                old.append(links.popleft()[0])
            if not links:
                del self._idle[peer]
        return old
