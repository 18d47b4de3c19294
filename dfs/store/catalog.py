"""What this store holds: the index, and in front of it the records not yet written to the index.

A record is entered here once it is durable, and is found from then on. The index is written later,
many records at a time, and may fail for a while: the records then stay in memory, up to a limit above
which writers wait.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from dfs.errors import Busy, Unavailable
from dfs.store.claims import Claims
from dfs.store.entry import Entry, Key
from dfs.store.index import Index, IndexDamaged
from dfs.store.index_change import VolumeRow
from dfs.store.record import Kind

_WAIT_SECONDS = 10.0
_NO_FACTS: Mapping[str, str] = {}

T = TypeVar("T")


@dataclass(slots=True)
class _Recent:
    """Durable records that the index does not have yet."""

    keys: dict[Key, Entry] = field(default_factory=dict)
    erased: set[bytes] = field(default_factory=set)
    notes: set[bytes] = field(default_factory=set)
    entries: list[Entry] = field(default_factory=list)
    volumes: dict[int, VolumeRow] = field(default_factory=dict)
    verified: dict[Key, tuple[int, int]] = field(default_factory=dict)
    bad: dict[Key, tuple[int, int, str]] = field(default_factory=dict)
    sequence: int = 0

    def absorb(self, later: _Recent) -> None:
        self.keys.update(later.keys)
        self.erased |= later.erased
        self.notes |= later.notes
        self.entries += later.entries
        for number, row in later.volumes.items():
            self.advance(number, row)
        self.verified |= later.verified
        for key in later.verified:
            self.bad.pop(key, None)
        self.bad |= later.bad
        self.sequence = max(self.sequence, later.sequence)

    def advance(self, number: int, row: VolumeRow) -> None:
        known = self.volumes.get(number)
        sealed = row.sealed or (known is not None and known.sealed)
        self.volumes[number] = VolumeRow(number, row.volume_id, row.upto, sealed, row.compacted)


class Catalog:
    """Lookups and the way of durable records into the index.

    Lookups raise Unavailable when the index cannot be read. `on_failure` is told of every error of
    the index.
    """

    def __init__(
        self,
        index: Index,
        claims: Claims,
        *,
        limit: int,
        on_failure: Callable[[Exception], None],
    ) -> None:
        self.index: Index | None = index
        self._claims = claims
        self._limit = limit
        self._on_failure = on_failure
        self.damage: Exception | None = None
        """Why the index has to be rebuilt."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._flush_lock = threading.RLock()
        self._pending = _Recent()
        self._flushing = _Recent()
        self.background = False
        """Whether a thread flushes; without one, writers do it themselves."""

    # --- lookups --------------------------------------------------------------------------------

    def find(self, key: Key) -> tuple[bool, Entry | None]:
        """Whether the file is erased, and the record (DATA or DROP) that stands for the chunk."""
        return self.find_many((key,))[0]

    def find_many(self, keys: Sequence[Key]) -> list[tuple[bool, Entry | None]]:
        """What `find` says of each of `keys`."""
        found: list[tuple[bool, Entry | None] | None] = []
        unknown = []
        with self._lock:
            recents = (self._pending, self._flushing)
            erased = [recent.erased for recent in recents if recent.erased]
            for key in keys:
                if any(key[0] in files for files in erased):
                    found.append((True, None))
                    continue
                entry = self._pending.keys.get(key) or self._flushing.keys.get(key)
                found.append(None if entry is None else (False, entry))
                if entry is None:
                    unknown.append(key)
        indexed = iter(self._ask(lambda index: index.lookup_many(unknown)) if unknown else ())
        return [next(indexed) if said is None else said for said in found]

    def is_erased(self, file_id: bytes) -> bool:
        """Whether an ERASE of the file stands."""
        with self._lock:
            if file_id in self._pending.erased or file_id in self._flushing.erased:
                return True
        return self._ask(lambda index: index.is_erased(file_id))

    def lacking_notes(self, notes: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Of notes, given by checksum and file id, the checksums of those that are not held and not about
        erased files."""
        unknown = []
        with self._lock:
            recents = (self._pending, self._flushing)
            for checksum, file_id in notes:
                if not any(checksum in recent.notes or file_id in recent.erased for recent in recents):
                    unknown.append((checksum, file_id))
        return self._ask(lambda index: index.lacking_notes(unknown)) if unknown else []

    def ask(self, question: Callable[[Index], T]) -> T:
        """The answer of the index to `question`, with everything durable in it. Raises Unavailable."""
        if not self.flush():
            raise Unavailable("the index of this disk cannot be written at the moment")
        return self._ask(question)

    def _ask(self, question: Callable[[Index], T]) -> T:
        index = self.index
        if index is None:
            raise Unavailable("the index of this disk is being rebuilt")
        try:
            return question(index)
        except (sqlite3.Error, IndexDamaged) as error:
            self._failed(error, index)
            raise Unavailable("the index of this disk cannot be read at the moment") from error

    def _failed(self, error: Exception, index: Index) -> None:
        if self.index is not index:
            return  # it was closed under the question: nothing is wrong
        self._on_failure(error)
        if not isinstance(
            error, sqlite3.OperationalError | sqlite3.InterfaceError | sqlite3.ProgrammingError
        ):
            self.damage = error

    def report_damage(self, error: Exception) -> None:
        """A record is not what the index says of it: the index has to be rebuilt."""
        self.damage = error

    # --- the way in -----------------------------------------------------------------------------

    def await_room(self) -> None:
        """Return when the index is not too far behind for another record. Raises Busy.

        Called before anything is written, so that no writer fails for the index's sake afterwards."""
        if len(self._pending.entries) + len(self._flushing.entries) < self._limit:
            return
        if not self.background:
            self.flush()
        with self._lock:
            if not self._changed.wait_for(self._has_room, _WAIT_SECONDS if self.background else 0):
                raise Busy("the index of this disk is too far behind")

    def _has_room(self) -> bool:
        return len(self._pending.entries) + len(self._flushing.entries) < self._limit

    def add(self, entries: Sequence[Entry], row: VolumeRow, sequence: int) -> None:
        """Take records that have just become durable, in their order; `row` says how far their
        volume now goes."""
        with self._lock:
            pending = self._pending
            void = self._claims.void
            for entry in entries:
                kind = entry.kind
                if kind == Kind.DATA or kind == Kind.DROP:
                    key = (entry.file_id, entry.chunk_index)
                    if not void or key not in void:
                        pending.keys[key] = entry
                elif kind == Kind.ERASE:
                    pending.erased.add(entry.file_id)
                    self._claims.void_file(entry.file_id)
                elif kind == Kind.NOTE:
                    pending.notes.add(entry.checksum)
                else:
                    continue
                pending.entries.append(entry)
            pending.advance(row.number, row)
            pending.sequence = max(pending.sequence, sequence)
            if self.background:
                self._changed.notify_all()

    def was_verified(self, key: Key, sequence: int, at: int) -> None:
        """Remember that the chunk's record of that sequence was read back whole at `at`; forgotten if the
        index is lost, or so far behind that memory would not be bounded."""
        with self._lock:
            self._pending.bad.pop(key, None)
            if len(self._pending.verified) < self._limit:
                self._pending.verified[key] = (sequence, at)

    def is_bad(self, entry: Entry, at: int, why: str) -> None:
        """Remember that the copy of the chunk on the disk is bad, until another record stands in its
        place or it is verified. Beyond the limit it is forgotten: whoever reads it next finds it again."""
        with self._lock:
            if len(self._pending.bad) < self._limit:
                self._pending.bad[entry.key] = (entry.sequence, at, why)
            self._changed.notify_all()

    @property
    def behind(self) -> int:
        """How many records the index does not have yet."""
        return len(self._pending.entries) + len(self._flushing.entries)

    @property
    def crowded(self) -> bool:
        """Whether writers will soon have to wait for the index."""
        return 2 * self.behind >= self._limit

    def await_work(self, seconds: float, ended: Callable[[], bool]) -> None:
        """Return when records wait to be indexed, after `seconds`, or woken when `ended`."""
        with self._lock:
            self._changed.wait_for(
                lambda: bool(
                    self._pending.volumes or self._pending.verified or self._pending.bad or ended()
                ),
                seconds,
            )

    def wake(self) -> None:
        """End every wait."""
        with self._lock:
            self._changed.notify_all()

    def flush(self) -> bool:
        """Write everything durable so far to the index; whether that succeeded."""
        with self._flush_lock:
            index = self.index
            if index is None:
                return False
            with self._lock:
                self._flushing, self._pending = self._pending, _Recent()
                work = self._flushing
            done = False
            try:
                if work.volumes or work.verified or work.bad:
                    self._write(index, work)
                done = True
            except (sqlite3.Error, IndexDamaged) as error:
                self._failed(error, index)
            finally:
                with self._lock:
                    if not done:
                        work.absorb(self._pending)
                        self._pending = work
                    self._flushing = _Recent()
                    self._changed.notify_all()
            return done

    def _write(self, index: Index, work: _Recent) -> None:
        index.apply(
            work.entries,
            work.volumes.values(),
            sequence=work.sequence,
            verified=[(key, *seen) for key, seen in work.verified.items()],
            bad=[(key, *found) for key, found in work.bad.items()],
        )

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a short text in the index; lost with it. Raises sqlite3.Error, IndexDamaged or Unavailable."""
        self.change((), None, remove=(), forget=(), sequence=0, facts={name: value})

    def change(
        self,
        entries: Iterable[Entry],
        row: VolumeRow | None,
        *,
        remove: Sequence[int],
        forget: Iterable[Entry],
        sequence: int,
        facts: Mapping[str, str] = _NO_FACTS,
        now: int = 0,
    ) -> None:
        """Steps of a compaction, or other changes; with `remove` durable when this returns: chunks that still
        stood there are bad as of `now`. Raises sqlite3.Error, IndexDamaged or Unavailable."""
        with self._flush_lock:
            index = self.index
            if index is None:
                raise Unavailable("the index of this disk is being rebuilt")
            try:
                index.apply(
                    entries,
                    [row] if row else (),
                    sequence=sequence,
                    remove=remove,
                    forget=forget,
                    synced=bool(remove),
                    facts=facts,
                    now=now,
                )
            except (sqlite3.Error, IndexDamaged) as error:
                self._failed(error, index)
                raise

    def replace_index(self, make: Callable[[], Index]) -> None:
        """Close the index and go on with the one that `make` builds; lookups are refused meanwhile.

        What `make` raises leaves the catalog without an index; calling again may mend that."""
        with self._flush_lock:
            old, self.index = self.index, None
            if old is not None:
                old.close()
            self.index = make()
            self.damage = None

    def close(self) -> None:
        """Flush and close the index."""
        whole = self.flush() and self.damage is None
        with self._flush_lock:
            index, self.index = self.index, None
            if index is not None:
                try:
                    index.close(clean=whole)
                except (sqlite3.Error, OSError) as error:
                    self._on_failure(error)
