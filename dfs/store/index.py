"""The index: which record of which volume file stands for a chunk, an erased file, a note.

Derived from the volume files and disposable. A transaction takes the entries of records that are
durable, together with how far each volume is now indexed, so that whatever commit a power cut leaves
is a true statement about some moment. Per key the highest (sequence, volume) stands; ERASE beats all.
Methods raise sqlite3.Error.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from dfs import logs
from dfs.store.entry import Entry, Key
from dfs.store.index_change import COLUMNS, Change, VolumeRow, row_crc
from dfs.store.index_file import APPLICATION_ID, BAD, SCHEMA, SCHEMA_VERSION, IndexFile
from dfs.store.record import Kind

_COLUMNS_OF_C = ", ".join(f"c.{name}" for name in COLUMNS.split(", ")) + ", c.crc"
_LOOKUP = (
    f"SELECT e.sequence IS NOT NULL, c.sequence IS NOT NULL, {_COLUMNS_OF_C} FROM (SELECT 1) "
    "LEFT JOIN erased e ON e.file_id = ?1 LEFT JOIN chunks c ON c.file_id = ?1 AND c.chunk_index = ?2"
)
_NOTE_KNOWN = "SELECT 1 FROM notes WHERE checksum = ? UNION ALL SELECT 1 FROM erased WHERE file_id = ? LIMIT 1"
_CHUNK_STANDING = "SELECT sequence, volume, offset FROM chunks WHERE file_id = ? AND chunk_index = ?"
_STANDING = {
    Kind.DATA: _CHUNK_STANDING,
    Kind.DROP: _CHUNK_STANDING,
    Kind.ERASE: "SELECT sequence, volume, offset FROM erased WHERE file_id = ?",
    Kind.NOTE: "SELECT sequence, volume, offset FROM notes WHERE checksum = ?",
}


_WRITER_CACHE_KIB = 6144
_NO_FACTS: Mapping[str, str] = {}

_CHECKED = {
    "chunks": COLUMNS,
    "erased": "file_id, volume, offset, size, sequence, created",
    "notes": "sequence, file_id, checksum, volume, offset, size",
    "dead": "file_id, chunk_index, volume",
    "volumes": "number, volume_id, upto, sealed, compacted, live, chunks",
    "bad": "file_id, chunk_index, sequence, found, why",
}


class IndexDamaged(Exception):
    """The database is not one of this disk, or not whole; it must be discarded and rebuilt."""


@contextmanager
def _believing() -> Iterator[None]:
    """What Python makes of a value that no healthy index holds is the index's fault."""
    try:
        yield
    except (ValueError, TypeError, IndexError, OverflowError) as error:
        raise IndexDamaged(f"it holds a value that it cannot hold: {error}") from error


def entry_of_row(row: tuple[Any, ...]) -> Entry:
    """The entry of a row of COLUMNS and its checksum."""
    if row_crc(*row[:-1]) != row[-1]:
        raise IndexDamaged(f"it holds a damaged row: {row!r}")
    return Entry._make(row[:-1])


def _volume_row(row: tuple[Any, ...]) -> VolumeRow:
    if row_crc(*row[:-1]) != row[-1]:
        raise IndexDamaged(f"it holds a damaged row: {row!r}")
    return VolumeRow(row[0], row[1], row[2], bool(row[3]), bool(row[4]), row[5], row[6])


def _relax(writer: sqlite3.Connection) -> None:
    try:
        writer.execute("PRAGMA synchronous=NORMAL")
    except sqlite3.Error as error:  # what was committed is; later commits are only slower
        logs.warning("store.index_stays_synchronous", error=error)


def _checkpoint(file: IndexFile, writer: sqlite3.Connection) -> None:
    try:
        file.checkpoint(writer)
    except (sqlite3.Error, OSError) as error:  # what was committed is; the WAL only grows on
        logs.warning("store.index_not_checkpointed", error=error)


class Index:
    """The open database. Writers exclude each other; readers have connections of their own."""

    def __init__(self, file: IndexFile, disk_id: str) -> None:
        self._file = file
        self._write_lock = threading.RLock()
        proved = file.is_proved()
        self._writer = file.connect()
        self._writer.create_function("row_crc", -1, row_crc, deterministic=True)
        self._spare: list[sqlite3.Connection] = []
        self._free = threading.Semaphore(file.readers())
        self._closed = False
        try:
            with _believing():
                self._writer.execute(f"PRAGMA cache_size=-{_WRITER_CACHE_KIB}")
                self._check(disk_id)
                rows = self._writer.execute(
                    "SELECT number, volume_id, upto, sealed, compacted, live, chunks, crc FROM volumes"
                )
                self.volumes: dict[int, VolumeRow] = {row[0]: _volume_row(row) for row in rows}
                if not proved:
                    self._verify()
            self.chunks = sum(row.chunks for row in self.volumes.values())
            self.bad: int = self._writer.execute("SELECT COUNT(*) FROM bad").fetchone()[0]
        except BaseException:
            self._writer.close()
            raise

    def _check(self, disk_id: str) -> None:
        version = self._writer.execute("PRAGMA user_version").fetchone()[0]
        application = self._writer.execute("PRAGMA application_id").fetchone()[0]
        if (version, application) == (0, 0) and not self._writer.execute(
            "SELECT 1 FROM sqlite_master"
        ).fetchone():
            self._create(disk_id)
            self._writer.execute(BAD)
            return
        if (version, application) != (SCHEMA_VERSION, APPLICATION_ID):
            raise IndexDamaged(f"it has version {version} of application {application}")
        found = self._writer.execute("SELECT value FROM facts WHERE name = 'disk_id'").fetchone()
        if found is None or found[0] != disk_id:
            raise IndexDamaged("it is the index of another disk")
        self._writer.execute(BAD)

    def _create(self, disk_id: str) -> None:
        self._writer.executescript(
            f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version={SCHEMA_VERSION};"
        )
        self._writer.execute("INSERT INTO facts VALUES ('disk_id', ?), ('sequence', 0)", (disk_id,))
        self._writer.execute("COMMIT")

    def _verify(self) -> None:
        """Everything that can be told from the database alone: SQLite's own check, the checksum of
        every row, and whether the rows of each volume are as many as it says. For a database that is
        not proved; takes seconds for a million chunks."""
        broken = self.integrity()
        if broken is not None:
            raise IndexDamaged(broken)
        self._writer.execute("SELECT verified FROM chunks INDEXED BY chunks_sequence WHERE sequence > 0 LIMIT 1")
        for table, columns in _CHECKED.items():
            if self._writer.execute(
                f"SELECT 1 FROM {table} WHERE crc IS NOT row_crc({columns}) LIMIT 1"
            ).fetchone():
                raise IndexDamaged(f"its table {table} holds a damaged row")
        standing = self._writer.execute(
            "SELECT volume, SUM(size), SUM(data) FROM (SELECT volume, size, kind = 2 AS data FROM chunks "
            "UNION ALL SELECT volume, size, 0 FROM erased UNION ALL SELECT volume, size, 0 FROM notes) GROUP BY volume"
        ).fetchall()
        counted = {
            row.number: (row.live, row.chunks) for row in self.volumes.values() if row.live or row.chunks
        }
        if counted != {volume: (size, chunks) for volume, size, chunks in standing}:
            raise IndexDamaged("it lacks rows, or has too many")

    def close(self, *, clean: bool = False) -> None:
        """Close every connection that is not in use; those in use close when given back. `clean`: the
        next start need not doubt what is in the database."""
        with self._write_lock:
            self._closed = True
            spare, self._spare = self._spare, []
            for connection in spare:
                connection.close()
            try:
                if clean:
                    self._file.checkpoint(self._writer, closing=True)
            finally:
                self._writer.close()

    # --- reading --------------------------------------------------------------------------------

    @contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        if self._file.readers() == 0:
            with self._write_lock, _believing():
                self._end_failed()
                yield self._writer
            return
        with self._free:
            try:
                connection = self._spare.pop()
            except IndexError:
                connection = self._file.connect()
            try:
                with _believing():
                    yield connection
            except BaseException:
                connection.close()
                raise
            if self._closed:
                connection.close()
            else:
                self._spare.append(connection)

    def lookup(self, key: Key) -> tuple[bool, Entry | None]:
        """Whether the file is erased, and the record that stands for the chunk (DATA or DROP)."""
        return self.lookup_many((key,))[0]

    def lookup_many(self, keys: Sequence[Key]) -> list[tuple[bool, Entry | None]]:
        """What `lookup` says of each of `keys`."""
        found: list[tuple[bool, Entry | None]] = []
        with self._reader() as reader:
            for key in keys:
                row = reader.execute(_LOOKUP, key).fetchone()
                found.append((bool(row[0]), entry_of_row(row[2:]) if row[1] else None))
        return found

    def is_erased(self, file_id: bytes) -> bool:
        """Whether an ERASE of the file stands."""
        with self._reader() as reader:
            return reader.execute("SELECT 1 FROM erased WHERE file_id = ?", (file_id,)).fetchone() is not None

    def lacking_notes(self, notes: Sequence[tuple[bytes, bytes]]) -> list[bytes]:
        """Of notes, given by checksum and file id, the checksums of those that are not held and not about
        erased files."""
        with self._reader() as reader:
            return [
                checksum
                for checksum, file_id in notes
                if reader.execute(_NOTE_KNOWN, (checksum, file_id)).fetchone() is None
            ]

    def chunks_after(self, sequence: int, limit: int) -> list[Entry]:
        """DATA entries with a higher sequence, in its order."""
        return [entry for entry, _ in self.inventory(sequence, limit)]

    def inventory(self, sequence: int, limit: int) -> list[tuple[Entry, int | None]]:
        """The same, each with when it was last verified (ms)."""
        with self._reader() as reader:
            rows = reader.execute(
                f"SELECT {COLUMNS}, crc, verified FROM chunks INDEXED BY chunks_sequence WHERE sequence > ? "
                "AND kind = ? ORDER BY sequence LIMIT ?",
                (sequence, int(Kind.DATA), limit),
            )
            return [(entry_of_row(row[:-1]), row[-1]) for row in rows]

    def notes_after(self, sequence: int, limit: int) -> list[tuple[int, int, int]]:
        """(sequence, volume, offset) of notes with a higher sequence, in its order."""
        with self._reader() as reader:
            return reader.execute(
                "SELECT sequence, volume, offset FROM notes WHERE sequence > ? ORDER BY sequence LIMIT ?",
                (sequence, limit),
            ).fetchall()

    def stands(self, entry: Entry) -> bool:
        """Whether this record counts: nothing that the index has stands in its place.

        True also for a record that the index does not account for at all: it is not for the index to
        say that a record may go."""
        question = _STANDING[Kind(entry.kind)]
        key: tuple[object, ...] = entry.key
        if entry.kind == Kind.ERASE:
            key = (entry.file_id,)
        elif entry.kind == Kind.NOTE:
            key = (entry.checksum,)
        with self._reader() as reader:
            erased = reader.execute("SELECT 1 FROM erased WHERE file_id = ?", (entry.file_id,)).fetchone()
            if erased and entry.kind != Kind.ERASE:
                return False
            row = reader.execute(question, key).fetchone()
        return row is None or row[0] < entry.sequence or row == (entry.sequence, entry.volume, entry.offset)

    def hidden_elsewhere(self, entry: Entry) -> bool:
        """Whether a volume other than this DROP's or ERASE's still holds a superseded record of its key."""
        clause, given = ("", (entry.file_id,)) if entry.kind == Kind.ERASE else ("AND chunk_index = ? ", entry.key)
        with self._reader() as reader:
            return (
                reader.execute(
                    f"SELECT 1 FROM dead WHERE file_id = ? {clause}AND volume != ? LIMIT 1",
                    (*given, entry.volume),
                ).fetchone()
                is not None
            )

    def sequence(self) -> int:
        """The highest sequence known at the last commit."""
        with self._reader() as reader:
            return int(reader.execute("SELECT value FROM facts WHERE name = 'sequence'").fetchone()[0])

    def verified(self, key: Key) -> int | None:
        """When the chunk was last verified, in milliseconds since the epoch."""
        with self._reader() as reader:
            row = reader.execute(
                "SELECT verified FROM chunks WHERE file_id = ? AND chunk_index = ?", key
            ).fetchone()
        return row[0] if row else None

    def counts(self) -> tuple[int, int, int]:
        """How many chunks, erased files and notes stand."""
        with self._reader() as reader:
            chunks = reader.execute(
                "SELECT COUNT(*) FROM chunks WHERE kind = ?", (int(Kind.DATA),)
            ).fetchone()[0]
            erased = reader.execute("SELECT COUNT(*) FROM erased").fetchone()[0]
            return chunks, erased, reader.execute("SELECT COUNT(*) FROM notes").fetchone()[0]

    def rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        """The rows of a query, one by one. For verification."""
        with self._reader() as reader:
            yield from reader.execute(query)

    def select(self, query: str, given: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query that gives few (see index_upkeep)."""
        with self._reader() as reader:
            return reader.execute(query, given).fetchall()

    def integrity(self) -> str | None:
        """What SQLite finds wrong with the database as such; None when nothing. Before others use it."""
        found = str(self._writer.execute("PRAGMA integrity_check(1)").fetchone()[0])
        return None if found == "ok" else found

    # --- writing --------------------------------------------------------------------------------

    def _end_failed(self) -> None:
        if self._writer.in_transaction:  # the last one failed, and so did its ROLLBACK
            self._writer.execute("ROLLBACK")

    def apply(
        self,
        entries: Iterable[Entry],
        volumes: Iterable[VolumeRow] = (),
        *,
        sequence: int = 0,
        verified: Iterable[tuple[Key, int, int]] = (),
        remove: Sequence[int] = (),
        forget: Iterable[Entry] = (),
        synced: bool = False,
        bad: Iterable[tuple[Key, int, int, str]] = (),
        facts: Mapping[str, str] = _NO_FACTS,
        now: int = 0,
    ) -> None:
        """One transaction: take `entries` (all durable), set how far `volumes` are indexed (live and
        chunks of the given rows are ignored), forget the tombstones `forget`, note which records were
        `verified` and then which are `bad`, and remove the volumes `remove`: chunks that stood there are bad as
        of `now`; and keep `facts` of others. With `synced` it survives power loss when this returns."""
        with self._write_lock, _believing():
            writer = self._writer
            self._end_failed()
            if synced:
                writer.execute("PRAGMA synchronous=FULL")
            try:
                writer.execute("BEGIN IMMEDIATE")
                try:
                    change = Change(writer, self.volumes, self.bad)
                    for row in volumes:
                        change.volume(row)
                    for entry in entries:
                        change.take(entry)
                    for tombstone in forget:
                        change.forget(tombstone)
                    for seen in verified:
                        change.was_verified(*seen)
                    for found in bad:
                        change.is_bad(*found)
                    for number in remove:
                        change.remove(number, now)
                    change.save(sequence)
                    writer.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?)", facts.items())
                    writer.execute("COMMIT")
                    self.volumes = change.volumes
                    self.chunks += change.chunks
                    self.bad = change.bad
                except BaseException:
                    if writer.in_transaction:
                        writer.execute("ROLLBACK")
                    raise
            finally:
                if synced:
                    _relax(writer)
            _checkpoint(self._file, writer)
