"""A checksum of every page of the index, so that a start need not doubt what is in it.

SQLite in WAL mode changes the database file in one way: a checkpoint copies committed pages from the
WAL to it. So the checksums are brought up to date, durably, before each checkpoint, and at every
moment each page of the file either has its checksum or is to be overwritten by one from the WAL: after
a kill or a power cut too. A start has SQLite copy what is left in the WAL, is told how much of it that was, and
then each page must be the one expected. What is told by it is that the pages are those SQLite wrote, at the cost of
one pass over the file; whatever else was done to them is found.

    offset  size  field
         0     4  magic, the bytes "dfsI"
         4     4  version of this layout, 2
         8     4  page size of the database
        12     4  number of pages, n
        16    4n  CRC-32 of each page
    16+4n     4  CRC-32 of all bytes before this one

(Files are read here beside SQLite; that this drops the POSIX locks of the process on them does no harm,
as only one process ever uses the index: the directory is locked.)

Numbers are little-endian; SQLite's own, read here, are big-endian (sqlite.org/fileformat2.html, "The
Write-Ahead Log").
"""

from __future__ import annotations

import os
import struct
import sys
import zlib
from array import array
from dataclasses import dataclass, field
from itertools import count

MAGIC = b"dfsI"
VERSION = 2
_HEAD = struct.Struct("<4sIII")
_CRC = struct.Struct("<I")
_WAL_HEAD = struct.Struct(">IIIIIIII")
_FRAME_HEAD = struct.Struct(">IIIIII")
_WAL_MAGIC = (0x377F0682, 0x377F0683)
_STEP = 256
"""Pages read at a time."""


@dataclass(slots=True)
class Committed:
    """What a WAL holds: the checksum of each page's last image up to the last commit, and the size of the
    database then, in pages."""

    page_size: int = 0
    pages: int = 0
    images: dict[int, int] = field(default_factory=dict)


def read_wal(path: str, frames: int | None = None) -> Committed:
    """The committed pages in the WAL at `path`, or in its first so many frames; nothing when there is
    none. SQLite's own checksums of the frames are not compared. Raises OSError."""
    found = Committed()
    if not os.path.exists(path):
        return found
    with open(path, "rb", buffering=1 << 20) as file:
        head = file.read(_WAL_HEAD.size)
        if len(head) < _WAL_HEAD.size:
            return found
        magic, _, page_size, _, *salt = _WAL_HEAD.unpack(head)[:6]
        if magic not in _WAL_MAGIC:
            return found
        found.page_size = page_size
        begun: dict[int, int] = {}
        for _ in count() if frames is None else range(frames):
            frame = file.read(_FRAME_HEAD.size + page_size)
            if len(frame) < _FRAME_HEAD.size + page_size:
                break
            number, pages, *salts = _FRAME_HEAD.unpack_from(frame)[:4]
            if salts != salt:
                break  # left from before the WAL was begun anew
            begun[number] = zlib.crc32(memoryview(frame)[_FRAME_HEAD.size :])
            if pages:
                found.images.update(begun)
                begun.clear()
                found.pages = pages
    return found


@dataclass(slots=True)
class Seal:
    """The checksums of a database's pages, in order."""

    page_size: int
    crcs: array[int]

    @classmethod
    def of(cls, path: str) -> Seal | None:
        """The checksums of the database file as it is; None when it is none. Raises OSError."""
        crcs = array("I")
        with open(path, "rb", buffering=0) as file:
            head = file.read(100)
            page_size = int.from_bytes(head[16:18], "big") if len(head) == 100 else 0
            page_size = 65536 if page_size == 1 else page_size
            if page_size < 512 or os.fstat(file.fileno()).st_size % page_size:
                return None
            file.seek(0)
            buffer = memoryview(bytearray(_STEP * page_size))
            while count := file.readinto(buffer):
                crcs.extend(
                    [zlib.crc32(buffer[at : at + page_size]) for at in range(0, count, page_size)]
                )
        return cls(page_size, crcs)

    @classmethod
    def load(cls, path: str) -> Seal | None:
        """The checksums kept at `path`; None when they are missing or damaged. Raises OSError."""
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return None
        if len(data) < _HEAD.size + _CRC.size or zlib.crc32(data[:-4]) != _CRC.unpack(data[-4:])[0]:
            return None
        magic, version, page_size, count = _HEAD.unpack_from(data)
        if (magic, version) != (MAGIC, VERSION) or len(data) != _HEAD.size + 4 * count + _CRC.size:
            return None
        crcs = array("I")
        crcs.frombytes(data[_HEAD.size : -4])
        if sys.byteorder == "big":
            crcs.byteswap()
        return cls(page_size, crcs)

    def save(self, path: str) -> None:
        """Keep the checksums at `path`, durably, in place of older ones. Raises OSError."""
        crcs = array("I", self.crcs)
        if sys.byteorder == "big":
            crcs.byteswap()
        data = _HEAD.pack(MAGIC, VERSION, self.page_size, len(crcs)) + crcs.tobytes()
        temporary = path + ".tmp"
        with open(temporary, "wb") as file:
            file.write(data + _CRC.pack(zlib.crc32(data)))
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        directory = os.open(os.path.dirname(path), os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def after(self, wal: Committed) -> Seal:
        """The checksums once everything committed in `wal` has been copied."""
        if not wal.images:
            return self
        crcs = array("I", self.crcs[: wal.pages])
        if len(crcs) < wal.pages:  # pages that are never written, such as the lock page, stay zero
            crcs.extend([zlib.crc32(bytes(wal.page_size))] * (wal.pages - len(crcs)))
        for number, crc in wal.images.items():
            if number <= wal.pages:
                crcs[number - 1] = crc
        return Seal(wal.page_size, crcs)
