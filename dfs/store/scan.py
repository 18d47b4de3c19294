"""Reading a volume file from one record to the next, past damage where there is some.

The bytes of clients cannot pass for records: a record counts only with the volume's random id, its
own offset and a good CRC.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from dfs.store.chunk import PIECE
from dfs.store.disk import DiskFile, read_fully
from dfs.store.record import FIXED_BYTES, MAGIC, MAX_ATTRIBUTES, Record, decode_header, header_length, padded

WINDOW = 256 * 1024
_SECTOR = 4096


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes `offset` to `end` of a volume file that are no record. `unreadable`: the disk could not
    read some of them, so they may be good another time."""

    offset: int
    end: int
    unreadable: bool = False


def read_tolerant(file: DiskFile, size: int, offset: int) -> tuple[bytes, bool]:
    """Up to `size` bytes from `offset` and whether all could be read; what could not comes as zeros."""
    try:
        return read_fully(file, size, offset), True
    except OSError:
        parts = []
        for at in range(offset, offset + size, _SECTOR):
            step = min(_SECTOR, offset + size - at)
            try:
                part = read_fully(file, step, at)
            except OSError:
                part = bytes(step)
            parts.append(part)
            if len(part) < step:
                break
        return b"".join(parts), False


class _Window:
    """A sliding view of a file, so that small records cost one read for many."""

    def __init__(self, file: DiskFile, end: int) -> None:
        self._file = file
        self._end = end
        self._data = b""
        self._start = 0
        self.unreadable = False

    def at(self, offset: int, size: int) -> tuple[bytes, int]:
        """Data and index in it where `offset` lies, with `size` bytes after it unless the end is nearer."""
        size = min(size, self._end - offset)
        index = offset - self._start
        if index < 0 or index + size > len(self._data):
            self._data, good = read_tolerant(self._file, min(max(size, WINDOW), self._end - offset), offset)
            self._start, index = offset, 0
            self.unreadable = self.unreadable or not good
        return self._data, index


def _record_at(window: _Window, offset: int, volume_id: bytes | None) -> Record | None:
    data, index = window.at(offset, FIXED_BYTES)
    size = header_length(data, index)
    if size is None:
        return None
    data, index = window.at(offset, size)
    record = decode_header(data, index)
    if record is None or record.offset != offset or (volume_id is not None and record.volume_id != volume_id):
        return None
    return record


def walk(file: DiskFile, volume_id: bytes | None, start: int, end: int) -> Iterator[Record | Damage]:
    """Every record of the file from `start` to `end`, in order, with the damage between them.

    Bodies are not read. With `volume_id` None the first record found decides it. A record that
    would go past `end` is damage.
    """
    window = _Window(file, end)
    offset = start
    while offset < end:
        record = _record_at(window, offset, volume_id)
        if record is None or record.end > end:
            after = _next_record(window, offset + 8, end, volume_id)
            yield Damage(offset, end if after is None else after.offset, window.unreadable)
            if after is None:
                return
            record = after
        volume_id = record.volume_id
        yield record
        offset = record.end


def _next_record(window: _Window, offset: int, end: int, volume_id: bytes | None) -> Record | None:
    while offset + FIXED_BYTES <= end:
        data, index = window.at(offset, WINDOW)
        found = data.find(MAGIC, index)
        if found < 0:
            offset = padded(offset + max(8, len(data) - index - len(MAGIC) - 8))
            continue
        place = offset + found - index
        if place % 8:
            offset = padded(place)
            continue
        record = _record_at(window, place, volume_id)
        if record is not None and record.end <= end:
            return record
        offset = place + 8
    return None


def read_header(file: DiskFile) -> Record | None:
    """The record at the beginning of a volume file; None when it is not whole."""
    return decode_header(read_tolerant(file, FIXED_BYTES + MAX_ATTRIBUTES + 8, 0)[0])


def body_is_good(file: DiskFile, record: Record) -> bool:
    """Whether every piece of the body is on the disk as its CRC says. Raises OSError."""
    buffer = memoryview(bytearray(min(PIECE, record.length)))
    start = record.offset + record.header_length
    for number, crc in enumerate(record.piece_crcs):
        view = buffer[: min(PIECE, record.length - number * PIECE)]
        count = file.read(view, start + number * PIECE)
        if count != len(view) or zlib.crc32(view) != crc:
            return False
    return True
