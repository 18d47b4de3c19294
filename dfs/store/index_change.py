"""The inside of one index transaction: which record stands when several tell of one key."""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass

from dfs.store.entry import Entry, Key
from dfs.store.record import Kind


def row_crc(*values: object) -> int:
    """The checksum kept in every row: SQLite notices damaged pages, not damaged values."""
    return zlib.crc32(repr(values).encode())


COLUMNS = "kind, file_id, chunk_index, volume, offset, size, sequence, created, length, checksum, chunk_size, file_size"
_ROW = f"INTO chunks ({COLUMNS}, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NEW_CHUNK = f"INSERT OR IGNORE {_ROW}"
_REPLACE_CHUNK = f"INSERT OR REPLACE {_ROW}"
_OLD_CHUNK = "SELECT sequence, volume, offset, size, kind, verified FROM chunks WHERE file_id = ? AND chunk_index = ?"
_NEW_NOTE = "INSERT OR IGNORE INTO notes VALUES (?, ?, ?, ?, ?, ?, ?)"
_FORGOTTEN: dict[Kind, tuple[str, str, tuple[object, ...]]] = {
    Kind.ERASE: ("erased", "", ()),
    Kind.DROP: ("chunks", "AND chunk_index = ? AND kind = ? ", (int(Kind.DROP),)),
    Kind.NOTE: ("notes", "", ()),
}
NO_RECORD = 0
"""Stands for the sequence of a bad chunk of which no record is left."""

_VANISHED = "its record was damaged beyond recognition, or the volume file that held it vanished"

NOTE_INDEX = -1
"""Stands for a chunk_index in the table `dead` when the record is a note."""


@dataclass(slots=True)
class VolumeRow:
    """What the index knows of a volume: records below `upto` are in it; `live` bytes of them stand.

    `sealed`: the volume ends at `upto`, whatever bytes follow."""

    number: int
    volume_id: bytes
    upto: int
    sealed: bool
    compacted: bool
    live: int = 0
    chunks: int = 0


class Change:
    """Takes entries in any order, each as often as it comes; `chunks` is the change of the number of chunks."""

    def __init__(self, writer: sqlite3.Connection, volumes: dict[int, VolumeRow], bad: int = 0) -> None:
        self._writer = writer
        self.bad = bad
        """How many chunks are known to be bad: the rows of the table `bad`."""
        self._touched: set[int] = set()
        self.chunks = 0
        self._erasures = writer.execute("SELECT 1 FROM erased LIMIT 1").fetchone() is not None
        self.volumes = dict(volumes)

    def _row(self, number: int) -> VolumeRow | None:
        row = self.volumes.get(number)
        if row is not None and number not in self._touched:
            row = VolumeRow(
                row.number, row.volume_id, row.upto, row.sealed, row.compacted, row.live, row.chunks
            )
            self.volumes[number] = row
            self._touched.add(number)
        return row

    def volume(self, given: VolumeRow) -> None:
        row = self._row(given.number)
        if row is None:
            row = VolumeRow(given.number, given.volume_id, given.upto, given.sealed, given.compacted)
            self.volumes[given.number] = row
            self._touched.add(given.number)
        row.upto, row.sealed = max(row.upto, given.upto), row.sealed or given.sealed

    def _count(self, number: int, size: int, chunks: int) -> None:
        row = self._row(number)
        if row is not None:
            row.live += size
            row.chunks += chunks
            self.chunks += chunks

    def _dead(self, file_id: bytes, chunk_index: int, volume: int) -> None:
        row = (file_id, chunk_index, volume)
        self._writer.execute("INSERT OR IGNORE INTO dead VALUES (?, ?, ?, ?)", (*row, row_crc(*row)))

    def _is_erased(self, file_id: bytes) -> bool:
        return self._erasures and (
            self._writer.execute("SELECT 1 FROM erased WHERE file_id = ?", (file_id,)).fetchone() is not None
        )

    def take(self, entry: Entry) -> None:
        if entry.kind in (Kind.DATA, Kind.DROP):
            self._chunk(entry)
        elif entry.kind == Kind.ERASE:
            self._erase(entry)
        elif entry.kind == Kind.NOTE:
            self._note(entry)

    def _chunk(self, entry: Entry) -> None:
        is_data = entry.kind == Kind.DATA
        if self._is_erased(entry.file_id):
            if is_data:
                self._dead(entry.file_id, entry.chunk_index, entry.volume)
            return
        row = (*entry, row_crc(*entry))
        if self._writer.execute(_NEW_CHUNK, row).rowcount == 0:  # mostly there is none yet: one statement
            old = self._writer.execute(_OLD_CHUNK, (entry.file_id, entry.chunk_index)).fetchone()
            if (entry.sequence, entry.volume, entry.offset) <= old[:3]:
                if is_data and (entry.volume, entry.offset) != old[1:3]:
                    self._dead(entry.file_id, entry.chunk_index, entry.volume)
                return
            was_data = old[4] == Kind.DATA
            self._count(old[1], -old[3], -int(was_data))
            if was_data:
                self._dead(entry.file_id, entry.chunk_index, old[1])
            self._writer.execute(_REPLACE_CHUNK, row)
            self._moved(entry, *old)
        elif self.bad:
            self._heal("file_id = ? AND chunk_index = ?", entry.key)
        self._count(entry.volume, entry.size, int(is_data))

    def _moved(
        self, entry: Entry, sequence: int, volume: int, offset: int, size: int, kind: int, verified: int | None
    ) -> None:
        """Another record stands for the chunk of `entry` than the one described. A copy that compaction
        made was verified on its way; a DROP made instead of a copy leaves the chunk bad."""
        if entry.sequence != sequence or entry.kind == Kind.DATA:
            self._heal("file_id = ? AND chunk_index = ?", entry.key)
        if entry.sequence == sequence and entry.kind == kind and verified is not None:
            self._writer.execute(
                "UPDATE chunks SET verified = ? WHERE file_id = ? AND chunk_index = ?", (verified, *entry.key)
            )

    def _heal(self, clause: str, given: tuple[object, ...]) -> None:
        if self.bad:
            self.bad -= self._writer.execute(f"DELETE FROM bad WHERE {clause}", given).rowcount

    def was_verified(self, key: Key, sequence: int, at: int) -> None:
        """The record of the chunk with that sequence was read back and is good."""
        given = (*key, sequence)
        self._writer.execute(
            "UPDATE chunks SET verified = ? WHERE file_id = ? AND chunk_index = ? AND sequence = ?", (at, *given)
        )
        self._heal("file_id = ? AND chunk_index = ? AND sequence = ?", given)

    def is_bad(self, key: Key, sequence: int, at: int, why: str) -> None:
        """The record of the chunk with that sequence, if it still stands, is bad on the disk. With NO_RECORD:
        it was so bad that nothing is left of it; if nothing else stands for the chunk."""
        row = (*key, sequence, at, why)
        given: tuple[object, ...] = (*row, row_crc(*row), *key)
        if sequence == NO_RECORD:
            still = (
                "WHERE NOT EXISTS (SELECT 1 FROM chunks WHERE file_id = ? AND chunk_index = ?) "
                "AND NOT EXISTS (SELECT 1 FROM erased WHERE file_id = ?)"
            )
            given += (key[0],)
        else:
            still = "FROM chunks WHERE file_id = ? AND chunk_index = ? AND sequence = ?"
            given += (sequence,)
        self.bad += self._writer.execute(
            f"INSERT OR IGNORE INTO bad SELECT ?, ?, ?, ?, ?, ? {still}", given
        ).rowcount

    def _erase(self, entry: Entry) -> None:
        file_id = entry.file_id
        old = self._writer.execute(
            "SELECT sequence, volume, offset, size FROM erased WHERE file_id = ?", (file_id,)
        ).fetchone()
        if old is not None:
            if (entry.sequence, entry.volume, entry.offset) <= old[:3]:
                return
            self._count(old[1], -old[3], 0)
        self._erasures = True
        row = (file_id, entry.volume, entry.offset, entry.size, entry.sequence, entry.created)
        self._writer.execute(
            "INSERT OR REPLACE INTO erased VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, row_crc(*row))
        )
        self._count(entry.volume, entry.size, 0)
        for kind, volume, size, count in self._writer.execute(
            "SELECT kind, volume, SUM(size), COUNT(*) FROM chunks WHERE file_id = ? GROUP BY kind, volume",
            (file_id,),
        ).fetchall():
            self._count(volume, -size, -count if kind == Kind.DATA else 0)
        self._writer.execute(
            "INSERT OR IGNORE INTO dead SELECT file_id, chunk_index, volume, row_crc(file_id, chunk_index, volume) FROM chunks WHERE file_id = ? AND kind = ?",
            (file_id, int(Kind.DATA)),
        )
        self._writer.execute("DELETE FROM chunks WHERE file_id = ?", (file_id,))
        self._heal("file_id = ?", (file_id,))
        for volume, size in self._writer.execute(
            "SELECT volume, SUM(size) FROM notes WHERE file_id = ? GROUP BY volume", (file_id,)
        ).fetchall():
            self._count(volume, -size, 0)
            self._dead(file_id, NOTE_INDEX, volume)
        self._writer.execute("DELETE FROM notes WHERE file_id = ?", (file_id,))

    def _note(self, entry: Entry) -> None:
        if self._is_erased(entry.file_id):
            self._dead(entry.file_id, NOTE_INDEX, entry.volume)
            return
        row = (entry.sequence, entry.file_id, entry.checksum, entry.volume, entry.offset, entry.size)
        new = (*row, row_crc(*row))
        if self._writer.execute(_NEW_NOTE, new).rowcount == 0:
            old = self._writer.execute(
                "SELECT sequence, volume, offset, size FROM notes WHERE checksum = ?", (entry.checksum,)
            ).fetchone()
            if (entry.sequence, entry.volume, entry.offset) <= old[:3]:
                if (entry.volume, entry.offset) != old[1:3]:
                    self._dead(entry.file_id, NOTE_INDEX, entry.volume)
                return
            self._dead(entry.file_id, NOTE_INDEX, old[1])
            self._count(old[1], -old[3], 0)
            self._writer.execute("DELETE FROM notes WHERE sequence = ?", (old[0],))
            self._writer.execute("INSERT INTO notes VALUES (?, ?, ?, ?, ?, ?, ?)", new)
        self._count(entry.volume, entry.size, 0)

    def forget(self, entry: Entry) -> None:
        """The DROP, ERASE or NOTE does not count any more."""
        table, clause, more = _FORGOTTEN[Kind(entry.kind)]
        if entry.kind == Kind.DROP:
            more = (entry.chunk_index, *more)
            self._heal("file_id = ? AND chunk_index = ? AND sequence = ?", (*entry.key, entry.sequence))
        cursor = self._writer.execute(
            f"DELETE FROM {table} WHERE file_id = ? {clause}AND volume = ? AND offset = ?",
            (entry.file_id, *more, entry.volume, entry.offset),
        )
        if cursor.rowcount:
            self._count(entry.volume, -entry.size, 0)

    def remove(self, number: int, at: int) -> None:
        """The volume is no more. Chunks for which a record in it still stands have none from now on: they are bad."""
        row = self.volumes.pop(number, None)
        if row is None or row.live or row.chunks:  # else nothing stands in it: no need to look
            found = (NO_RECORD, at, _VANISHED)
            self.bad += self._writer.execute(
                "INSERT OR IGNORE INTO bad SELECT file_id, chunk_index, ?1, ?2, ?3, "
                "row_crc(file_id, chunk_index, ?1, ?2, ?3) FROM chunks WHERE volume = ?4 AND kind = ?5",
                (*found, number, int(Kind.DATA)),
            ).rowcount
            for table in ("chunks", "erased", "notes"):
                self._writer.execute(f"DELETE FROM {table} WHERE volume = ?", (number,))
        self._writer.execute("DELETE FROM dead WHERE volume = ?", (number,))
        self._writer.execute("DELETE FROM volumes WHERE number = ?", (number,))
        self.chunks -= row.chunks if row else 0
        self._touched.discard(number)

    def save(self, sequence: int) -> None:
        for number in self._touched:
            row = self.volumes[number]
            values = (
                number,
                row.volume_id,
                row.upto,
                int(row.sealed),
                int(row.compacted),
                row.live,
                row.chunks,
            )
            self._writer.execute(
                "INSERT OR REPLACE INTO volumes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (*values, row_crc(*values))
            )
        self._writer.execute("UPDATE facts SET value = max(value, ?) WHERE name = 'sequence'", (sequence,))
