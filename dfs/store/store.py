"""The chunk store of one node: what others call.

Calls may come from any number of threads. What returned from `put`, `drop`, `erase` or `note` survives
power loss. Chunks become readable when they are durable, not before.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dfs.chunkbatch import NewChunk
from dfs.errors import DfsError, Gone, NotFound, StartError, StoreReadOnly
from dfs.model import parse_file_id
from dfs.store.access import Access
from dfs.store.appender import Append
from dfs.store.appends import batch_append, chunk_append, chunk_key, note_append
from dfs.store.chunk import (
    PIECE,
    CompactionResult,
    Report,
    StoredChunk,
    StoredNote,
    StoreOptions,
    Usage,
)
from dfs.store.disk import Disk, OsDisk
from dfs.store.entry import Entry, Key
from dfs.store.identity import DirectoryLock, DiskIdentity, lock_directory
from dfs.store.index_file import WAL_BYTES, IndexFile, SqliteFile
from dfs.store.maintenance import Maintenance
from dfs.store.parts import INDEX_NAME, assemble, prepare
from dfs.store.reader import ChunkReader
from dfs.store.record import Kind
from dfs.store.room import Room
from dfs.store.storing import Storing, Wish
from dfs.store.upkeep import Upkeep

__all__ = [
    "PIECE",
    "ChunkReader",
    "ChunkStore",
    "CompactionResult",
    "Report",
    "StoreOptions",
    "StoredChunk",
    "StoredNote",
    "Usage",
]

_GROUP = 256
_MAX_INVENTORY = 10_000
_DEFAULTS = StoreOptions()


class ChunkStore:
    """See the module. `open` it, use it, `close` it."""

    def __init__(
        self,
        directory: str,
        identity: DiskIdentity,
        options: StoreOptions,
        disk: Disk,
        index_file: IndexFile,
        clock: Callable[[], float],
        lock: DirectoryLock | None,
    ) -> None:
        """Recover the directory. For `open` and for tests, which bring disks and indexes of their own.

        Raises StartError, and OSError of the disk."""
        self.identity = identity
        self._options = options
        self._clock = clock
        self._lock = lock
        self._closed = threading.Lock()
        self._maintenance = Maintenance(options, self._now)
        prepare(disk, directory)
        self._parts = assemble(
            disk,
            directory,
            identity,
            options,
            index_file,
            self._now,
            self._maintenance.pace,
            self._maintenance.touch,
        )
        self._access = Access(self._parts)
        self._room = Room(disk, directory, options.reserve, self._now)
        self._maintenance.attach(self._parts, index_file, identity, self._room)
        self._storing = Storing(
            self._parts,
            self._access,
            group_bytes=options.volume_size // 4,
            check_room=self._room.check,
            write=self._write,
        )
        self.upkeep = Upkeep(self._parts, self._access, mend=self._maintenance.mend, write=self._write)

    @classmethod
    def open(
        cls,
        directory: Path,
        identity: DiskIdentity,
        options: StoreOptions = _DEFAULTS,
        disk: Disk | None = None,
        clock: Callable[[], float] = time.time,
    ) -> ChunkStore:
        """The store in `directory`, for this process alone; what was durable before is in it.

        Takes the directory's lock, then recovers (see recovery). Raises StartError, saying what to do.
        """
        where = str(directory)
        lock = lock_directory(directory)
        try:
            # What the index has in hand must fit into the reserve several times: a full disk needs it.
            wal_bytes = min(WAL_BYTES, options.reserve // 8)
            index_file = SqliteFile(os.path.join(where, INDEX_NAME), wal_bytes=wal_bytes)
            return cls(where, identity, options, disk or OsDisk(), index_file, clock, lock)
        except OSError as error:
            lock.release()
            raise StartError(
                f"the data directory {directory} cannot be used: {error}; check the disk, its space and its permissions"
            ) from error
        except BaseException:
            lock.release()
            raise

    def _now(self) -> int:
        return int(self._clock() * 1000)

    # --- chunks ---------------------------------------------------------------------------------

    def put(
        self,
        file_id: str,
        chunk_index: int,
        data: bytes | bytearray | memoryview,
        *,
        checksum: str | None,
        chunk_size: int,
        file_size: int | None,
        attributes: Mapping[str, str] | None = None,
        piece_crcs: tuple[int, ...] | None = None,
    ) -> StoredChunk:
        """Store a chunk; durable when this returns.

        A repeat with the same bytes joins the store that is running, or is compared with what is on
        the disk, and a bad copy is replaced. `checksum` is the SHA-256 that the bytes must have (None:
        any). With `piece_crcs`, which the caller has compared with these bytes, it is not computed again
        but recorded as declared. Raises ChecksumMismatch, ChunkConflict (other bytes are stored), Gone (the
        file was erased), NodeFull, StoreReadOnly, Busy, Unavailable, BadRequest.
        """
        key = chunk_key(file_id, chunk_index)
        append = chunk_append(
            key, data, checksum, chunk_size, file_size, attributes, self._now(), piece_crcs
        )
        wish = Wish(append)
        self._maintenance.mend()
        self._storing.store((wish,))
        if wish.error is not None:
            raise wish.error
        assert wish.entry is not None
        return wish.entry.stored(wish.crcs)

    def put_many(self, chunks: Sequence[NewChunk]) -> list[DfsError | None]:
        """Store chunks with one group commit; for each, in order, None when it is durable, else what `put`
        would raise, which touches no other.

        The bytes are compared with their `crc32`, and `checksum` is recorded as declared. Raises
        Unavailable when the index is being rebuilt; then nothing is stored."""
        created = self._now()
        made: list[Wish | DfsError] = []
        for chunk in chunks:
            try:
                made.append(Wish(batch_append(chunk, created)))
            except DfsError as error:
                made.append(error)
        self._maintenance.mend()
        self._storing.store([wish for wish in made if isinstance(wish, Wish)])
        return [found.error if isinstance(found, Wish) else found for found in made]

    def _write(self, appends: Sequence[Append]) -> None:
        parts = self._parts
        parts.catalog.await_room()
        parts.committer.submit(appends)
        if not parts.catalog.background and parts.catalog.behind >= self._options.index_batch:
            parts.catalog.flush()

    def stat(self, file_id: str, chunk_index: int) -> StoredChunk | None:
        """What is stored of the chunk, by its record; its bytes are not read. None when nothing is.

        Raises Gone, and CorruptChunk when the record cannot be read."""
        found = self._find(chunk_key(file_id, chunk_index))
        return None if found is None else self._access.stat(found)

    def open_chunk(self, file_id: str, chunk_index: int, *, check: bool = True) -> ChunkReader:
        """The chunk for reading; close it. `check`: verify the bytes of a small one. Raises NotFound, Gone, CorruptChunk (which is reported, and
        the record set aside), Unavailable, Busy."""
        self._maintenance.mend()
        return self._access.open(chunk_key(file_id, chunk_index), check=check)

    def verify(self, file_id: str, chunk_index: int) -> StoredChunk:
        """Read the whole chunk from the disk and compare it with its CRCs and its SHA-256.

        Raises NotFound, Gone, CorruptChunk (which is reported, and the record set aside)."""
        found = self._find(chunk_key(file_id, chunk_index))
        if found is None:
            raise NotFound("the chunk is not on this disk")
        chunk, error = self._access.verify(found)
        if error is not None:
            raise error
        return chunk

    def last_verified(self, file_id: str, chunk_index: int) -> int | None:
        """When `verify` last found the chunk good, in milliseconds since the epoch; None when it never
        did or the index was lost since."""
        key = chunk_key(file_id, chunk_index)
        return self._parts.catalog.ask(lambda index: index.verified(key))

    def _find(self, key: Key) -> Entry | None:
        self._maintenance.mend()
        erased, entry = self._parts.catalog.find(key)
        if erased:
            raise Gone("the file was deleted")
        return entry if entry is not None and entry.kind == Kind.DATA else None

    def drop(self, file_id: str, chunk_index: int) -> bool:
        """Remove this replica, durably; it may be stored again. False when there was none."""
        key = chunk_key(file_id, chunk_index)
        claim = self._parts.claims.take_alone(key)
        try:
            self._maintenance.mend()
            erased, known = self._parts.catalog.find(key)
            here = not erased and known is not None and known.kind == Kind.DATA
            if here or self.upkeep.is_bad(key):  # bad, and nothing left of it: from now on it is not missed
                self._write([Append(Kind.DROP, key[0], key[1], created=self._now())])
            else:
                self._parts.committer.settle()
            return here
        finally:
            self._parts.claims.give_back(key, claim)

    def erase(self, file_ids: Sequence[str]) -> None:
        """Remove every chunk of these files for ever, durably: later stores of them raise Gone.

        May have erased some of them when it raises; repeating is safe."""
        self._maintenance.mend()
        parts = self._parts
        names = dict.fromkeys(uuid.UUID(parse_file_id(file_id)).bytes for file_id in file_ids)
        living = [name for name in names if not parts.catalog.is_erased(name)]
        for start in range(0, len(living), _GROUP):
            now = self._now()
            self._write([Append(Kind.ERASE, name, created=now) for name in living[start : start + _GROUP]])
        if not living:
            parts.committer.settle()

    # --- notes ----------------------------------------------------------------------------------

    def note(self, notes: Sequence[Mapping[str, Any]]) -> None:
        """Keep what metadata said of files, durably. Notes that are already held, word for word, or are
        about erased files, are not written again. Raises BadRequest for one that is no JSON or too long.
        """
        self._maintenance.mend()
        now = self._now()
        made = {item.sha256: item for item in (note_append(note, now) for note in notes)}
        wanted = self._parts.catalog.lacking_notes(
            [(append.sha256, append.file_id) for append in made.values()]
        )
        group: list[Append] = []
        size = 0
        for append in map(made.__getitem__, wanted):
            if group and (len(group) >= _GROUP or size + append.size > self._options.volume_size // 4):
                self._write(group)
                group, size = [], 0
            group.append(append)
            size += append.size
        if group:
            self._write(group)
        else:
            self._parts.committer.settle()

    def notes(self, after: int, limit: int) -> list[StoredNote]:
        """Notes with a sequence above `after`, at most `limit`, in its order."""
        self._maintenance.mend()
        return self._access.notes(after, min(limit, _MAX_INVENTORY))

    # --- the whole ------------------------------------------------------------------------------

    def inventory(self, after: int, limit: int) -> list[StoredChunk]:
        """Chunks with a sequence above `after`, at most `limit` (and 10,000), in its order.

        Complete for everything that was durable when this was called. Raises Unavailable."""
        self._maintenance.mend()
        found = self._parts.catalog.ask(lambda index: index.inventory(after, min(limit, _MAX_INVENTORY)))
        return [entry.stored(verified=verified) for entry, verified in found]

    def check_takes_chunks(self) -> None:
        """Raise StoreReadOnly or NodeFull when a chunk need not be sent here now; cheap."""
        reason = self._parts.committer.refusal
        if reason is not None:
            raise StoreReadOnly(f"this node takes no writes: {reason}")
        self._room.check(0)

    def usage(self) -> Usage:
        """Space and standing; cheap. `chunks` is the index's count and may lag by a moment."""
        index = self._parts.catalog.index
        reason = self._parts.committer.refusal
        used = self._parts.volumes.total_bytes
        try:
            space = self._room.measure()
        except OSError as error:
            return Usage(
                0, used, 0, index.chunks if index else 0, True, reason or f"the disk failed: {error.strerror}"
            )
        return Usage(
            free_bytes=max(0, space.free - self._options.reserve),
            used_bytes=used,
            capacity_bytes=space.total,
            chunks=index.chunks if index else 0,
            full=space.free <= self._options.reserve,
            read_only_reason=reason,
            bad_chunks=index.bad if index else 0,
        )

    def reports(self) -> list[Report]:
        """What was found wrong since the start, oldest first (the last thousand)."""
        return list(self._parts.aside.reports)

    def compact(self, volumes: Sequence[int] | None = None) -> CompactionResult:
        """Compact the volumes worth it, or the given ones (the newest is left out). Raises
        Unavailable when a file or the index failed; nothing is lost by that."""
        return self._maintenance.compact(volumes)

    def start_maintenance(self) -> None:
        """Start the threads that write the index, mark an idle volume, and compact."""
        self._maintenance.start()

    def close(self) -> None:
        """A clean stop: finish what runs, MARK, write the index, release the directory. Repeatable."""
        if not self._closed.acquire(blocking=False):
            return
        self._maintenance.stop()
        self._parts.committer.close(self._now())
        self._parts.catalog.close()
        self._parts.files.close()
        if self._lock is not None:
            self._lock.release()
