"""Who gets how much of a pool, and who is next. Pure: the clock is an argument, nothing waits here.

Reservations of one order of magnitude form a *share*. Each share has bytes that only it may use, so
that small requests never wait for large ones nor large ones for small; what is left over is common.
Within a share, and for the common bytes among all shares, whoever came first is served first: bytes
that come free add up until the first waiter fits, so nobody is starved by those who want less.
"""

from __future__ import annotations

from collections import deque

PLAIN = 1 << 20
"""A pool of at most this many bytes is one share: there is nothing to divide."""

_LARGEST = ((64 << 10, 64), (1 << 20, 16))
"""Of the small and the medium share, the largest reservation: bytes, and what part of the pool."""

_RESERVED = (16, 8, 2)
"""What part of the pool is for small, medium and large reservations alone; 5/16 are common."""

_OBSERVED = 5.0
"""Seconds of waiting after which the rate of grants says something."""

_REMEMBERED = 20.0
"""Seconds after which what was observed counts half."""


class Ticket:
    """A place in the queue, for `need` bytes."""

    __slots__ = ("granted", "need", "number", "share")

    def __init__(self, share: Share, need: int) -> None:
        self.share = share
        self.need = need
        self.number = 0
        self.granted = False


class Share:
    """Reservations of up to `largest` bytes (and more than the share before takes)."""

    __slots__ = ("granted", "largest", "lent", "queue", "queued", "reserved", "since")

    def __init__(self, largest: int, reserved: int) -> None:
        self.largest = largest
        self.reserved = reserved
        self.lent = 0
        self.queue: deque[Ticket] = deque()
        self.queued = 0
        self.granted = 0.0
        self.since = 0.0

    def expected_wait(self, need: int, now: float) -> float | None:
        """Seconds until one who queues now is served, going by the grants since the queue formed, and
        as if one were due this moment. None while too little was seen."""
        observed = now - self.since
        if not self.queue or observed < _OBSERVED:
            return None
        return (self.queued + need) * observed / (self.granted + self.queue[0].need)

    def _enter(self, ticket: Ticket, now: float) -> None:
        if not self.queue:
            self.since, self.granted = now, 0.0
        self.queue.append(ticket)
        self.queued += ticket.need

    def _serve(self, now: float) -> None:
        ticket = self.queue.popleft()
        ticket.granted = True
        self.queued -= ticket.need
        self.granted += ticket.need
        if now - self.since > _REMEMBERED:
            self.since += (now - self.since) / 2
            self.granted /= 2


class Shares:
    """The books of a pool of `total` bytes. Not thread-safe."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.lent = 0
        self.waiting = 0
        if total > PLAIN:
            tops = [min(size, total // part) for size, part in _LARGEST] + [total]
            self._shares = [Share(top, total // part) for top, part in zip(tops, _RESERVED, strict=True)]
        else:
            self._shares = [Share(total, 0)]
        self._committed = sum(share.reserved for share in self._shares)
        self._last = 0

    def share_of(self, size: int) -> Share:
        """The share that a reservation of `size` bytes belongs to."""
        for share in self._shares:
            if size <= share.largest:
                return share
        return self._shares[-1]

    def admits(self, share: Share, need: int) -> bool:
        """Whether `need` bytes may be lent now to one who has not queued."""
        if not self.waiting:
            return self._fits(share, need)
        return not share.queue and self._fits_reserved(share, need) and not self._alone(self._oldest())

    def take(self, share: Share, need: int) -> None:
        """`need` bytes are lent."""
        before = share.lent
        self.lent += need
        share.lent = after = before + need
        if after > share.reserved:
            self._committed += after - max(before, share.reserved)

    def give(self, share: Share, need: int) -> None:
        """`need` bytes are back."""
        before = share.lent
        self.lent -= need
        share.lent = after = before - need
        if before > share.reserved:
            self._committed -= before - max(after, share.reserved)

    def queue(self, share: Share, need: int, now: float) -> Ticket:
        """A place behind all others."""
        ticket = Ticket(share, need)
        self._last += 1
        ticket.number = self._last
        share._enter(ticket, now)
        self.waiting += 1
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """Give up a place; those behind may be served now."""
        ticket.share.queue.remove(ticket)
        ticket.share.queued -= ticket.need
        self.waiting -= 1

    def serve(self, now: float) -> Ticket | None:
        """Lend to the next one that can be served, None when there is none."""
        if not self.waiting:
            return None
        oldest = self._oldest()
        chosen = oldest if self._fits(oldest.share, oldest.need) else None
        if chosen is None and not self._alone(oldest):
            for share in self._shares:
                if share.queue and self._fits_reserved(share, share.queue[0].need):
                    chosen = share.queue[0]
                    break
        if chosen is not None:
            chosen.share._serve(now)
            self.waiting -= 1
            self.take(chosen.share, chosen.need)
        return chosen

    def _oldest(self) -> Ticket:
        return min((share.queue[0] for share in self._shares if share.queue), key=lambda ticket: ticket.number)

    def _fits_reserved(self, share: Share, need: int) -> bool:
        """Whether it takes nothing that others might have."""
        return share.lent + need <= share.reserved and self.lent + need <= self.total

    def _fits(self, share: Share, need: int) -> bool:
        lent = share.lent + need
        if self.lent + need > self.total:
            return False
        if lent <= share.reserved:
            return True
        grown = self._committed + lent - max(share.lent, share.reserved)
        return grown <= self.total or not self.lent

    def _alone(self, ticket: Ticket) -> bool:
        """Whether it needs what is reserved for others: then it waits until nothing is lent, and the
        others let it come to that."""
        others = sum(share.reserved for share in self._shares if share is not ticket.share)
        return ticket.need > self.total - others
