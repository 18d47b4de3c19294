"""The inside of one index transaction: which record stands when several tell of one key."""

from __future__ import annotations

import sqlite3
import zlib
from dataclasses import dataclass

from dfs.store.entry import Entry
from dfs.store.record import Kind


def row_crc(*values: object) -> int:
    """The checksum kept in every row: SQLite notices damaged pages, not damaged values."""
    return zlib.crc32(repr(values).encode())


COLUMNS = "kind, file_id, chunk_index, volume, offset, size, sequence, created, length, checksum, chunk_size, file_size"
_ROW = f"INTO chunks ({COLUMNS}, crc) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_NEW_CHUNK = f"INSERT OR IGNORE {_ROW}"
_REPLACE_CHUNK = f"INSERT OR REPLACE {_ROW}"
_OLD_CHUNK = "SELECT sequence, volume, offset, size, kind FROM chunks WHERE file_id = ? AND chunk_index = ?"
_NEW_NOTE = "INSERT OR IGNORE INTO notes VALUES (?, ?, ?, ?, ?, ?, ?)"
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

    def __init__(self, writer: sqlite3.Connection, volumes: dict[int, VolumeRow]) -> None:
        self._writer = writer
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
        self._count(entry.volume, entry.size, int(is_data))

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
        table, clause = (
            ("erased", "") if entry.kind == Kind.ERASE else ("chunks", "AND chunk_index = ? AND kind = ? ")
        )
        more = () if entry.kind == Kind.ERASE else (entry.chunk_index, int(Kind.DROP))
        cursor = self._writer.execute(
            f"DELETE FROM {table} WHERE file_id = ? {clause}AND volume = ? AND offset = ?",
            (entry.file_id, *more, entry.volume, entry.offset),
        )
        if cursor.rowcount:
            self._count(entry.volume, -entry.size, 0)

    def remove(self, number: int) -> None:
        row = self.volumes.pop(number, None)
        if row is None or row.live or row.chunks:  # else nothing stands in it: no need to look
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
