"""Re-reading everything that stands, step by step: what the scrubber of a node does to its disk.

A pass goes through the records in the order of their sequence, which compaction keeps: so nothing is
passed over or read twice because volumes were compacted meanwhile. Every record that stands when a
pass ends was read from the disk after the pass began, or written after it began.

Records that lie together are read together, from the disk and not from the page cache. What does not
verify that way is looked up and read again by itself, so that a record which was moved, replaced or
erased meanwhile is not taken for a bad one. Then it is set aside and reported; a DROP or ERASE is written
anew, and a NOTE is forgotten, so that it is taken again when somebody brings it.
"""

from __future__ import annotations

import errno
import hashlib
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from dfs import logs
from dfs.errors import Busy, DfsError, Gone, NotFound
from dfs.store.access import Access
from dfs.store.appender import Append
from dfs.store.chunk import PIECE
from dfs.store.disk import DiskFile, read_fully
from dfs.store.entry import Entry
from dfs.store.index import IndexDamaged
from dfs.store.index_upkeep import chunk_records, erase_records, live_bytes, names, note_records
from dfs.store.parts import Parts
from dfs.store.record import Kind, decode_header

_WINDOW = 1 << 20
"""Most bytes that are read at once."""

_GAP = 64 * 1024
"""Between two records: reading on costs less than another read."""

_STEP_BYTES = 4 << 20
_STEP_RECORDS = 256
_TRIES = 4
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Phase(StrEnum):
    """What a pass reads, in this order."""

    CHUNKS = "chunks"
    NOTES = "notes"
    ERASURES = "erasures"
    DONE = "done"


_NEXT = {Phase.CHUNKS: Phase.NOTES, Phase.NOTES: Phase.ERASURES, Phase.ERASURES: Phase.DONE}


@dataclass(frozen=True, slots=True)
class Position:
    """How far a pass is: everything up to `sequence` (of erasures, up to `file_id`, hexadecimal) was read.
    Records with a sequence above `upto` were written after it began."""

    upto: int
    phase: Phase = Phase.CHUNKS
    sequence: int = 0
    file_id: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What one step did: `position` is where the next one goes on."""

    position: Position
    records: int
    bytes: int
    bad: int


class Rereader:
    """Makes the steps of passes. `write` makes records durable."""

    def __init__(self, parts: Parts, access: Access, write: Callable[[Sequence[Append]], None]) -> None:
        self._parts = parts
        self._access = access
        self._write = write

    def begin(self) -> Position:
        """The beginning of a pass."""
        return Position(upto=self._parts.volumes.sequence)

    def total_bytes(self) -> int:
        """About how many bytes a pass reads. Raises Unavailable."""
        return self._parts.catalog.ask(live_bytes)

    def step(self, position: Position, pace: Callable[[int], None]) -> Step:
        """Read the records that come next, a few megabytes. `pace` is told of bytes read, and may wait.

        Raises Unavailable and Busy (the step can be repeated) and what `pace` raises."""
        if position.phase is Phase.DONE:
            return Step(position, 0, 0, 0)
        entries = self._page(position)
        if not entries:
            return Step(Position(position.upto, _NEXT[position.phase]), 0, 0, 0)
        last = entries[-1]
        doubtful: list[Entry] = []
        for window in _windows(entries):
            doubtful += self._read(window, pace)
        bad = sum([self._is_bad(entry, pace) for entry in doubtful])
        after = (
            replace(position, file_id=last.file_id.hex())
            if position.phase is Phase.ERASURES
            else replace(position, sequence=last.sequence)
        )
        return Step(after, len(entries), sum(entry.size for entry in entries), bad)

    def _page(self, at: Position) -> list[Entry]:
        ask = self._parts.catalog.ask
        if at.phase is Phase.CHUNKS:
            found = ask(lambda index: chunk_records(index, at.sequence, at.upto, _STEP_RECORDS))
        elif at.phase is Phase.NOTES:
            found = ask(lambda index: note_records(index, at.sequence, at.upto, _STEP_RECORDS))
        else:
            after = bytes.fromhex(at.file_id)
            found = ask(lambda index: erase_records(index, after, at.upto, _STEP_RECORDS))
        size = 0
        for number, entry in enumerate(found):
            size += entry.size
            if size > _STEP_BYTES and number:
                return found[:number]
        return found

    def _read(self, window: list[Entry], pace: Callable[[int], None]) -> list[Entry]:
        """Those of the records, which lie together, that do not verify or cannot be read."""
        first, last = window[0], window[-1]
        size = last.offset + last.size - first.offset
        if size > _WINDOW:
            return window  # a single large one: read piece by piece, by itself
        volume = self._parts.volumes.get(first.volume)
        try:
            with self._parts.files.reading(first.volume) as file:
                data = _read_from_disk(file, first.offset, size)
        except OSError as error:  # perhaps compacted since the lookup
            if error.errno in _OURS:
                raise Busy(f"too much is open at once: {error.strerror}") from error
            return window
        pace(size)
        now = self._parts.now()
        doubtful = []
        for entry in window:
            if volume is None or not _is_good(data, entry.offset - first.offset, entry, volume.volume_id):
                doubtful.append(entry)
            elif entry.kind == Kind.DATA:
                self._parts.catalog.was_verified(entry.key, entry.sequence, now)
        return doubtful

    def _is_bad(self, entry: Entry, pace: Callable[[int], None]) -> bool:
        """Whether what stands there now is bad; then it is set aside and reported."""
        if entry.kind != Kind.DATA:
            return self._is_bad_record(entry)
        try:
            _, error = self._access.verify(entry, pace)
        except (NotFound, Gone):
            return False
        return error is not None

    def _is_bad_record(self, entry: Entry) -> bool:
        parts = self._parts
        for tries in range(_TRIES):
            if not parts.catalog.ask(lambda index: names(index, entry)):
                return False
            volume = parts.volumes.get(entry.volume)
            try:
                with parts.files.reading(entry.volume) as file:
                    data = _read_from_disk(file, entry.offset, entry.size)
                    if volume is not None and _is_good(data, 0, entry, volume.volume_id):
                        return False
                    parts.aside.keep_chunk(file, entry, "a record does not verify; found while re-reading")
                    break
            except OSError as error:
                if error.errno in _OURS:
                    raise Busy(f"too much is open at once: {error.strerror}") from error
                if tries == _TRIES - 1:
                    message = f"a record cannot be read: {error.strerror}"
                    parts.aside.report("corrupt_record", message, volume=entry.volume, offset=entry.offset)
        try:
            self._make_good(entry)
        except (DfsError, sqlite3.Error, IndexDamaged) as error:  # the next pass finds it again
            logs.warning("store.record_not_renewed", volume=entry.volume, offset=entry.offset, error=error)
        return True

    def _make_good(self, entry: Entry) -> None:
        """The index still knows what the record said, unless it was a note."""
        parts = self._parts
        if entry.kind == Kind.NOTE:
            parts.catalog.change((), None, remove=(), forget=(entry,), sequence=0)
        elif entry.kind == Kind.ERASE:
            self._write([Append(Kind.ERASE, entry.file_id, created=parts.now())])
        else:
            claim = parts.claims.take_alone(entry.key)
            try:
                if parts.catalog.find(entry.key)[1] == entry:
                    self._write([Append(Kind.DROP, *entry.key, created=parts.now())])
            finally:
                parts.claims.give_back(entry.key, claim)


def _windows(entries: list[Entry]) -> Iterator[list[Entry]]:
    """The records in groups that lie close together in one volume."""
    window: list[Entry] = []
    for entry in sorted(entries, key=lambda entry: (entry.volume, entry.offset)):
        if window:
            first, last = window[0], window[-1]
            if (
                entry.volume != first.volume
                or entry.offset - last.offset - last.size > _GAP
                or entry.offset + entry.size - first.offset > _WINDOW
            ):
                yield window
                window = []
        window.append(entry)
    yield window


def _read_from_disk(file: DiskFile, offset: int, size: int) -> bytes:
    """The bytes as they are on the disk; they do not stay in the page cache, where they would push out what
    others read."""
    try:
        file.forget_cached(offset, size)
    except OSError as error:  # it is advice only: the bytes are verified wherever they come from
        logs.warning("store.not_uncached", error=error)
    data = read_fully(file, size, offset)
    try:
        file.forget_cached(offset, size)
    except OSError as error:
        logs.warning("store.not_uncached", error=error)
    return data


def _is_good(data: bytes, at: int, entry: Entry, volume_id: bytes) -> bool:
    """Whether the record that `data` has at `at` is that of `entry`, down to its last byte."""
    record = decode_header(data, at)
    if record is None or len(data) - at < record.size:
        return False
    said = (record.kind, record.offset, record.size, record.volume_id, record.sequence)
    if said != (entry.kind, entry.offset, entry.size, volume_id, entry.sequence):
        return False
    if (record.file_id, record.chunk_index) != (entry.file_id, entry.chunk_index):
        return False
    start = at + record.header_length
    with memoryview(data) as view:
        body = view[start : start + record.length]
        if any(
            zlib.crc32(body[number * PIECE : (number + 1) * PIECE]) != crc
            for number, crc in enumerate(record.piece_crcs)
        ):
            return False
        if record.kind in (Kind.DATA, Kind.NOTE) and not (
            record.sha256 == entry.checksum == hashlib.sha256(body).digest()
        ):
            return False
        return not any(view[start + record.length : at + record.size])
