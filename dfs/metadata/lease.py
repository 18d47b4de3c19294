"""Leases: at most one holder at a time, most of the time.

A reader judges a lease by its own monotonic clock: it is free when its row has not changed for the
whole `ttl` while this reader watched. Clocks that run apart, or a holder that was stopped, can make
two holders for a moment; that costs double work and nothing else, because everything done under a
lease is conditional by itself. `fence` grows with every change of owner.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.model import Lease

_NOBODY = ""


class LeaseHolder:
    """One process's view of the lease `name`. `owner` must be unique to the process's run."""

    def __init__(
        self,
        store: MetadataStore,
        name: str,
        owner: str,
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._name = name
        self._owner = owner
        self._ttl = ttl
        self._clock = clock
        self._mine: Lease | None = None
        self._valid_until = 0.0
        self._watched: Lease | None = None
        self._watched_since = 0.0

    @property
    def fence(self) -> int | None:
        """The fencing number while the lease is held, else None. May be read by any thread; all calls
        are for one."""
        mine = self._mine
        if mine is None or self._clock() >= self._valid_until:
            return None
        return mine.fence

    def try_acquire(self) -> Lease | None:
        """The lease if it is held now or was free, None if another holds it (ask again: only
        watching it for `ttl` tells that its holder is gone). Raises errors.Unavailable."""
        if self.fence is not None:
            return self._mine
        began = self._clock()
        seen = self._store.read_lease(self._name)
        if seen != self._watched:
            # Timed after the read: the holder may have renewed at any moment before it.
            self._watched, self._watched_since = seen, self._clock()
        free = seen is None or seen.owner in (_NOBODY, self._owner)
        if not free and began - self._watched_since < self._ttl:
            return None
        fence, beat = (1, 1) if seen is None else (seen.fence + 1, seen.beat + 1)
        return self._write(Lease(self._name, self._owner, fence, beat), seen, began)

    def renew(self) -> bool:
        """Whether the lease is still held, now for another `ttl`. Raises errors.Unavailable."""
        mine = self._mine
        if mine is None or self.fence is None:
            self._mine = None
            return False
        began = self._clock()
        renewed = Lease(mine.name, mine.owner, mine.fence, mine.beat + 1)
        if self._write(renewed, mine, began) is not None:
            return True
        # An earlier renewal, taken for lost, may have been applied since.
        current = self._store.read_lease(self._name)
        if current is None or (current.owner, current.fence) != (mine.owner, mine.fence):
            self._mine = None
            return False
        renewed = Lease(mine.name, mine.owner, mine.fence, current.beat + 1)
        return self._write(renewed, current, began) is not None

    def release(self) -> None:
        """Give the lease up, so that another need not wait. Raises errors.Unavailable."""
        mine, self._mine = self._mine, None
        if mine is not None:
            try:
                self._store.write_lease(Lease(mine.name, _NOBODY, mine.fence, mine.beat + 1), mine)
            except OutcomeUnknown:
                return  # It runs out by itself.

    def _write(self, new: Lease, seen: Lease | None, began: float) -> Lease | None:
        """`new` if it is known to be stored: valid for `ttl` from before it was written."""
        try:
            written = self._store.write_lease(new, seen)
        except OutcomeUnknown:
            written = False
        if not written and self._store.read_lease(self._name) != new:
            return None
        self._mine, self._valid_until = new, began + self._ttl
        return new
