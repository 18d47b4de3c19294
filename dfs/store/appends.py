"""From what a caller says to the record that will be written: checked, measured, described."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from dfs.chunkbatch import NewChunk
from dfs.errors import BadIndex, BadRequest, ChecksumMismatch
from dfs.model import is_file_id, parse_file_id, parse_sha256
from dfs.store.appender import Append
from dfs.store.chunk import PIECE
from dfs.store.entry import Key
from dfs.store.record import MAX_ATTRIBUTES, MAX_BODY, NO_FILE, Kind, piece_crcs

_MAX_NOTE = 64 * 1024
_NOTE = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
_MAX_INDEX = 1 << 62


def chunk_key(file_id: str, chunk_index: int) -> Key:
    """The chunk that is meant. Raises BadRequest and BadIndex."""
    if not 0 <= chunk_index < _MAX_INDEX:
        raise BadIndex(f"chunk_index must be from 0 to {_MAX_INDEX - 1}, not {chunk_index}")
    return bytes.fromhex(parse_file_id(file_id).replace("-", "")), chunk_index


def chunk_append(
    key: Key,
    data: bytes | bytearray | memoryview,
    checksum: str | None,
    chunk_size: int,
    file_size: int | None,
    attributes: Mapping[str, str] | None,
    created: int,
    crcs: tuple[int, ...] | None = None,
) -> Append:
    """The DATA record of a chunk. With `crcs`, which the caller has compared with these very bytes,
    `checksum` is believed; otherwise they are hashed, and their piece CRCs are left for later: a
    repeat does not need them.

    Raises ChecksumMismatch and BadRequest."""
    body = memoryview(data).cast("B") if len(data) else b""
    if len(body) > MAX_BODY:
        raise BadRequest(f"a chunk has at most {MAX_BODY} bytes")
    if crcs is not None and checksum is not None:
        if len(crcs) != -(-len(body) // PIECE):
            raise BadRequest(f"{len(body)} bytes do not have {len(crcs)} pieces")
        digest = bytes.fromhex(parse_sha256(checksum, "checksum"))
    else:
        digest = hashlib.sha256(body).digest()
        if checksum is not None and checksum.lower() != digest.hex():
            raise ChecksumMismatch(f"the bytes have SHA-256 {digest.hex()}, not {checksum}")
    described = _describe(chunk_size, file_size, attributes)
    return Append(Kind.DATA, *key, body, digest, crcs, described, created, chunk_size, file_size)


def batch_append(chunk: NewChunk, created: int) -> Append:
    """The DATA record of a chunk of a batch, its bytes compared with their CRC; its SHA-256 is believed.

    Raises ChecksumMismatch, BadRequest and BadIndex."""
    body = chunk.data
    if zlib.crc32(body) != chunk.crc32:
        raise ChecksumMismatch("the bytes do not have the CRC-32 that was declared")
    if len(body) > PIECE:
        raise BadRequest(f"a chunk in a batch has at most {PIECE} bytes")
    return Append(
        Kind.DATA,
        *chunk_key(chunk.file_id, chunk.chunk_index),
        body,
        bytes.fromhex(parse_sha256(chunk.checksum, "checksum")),
        (chunk.crc32,) if len(body) else (),
        _describe(chunk.chunk_size, chunk.file_size, None),
        created,
        chunk.chunk_size,
        chunk.file_size,
    )


def _describe(chunk_size: int, file_size: int | None, attributes: Mapping[str, str] | None) -> bytes:
    if attributes is None:  # written out: it is done for every chunk
        if file_size is None:
            return b'{"chunk_size":%d}' % chunk_size
        return b'{"chunk_size":%d,"file_size":%d}' % (chunk_size, file_size)
    known: dict[str, Any] = {"chunk_size": chunk_size}
    if file_size is not None:
        known["file_size"] = file_size
    described = json.dumps(dict(attributes) | known, separators=(",", ":")).encode()
    if len(described) > MAX_ATTRIBUTES:
        raise BadRequest(f"the attributes of a chunk have at most {MAX_ATTRIBUTES} bytes")
    return described


def note_append(note: Mapping[str, Any], created: int) -> Append:
    """The NOTE record of a note. Raises BadRequest for one that is no JSON or too long."""
    try:
        body = _NOTE.encode(dict(note)).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadRequest(f"a note must be a JSON object: {error}") from error
    if len(body) > _MAX_NOTE:
        raise BadRequest(f"a note has at most {_MAX_NOTE} bytes, this one has {len(body)}")
    file_id = note.get("file_id")
    name = bytes.fromhex(file_id.replace("-", "")) if isinstance(file_id, str) and is_file_id(file_id) else NO_FILE
    digest = hashlib.sha256(body).digest()
    return Append(Kind.NOTE, name, 0, body, digest, piece_crcs(body), b"{}", created)
