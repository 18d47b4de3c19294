"""One record of a volume file, byte by byte.

A record begins at a multiple of 8. Numbers are little-endian and unsigned.

    offset  size  field
         0     4  magic, the bytes "dfsR"
         4     1  version of this layout, 1
         5     1  kind: 1 VOLUME, 2 DATA, 3 DROP, 4 ERASE, 5 NOTE, 6 MARK
         6     2  zero
         8     4  header length in bytes, a multiple of 8
        12     4  length of the attributes, at most 4,096
        16    16  volume id: random, the incarnation of the volume file
        32     8  offset of this record in its volume file
        40     8  sequence, unique on this node except for copies made by compaction
        48     8  durable_upto: length of this volume file known fdatasynced when this was written
        56     8  created, milliseconds since the epoch
        64    16  file_id as 16 bytes; zero where the kind has none
        80     8  chunk_index; zero where the kind has none
        88     8  length of the body
        96    32  SHA-256 of the body
       128     a  attributes, a JSON object in UTF-8 (may be empty: {}), perhaps with blanks behind it
     128+a    4p  CRC-32 of each piece of 256 KiB of the body, p = ceil(length / 256 KiB)
                  zero bytes up to 4 before a multiple of 8
    header-4   4  CRC-32 of all header bytes before this one
    header     n  the body, then zero bytes up to a multiple of 8
"""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from typing import Any

from dfs.store.chunk import PIECE
from dfs.store.disk import Bytes

MAGIC = b"dfsR"
VERSION = 1
MAX_ATTRIBUTES = 4096
MAX_BODY = 1 << 30
NO_FILE = bytes(16)

_FIXED = struct.Struct("<4sBBHII16sQQQQ16sQQ32s")
assert _FIXED.size == 128
_CRC = struct.Struct("<I")
FIXED_BYTES = _FIXED.size
MAX_HEADER = FIXED_BYTES + MAX_ATTRIBUTES + 4 * (MAX_BODY // PIECE) + 8


class Kind(IntEnum):
    """What a record says."""

    VOLUME = 1
    """First record of every volume file: whose it is."""
    DATA = 2
    """A chunk."""
    DROP = 3
    """This replica of the chunk leaves; it may return."""
    ERASE = 4
    """The file is gone for ever."""
    NOTE = 5
    """What metadata said of a file, for a rebuild."""
    MARK = 6
    """Nothing but its durable_upto."""


INDEXED = frozenset((Kind.DATA, Kind.DROP, Kind.ERASE, Kind.NOTE))
"""Kinds that the index knows."""


def padded(size: int) -> int:
    """`size` up to the next multiple of 8."""
    return (size + 7) & ~7


def piece_crcs(body: Bytes) -> tuple[int, ...]:
    """CRC-32 of each piece of `body`."""
    if 0 < len(body) <= PIECE:
        return (zlib.crc32(body),)
    with memoryview(body) as view:
        return tuple(zlib.crc32(view[at : at + PIECE]) for at in range(0, len(view), PIECE))


def header_size(attributes: int, pieces: int) -> int:
    """Length of a header with so many bytes of attributes and so many pieces."""
    return padded(FIXED_BYTES + attributes + 4 * pieces + 4)


@dataclass(frozen=True)
class Record:
    """A decoded header. Its place and its kind are believed; its body is not yet read."""

    kind: Kind
    volume_id: bytes
    offset: int
    sequence: int
    durable_upto: int
    created: int
    file_id: bytes
    chunk_index: int
    length: int
    sha256: bytes
    raw_attributes: bytes
    piece_crcs: tuple[int, ...]
    header_length: int

    @property
    def size(self) -> int:
        """Bytes from this record's offset to the next one's."""
        return self.header_length + padded(self.length)

    @property
    def end(self) -> int:
        """Where the next record begins."""
        return self.offset + self.size

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """The attributes; empty when they are not a JSON object."""
        try:
            found = json.loads(self.raw_attributes)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}


def encode_header(
    kind: int,
    *,
    volume_id: bytes,
    offset: int,
    sequence: int,
    durable_upto: int,
    created: int,
    file_id: bytes,
    chunk_index: int,
    length: int,
    sha256: bytes,
    attributes: bytes,
    crcs: tuple[int, ...],
) -> bytes:
    """The header of a record. Raises ValueError when the attributes are too long."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise ValueError(f"attributes have at most {MAX_ATTRIBUTES} bytes, these have {len(attributes)}")
    size = header_size(len(attributes), len(crcs))
    fixed = _FIXED.pack(
        MAGIC, VERSION, kind, 0, size, len(attributes), volume_id, offset, sequence, durable_upto,
        created, file_id, chunk_index, length, sha256,
    )  # fmt: skip
    tail = _CRC.pack(crcs[0]) if len(crcs) == 1 else struct.pack(f"<{len(crcs)}I", *crcs)
    head = b"".join((fixed, attributes, tail)).ljust(size - 4, b"\0")
    return head + _CRC.pack(zlib.crc32(head))


def header_length(data: Bytes, at: int = 0) -> int | None:
    """How many bytes the header at `at` claims to have; None when no header can begin there.

    Needs the FIXED_BYTES from `at`; nothing but magic, version and plausibility is checked.
    """
    if len(data) - at < FIXED_BYTES or bytes(data[at : at + 4]) != MAGIC:
        return None
    fields = _FIXED.unpack_from(data, at)
    version, kind, size, attributes, length = fields[1], fields[2], fields[4], fields[5], fields[13]
    if version != VERSION or not 1 <= kind <= 6 or attributes > MAX_ATTRIBUTES or length > MAX_BODY:
        return None
    return size if size == header_size(attributes, -(-length // PIECE)) else None


def decode_header(data: Bytes, at: int = 0) -> Record | None:
    """The record whose header begins at `data[at]`; None when it is damaged, or not all of it is there."""
    size = header_length(data, at)
    if size is None or len(data) - at < size:
        return None
    with memoryview(data) as view:
        crc = zlib.crc32(view[at : at + size - 4])
    if crc != _CRC.unpack_from(data, at + size - 4)[0]:
        return None
    (
        _, _, kind, zero, _, attributes, volume_id, offset, sequence, durable_upto,
        created, file_id, chunk_index, length, sha256,
    ) = _FIXED.unpack_from(data, at)  # fmt: skip
    if zero:
        return None
    pieces = -(-length // PIECE)
    start = at + FIXED_BYTES
    return Record(
        kind=Kind(kind),
        volume_id=volume_id,
        offset=offset,
        sequence=sequence,
        durable_upto=durable_upto,
        created=created,
        file_id=file_id,
        chunk_index=chunk_index,
        length=length,
        sha256=sha256,
        raw_attributes=bytes(data[start : start + attributes]),
        piece_crcs=struct.unpack_from(f"<{pieces}I", data, start + attributes),
        header_length=size,
    )
