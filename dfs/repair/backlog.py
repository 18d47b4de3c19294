"""Chunks that somebody marked as short of replicas, or bad: found in the index, oldest first, and healed.

Marks are gone through in rounds, a page of each partition in memory at a time, however many there are. A
mark goes when the chunk has all its good copies, and only if it is that very mark: one that was put
meanwhile stays, and the chunk is looked at again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from dfs.metadata.contract import GcEntry, GcKind, MetadataStore, StepsRefused
from dfs.metadata.steps import RemoveShort
from dfs.model import FileState
from dfs.repair.later import Later
from dfs.repair.mend import Mended, Outcome
from dfs.repair.progress import MOST_NAMED

PAGE = 100
_IN_VAIN = (Outcome.WAITING, Outcome.UNRECOVERABLE)

Key = tuple[str, int]


class Mends(Protocol):
    """What is used of `repair.mend.Mender`."""

    def mend(
        self,
        file_id: str,
        chunk_index: int,
        *,
        verify: bool = False,
        trim: bool = True,
        rebalance: bool = False,
    ) -> Mended:
        """See Mender.mend."""

    def alone(self, key: Key) -> AbstractContextManager[bool]:
        """See Mender.alone."""


@dataclass(frozen=True, slots=True)
class Healed:
    """What became of a mark. `young`: it was left to the write that made it. `cleared`: it is gone."""

    mended: Mended
    cleared: bool = False
    young: bool = False


def heal(store: MetadataStore, mender: Mends, mark: GcEntry, now_ms: int, young_ms: int) -> Healed:
    """Mend a marked chunk, each of its copies read first, and clear the mark; for any thread.

    For `young_ms` a write looks after its own marks, unless they are of a future that no clock but the writer's
    knows. Raises what the store raises."""
    key = key_of(mark)
    now = range(now_ms - young_ms + 1, now_ms + young_ms)
    record = store.get_file(mark.id)
    # An upload puts marks as it goes, long after its record was last touched.
    if record is not None and (record.touched_at in now or (record.state is FileState.UPLOADING and mark.at in now)):
        return Healed(Mended(Outcome.WAITING, reason="it was written just now"), young=True)
    mended = mender.mend(*key, verify=True)
    if mended.outcome in _IN_VAIN:
        return Healed(mended)
    try:
        store.transact([RemoveShort(*key, mark.at)])
    except StepsRefused:
        return Healed(mended)  # gone already (the index lags), or put again since
    return Healed(mended, cleared=True)


def key_of(mark: GcEntry) -> Key:
    """The chunk that is marked."""
    return mark.id, mark.chunk_index or 0


class Backlog:
    """The rounds; for one thread. `short` is how many marks are left as far as the rounds have come (`more`:
    at least), `waiting`, `unrecoverable` and `unrecoverable_chunks` (some of them) are of the last complete
    one. `clean_since`: when the last complete round began if it found nothing, ms, else 0."""

    def __init__(
        self, store: MetadataStore, later: Later, *, unrecoverable: int = 0, chunks: Collection[Key] = ()
    ) -> None:
        self._store = store
        self._later = later
        self._entries: Iterator[GcEntry] | None = None
        self._deferred: list[GcEntry] = []  # no more than there are chunks that somebody is busy with
        self._out = 0
        self._open = self._waits = self._lost = self._last = 0
        self._named: list[Key] = []
        self._hopeless: set[object] = set()
        self._began_ms = 0
        self._broken = self._found = False
        self.short = 0
        self.more = True
        self.waiting = 0
        self.unrecoverable = unrecoverable
        self.unrecoverable_chunks = tuple(chunks)
        self.clean_since = 0

    @property
    def going(self) -> bool:
        """Whether a round is under way."""
        return self._entries is not None or self._out > 0 or bool(self._deferred)

    def begin(self, now_ms: int) -> None:
        """Begin a round, unless one is under way."""
        if not self.going:
            self._open = self._waits = self._lost = 0
            self._named = []
            self._broken = self._found = False
            self._began_ms = now_ms
            self._entries = self._oldest_first()

    def next(self, busy: Callable[[Key], bool]) -> GcEntry | None:
        """The next mark to heal (chunks that somebody is `busy` with come later); None when there is none now.
        Raises errors.Unavailable: the round has ended early."""
        while self._entries is not None:
            try:
                mark = next(self._entries, None)
            except BaseException:
                self._entries, self._broken = None, True
                self._show()
                raise
            if mark is None:
                self._entries = None
                self._end()
                break
            self._open += 1
            self._found = True
            self._show()
            if not self._later.due((key_of(mark), mark.at)):
                self._in_vain(mark, (key_of(mark), mark.at) in self._hopeless)
            elif busy(key_of(mark)):
                self._deferred.append(mark)
            else:
                self._out += 1
                return mark
        for place, mark in enumerate(self._deferred):
            if not busy(key_of(mark)):
                self._out += 1
                return self._deferred.pop(place)
        return None

    def done(self, mark: GcEntry, healed: Healed | Exception) -> None:
        """What became of a mark that was handed out."""
        self._out -= 1
        known = (key_of(mark), mark.at)
        outcome = Outcome.WAITING if isinstance(healed, Exception) else healed.mended.outcome
        if isinstance(healed, Healed) and healed.young:
            pass
        elif outcome in _IN_VAIN:
            hopeless = outcome is Outcome.UNRECOVERABLE
            self._later.put(known, slowly=hopeless)
            self._in_vain(mark, hopeless)
        else:
            # One that was put again is found by the next round.
            self._open -= 1
            self._last = max(0, self._last - 1)
            self._later.drop(known)
            self._hopeless.discard(known)
        self._end()

    def _in_vain(self, mark: GcEntry, hopeless: bool) -> None:
        known = (key_of(mark), mark.at)
        if not hopeless:
            self._waits += 1
            self._hopeless.discard(known)
            return
        self._lost += 1
        if len(self._named) < MOST_NAMED:
            self._named.append(key_of(mark))
        if known in self._later:  # which is bounded
            self._hopeless.add(known)

    def _end(self) -> None:
        """Publish what the round has found, if it has come to its end."""
        if not self.going and not self._broken:
            self._last = self._open
        self._show()
        if self.going or self._broken:
            return
        self.waiting, self.unrecoverable = self._waits, self._lost
        self.unrecoverable_chunks = tuple(self._named)
        self.clean_since = 0 if self._found else self._began_ms
        self._hopeless = {known for known in self._hopeless if known in self._later}

    def _show(self) -> None:
        self.short, self.more = max(self._open, self._last), self._entries is not None or self._broken

    def _oldest_first(self) -> Iterator[GcEntry]:
        parts = [self._pages(partition) for partition in self._store.gc_partitions(GcKind.SHORT)]
        return heapq.merge(*parts, key=lambda entry: entry.at)

    def _pages(self, partition: str) -> Iterator[GcEntry]:
        after: str | None = None
        while page := self._store.gc_entries(partition, after=after, limit=PAGE):
            yield from page
            after = page[-1].key
