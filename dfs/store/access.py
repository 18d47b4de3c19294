"""From a key to verified bytes: look up, open, read, and look again when compaction was faster."""

from __future__ import annotations

import errno
import hashlib
import json
import zlib
from collections.abc import Callable
from functools import partial
from typing import Any

from dfs.errors import Busy, CorruptChunk, Gone, NotFound, Unavailable
from dfs.store.chunk import StoredChunk, StoredNote
from dfs.store.disk import DiskFile, read_fully
from dfs.store.entry import Entry, Key
from dfs.store.parts import Parts
from dfs.store.reader import ChunkReader, IndexMismatch, load_record
from dfs.store.record import Kind, decode_header

_TRIES = 4
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of this process, which say nothing about the disk."""


class Access:
    """Reading for a store."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def open(self, key: Key, *, check: bool = True) -> ChunkReader:
        """The chunk, open; with `check`, the bytes of a small one are verified. Raises NotFound, Gone,
        CorruptChunk, Unavailable, Busy."""
        tries = 0
        while True:
            erased, entry = self._parts.catalog.find(key)
            if erased:
                raise Gone("the file was deleted")
            if entry is None or entry.kind != Kind.DATA:
                raise NotFound("the chunk is not on this disk")
            try:
                return self._open(entry, check)
            except FileNotFoundError:  # compacted since the lookup: look again
                tries += 1
                if tries == _TRIES:
                    raise self._missing(entry) from None

    def stat(self, entry: Entry) -> StoredChunk:
        """What the record of `entry`, or of its successor, says. Raises like `open`."""
        with self.open(entry.key) as reader:
            return reader.info

    def verify(
        self, entry: Entry, pace: Callable[[int], None] = lambda size: None
    ) -> tuple[StoredChunk, CorruptChunk | None]:
        """The chunk, read from the disk, and what is wrong with it; a good one is remembered as verified.

        `pace` is told of every piece read. Raises NotFound, Gone, Unavailable, Busy and what `pace` raises."""
        try:
            with self.open(entry.key, check=False) as reader:
                reader.forget_cached()
                digest = hashlib.sha256()
                for piece in reader.pieces():
                    digest.update(piece)
                    pace(len(piece))
                if digest.hexdigest() != reader.checksum:
                    return reader.info, reader.on_corrupt("its bytes do not have their SHA-256")
                reader.check_padding()
                reader.forget_cached()  # nobody asked for these bytes: they would push out what others read
                chunk = reader.info
                self._parts.catalog.was_verified(entry.key, chunk.sequence, self._parts.now())
                return chunk, None
        except CorruptChunk as error:
            return entry.stored(), error

    def check(self, entry: Entry) -> StoredChunk | None:
        """The chunk when every byte of it is good on the disk, None when the copy is bad or gone."""
        try:
            chunk, error = self.verify(entry)
        except NotFound:
            return None
        return chunk if error is None else None

    def _open(self, entry: Entry, check: bool) -> ChunkReader:
        files = self._parts.files
        try:
            shared = files.acquire(entry.volume)
        except FileNotFoundError:
            raise
        except OSError as error:
            if error.errno in _OURS:
                raise Busy(f"too much is open at once: {error.strerror}") from error
            why = f"the volume file that holds it cannot be opened: {error.strerror}"
            self._parts.catalog.is_bad(entry, self._parts.now(), why)
            raise CorruptChunk(f"volume {entry.volume} cannot be opened: {error.strerror}") from error
        try:
            reader = self._load(entry, shared.file, partial(files.release, shared))
            if check:
                reader.check_body()
            return reader
        except BaseException:
            files.release(shared)
            raise

    def _load(self, entry: Entry, file: DiskFile, release: Callable[[], None]) -> ChunkReader:
        parts = self._parts
        volume = parts.volumes.get(entry.volume)
        try:
            record, data = load_record(file, entry, volume.volume_id if volume else None)
        except IndexMismatch as error:
            parts.catalog.report_damage(error)
            raise Unavailable("the index of this disk is wrong and will be rebuilt") from error
        except OSError as error:
            raise self._corrupt(file, entry, f"its record cannot be read: {error.strerror}") from error
        if record is None:
            raise self._corrupt(file, entry, "its record is damaged")
        return ChunkReader(record, data, entry, file, release, self._corrupt)

    def _corrupt(self, file: DiskFile, entry: Entry, what: str) -> CorruptChunk:
        parts = self._parts
        parts.aside.keep_chunk(file, entry, what)
        parts.catalog.is_bad(entry, parts.now(), what)
        return CorruptChunk(f"the copy of this chunk is corrupt: {what}")

    def _missing(self, entry: Entry) -> CorruptChunk:
        chunk = entry.stored()
        self._parts.aside.report(
            "corrupt_chunk",
            "the volume file of a chunk is missing",
            volume=entry.volume,
            offset=entry.offset,
            file_id=chunk.file_id,
            chunk_index=chunk.chunk_index,
        )
        self._parts.catalog.is_bad(entry, self._parts.now(), "the volume file that holds it is missing")
        return CorruptChunk(f"volume {entry.volume}, which has this chunk, is missing")

    # --- notes ----------------------------------------------------------------------------------

    def notes(self, after: int, limit: int) -> list[StoredNote]:
        """Notes in the order of their sequence. One that does not verify is reported and left out."""
        for _ in range(_TRIES):
            places = self._parts.catalog.ask(lambda index: index.notes_after(after, limit))
            try:
                found = [(sequence, self._note(volume, offset)) for sequence, volume, offset in places]
            except FileNotFoundError:
                continue  # compacted since the lookup
            return [StoredNote(sequence, note) for sequence, note in found if note is not None]
        raise Unavailable("a volume file with notes is missing")

    def _note(self, volume: int, offset: int) -> dict[str, Any] | None:
        with self._parts.files.reading(volume) as file:
            note = _read_note(file, offset)
        if note is None:
            self._parts.aside.report("corrupt_record", "a note does not verify", volume=volume, offset=offset)
        return note


def _read_note(file: DiskFile, offset: int) -> dict[str, Any] | None:
    try:
        data = read_fully(file, 4096, offset)
        record = decode_header(data)
        if record is None or record.kind != Kind.NOTE or record.offset != offset:
            return None
        if record.size > len(data):
            data = read_fully(file, record.size, offset)
    except OSError:
        return None
    body = data[record.header_length : record.header_length + record.length]
    if len(body) != record.length or (zlib.crc32(body),) != record.piece_crcs:
        return None
    note: dict[str, Any] = json.loads(body)
    return note
