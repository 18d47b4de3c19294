"""Many small chunks in one body: what `POST /store-chunks` carries from an API server to a node.

Little-endian, nothing between the parts and nothing after the last:

    u32        n, 1 to BATCH_ITEMS
    n times    88 bytes:
        offset  size  field
             0    16  file_id
            16     8  chunk_index, unsigned
            24     8  length of the body, at most BATCH_CHUNK
            32     8  chunk_size of the file, 1 to 2^53
            40     8  file_size, signed; -1: not known
            48    32  SHA-256 of the body
            80     4  CRC-32 of the body
            84     1  1 primary, 2 secondary
            85     3  zero
    n times    the body
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple

from dfs.errors import BadRequest

BATCH_ITEMS = 256
BATCH_CHUNK = 256 * 1024
"""Most bytes of one chunk in a batch: one piece of the piece CRCs."""

BATCH_BYTES = 4 * 1024 * 1024
"""Most bytes of a whole batch, its headers included."""

_COUNT = struct.Struct("<I")
_HEADER = struct.Struct("<16sQQQq32sIB3s")
ITEM_OVERHEAD = _HEADER.size
"""Bytes of a batch for each chunk beside its body."""

BATCH_OVERHEAD = _COUNT.size
assert ITEM_OVERHEAD == 88

_ROLES = {"primary": 1, "secondary": 2}
_ROLE_NAMES = ("", "primary", "secondary")
_INDEX_LIMIT = 1 << 31
_SIZE_LIMIT = 1 << 53
_ZEROS = bytes(3)


class NewChunk(NamedTuple):
    """A chunk to be stored, with what its sender says of it.

    `checksum` is the SHA-256 in lower-case hex, `crc32` guards the bytes on their way; `file_size`
    is None where it is not known."""

    file_id: str
    chunk_index: int
    data: bytes | memoryview
    checksum: str
    crc32: int
    chunk_size: int
    file_size: int | None
    replica_type: str = "primary"


def encode_batch(chunks: Sequence[NewChunk]) -> bytes:
    """The body of a call. Raises ValueError for what no batch may hold (see the module)."""
    if not 1 <= len(chunks) <= BATCH_ITEMS:
        raise ValueError(f"a batch has 1 to {BATCH_ITEMS} chunks, not {len(chunks)}")
    parts: list[bytes | memoryview] = [_COUNT.pack(len(chunks))]
    size = BATCH_OVERHEAD + ITEM_OVERHEAD * len(chunks)
    for chunk in chunks:
        length = len(chunk.data)
        if length > BATCH_CHUNK:
            raise ValueError(f"a chunk in a batch has at most {BATCH_CHUNK} bytes, not {length}")
        size += length
        try:
            parts.append(
                _HEADER.pack(
                    bytes.fromhex(chunk.file_id.replace("-", "")),
                    chunk.chunk_index,
                    length,
                    chunk.chunk_size,
                    -1 if chunk.file_size is None else chunk.file_size,
                    bytes.fromhex(chunk.checksum),
                    chunk.crc32,
                    _ROLES[chunk.replica_type],
                    _ZEROS,
                )
            )
        except (struct.error, KeyError) as error:
            raise ValueError(f"a chunk that no batch can hold: {error}") from error
    if size > BATCH_BYTES:
        raise ValueError(f"a batch has at most {BATCH_BYTES} bytes, this one has {size}")
    parts += [chunk.data for chunk in chunks]
    return b"".join(parts)


def decode_batch(body: bytes | bytearray | memoryview) -> list[NewChunk]:
    """The chunks in a body; their `data` are views of it. The bytes are not compared with their checksums.

    Raises BadRequest saying what is malformed."""
    view = memoryview(body)
    if len(view) < BATCH_OVERHEAD:
        raise BadRequest("a batch begins with the number of its chunks")
    if len(view) > BATCH_BYTES:
        raise BadRequest(f"a batch has at most {BATCH_BYTES} bytes, this one has {len(view)}")
    count = _COUNT.unpack_from(view)[0]
    at = BATCH_OVERHEAD + ITEM_OVERHEAD * count
    if not 1 <= count <= BATCH_ITEMS:
        raise BadRequest(f"a batch has 1 to {BATCH_ITEMS} chunks, this one says {count}")
    if at > len(view):
        raise BadRequest(f"a batch of {count} chunks has {at} bytes of headers, this one has {len(view)} in all")
    chunks: list[NewChunk] = []
    for name, index, length, chunk_size, file_size, sha256, crc32, role, zeros in _HEADER.iter_unpack(
        view[BATCH_OVERHEAD:at]
    ):
        end = at + length
        if length > BATCH_CHUNK or end > len(view):
            raise BadRequest(f"chunk {len(chunks)} of a batch cannot have {length} bytes")
        if name[6] & 0xF0 != 0x40 or name[8] & 0xC0 != 0x80:
            raise BadRequest(f"chunk {len(chunks)} of a batch: file_id must be a version 4 UUID")
        if not 1 <= role <= 2 or zeros != _ZEROS or index >= _INDEX_LIMIT:
            raise BadRequest(f"chunk {len(chunks)} of a batch has a malformed header")
        if not max(1, length) <= chunk_size <= _SIZE_LIMIT or (
            file_size != -1 and not length <= file_size <= _SIZE_LIMIT
        ):
            raise BadRequest(f"chunk {len(chunks)} of a batch has sizes that cannot be")
        digits = name.hex()
        chunks.append(
            NewChunk(
                f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}",
                index,
                view[at:end],
                sha256.hex(),
                crc32,
                chunk_size,
                None if file_size == -1 else file_size,
                _ROLE_NAMES[role],
            )
        )
        at = end
    if at != len(view):
        raise BadRequest(f"{len(view) - at} bytes follow the last chunk of a batch")
    return chunks
