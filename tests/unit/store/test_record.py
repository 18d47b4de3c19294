"""The layout of a record, field by field, and that no spoilt header is believed."""

from __future__ import annotations

import hashlib
import struct
import uuid
import zlib

import pytest

from dfs.store.chunk import PIECE
from dfs.store.record import (
    FIXED_BYTES,
    MAX_ATTRIBUTES,
    Kind,
    decode_header,
    encode_header,
    header_length,
    header_size,
    padded,
    piece_crcs,
)

FILE = uuid.UUID("11111111-2222-4333-8444-555555555555").bytes
VOLUME = bytes(range(16))


def header(body: bytes = b"body", attributes: bytes = b'{"chunk_size":9}', **changes: object) -> bytes:
    fields: dict[str, object] = {
        "volume_id": VOLUME,
        "offset": 4096,
        "sequence": 77,
        "durable_upto": 4000,
        "created": 1_700_000_000_123,
        "file_id": FILE,
        "chunk_index": 5,
        "length": len(body),
        "sha256": hashlib.sha256(body).digest(),
        "attributes": attributes,
        "crcs": piece_crcs(body),
    }
    return encode_header(Kind.DATA, **(fields | changes))  # type: ignore[arg-type]


def test_the_offsets_are_those_of_the_table() -> None:
    data = header()
    assert data[0:4] == b"dfsR"
    assert (data[4], data[5], data[6:8]) == (1, 2, b"\0\0")
    assert struct.unpack_from("<II", data, 8) == (len(data), 16)
    assert data[16:32] == VOLUME
    assert struct.unpack_from("<QQQQ", data, 32) == (4096, 77, 4000, 1_700_000_000_123)
    assert data[64:80] == FILE
    assert struct.unpack_from("<QQ", data, 80) == (5, 4)
    assert data[96:128] == hashlib.sha256(b"body").digest()
    assert data[128:144] == b'{"chunk_size":9}'
    assert struct.unpack_from("<I", data, 144) == (zlib.crc32(b"body"),)
    assert struct.unpack_from("<I", data, len(data) - 4) == (zlib.crc32(data[:-4]),)
    assert len(data) % 8 == 0
    assert FIXED_BYTES == 128


@pytest.mark.parametrize("size", [0, 1, 7, 8, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE])
def test_what_was_encoded_is_decoded(size: int) -> None:
    body = bytes(i % 251 for i in range(size))
    data = header(body)
    record = decode_header(data)
    assert record is not None
    assert record.kind is Kind.DATA
    assert record.piece_crcs == tuple(zlib.crc32(body[at : at + PIECE]) for at in range(0, size, PIECE))
    assert (record.length, record.sha256) == (size, hashlib.sha256(body).digest())
    assert record.attributes == {"chunk_size": 9}
    assert record.header_length == len(data)
    assert record.size == len(data) + padded(size)
    assert record.end == 4096 + record.size


def test_any_spoilt_bit_of_a_header_is_noticed() -> None:
    data = header(attributes=b"{}")
    for bit in range(len(data) * 8):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        assert decode_header(bytes(spoilt)) is None, bit


def test_a_header_that_is_not_all_there_is_none() -> None:
    data = header()
    assert all(decode_header(data[:size]) is None for size in range(len(data)))
    assert decode_header(b"prefix!!" + data, 8) is not None


def test_bytes_that_must_be_zero_are_checked_even_with_a_good_crc() -> None:
    data = bytearray(header())
    data[6] = 1
    data[-4:] = struct.pack("<I", zlib.crc32(data[:-4]))
    assert decode_header(bytes(data)) is None


@pytest.mark.parametrize(("offset", "value"), [(4, 2), (5, 0), (5, 7), (12, 5000), (88, 1 << 31)])
def test_impossible_fields_are_no_header(offset: int, value: int) -> None:
    data = bytearray(header())
    size = 4 if offset == 12 else 8 if offset == 88 else 1
    data[offset : offset + size] = value.to_bytes(size, "little")
    assert header_length(bytes(data)) is None


def test_attributes_have_a_limit_and_may_be_no_object() -> None:
    assert decode_header(header(attributes=b"x" * MAX_ATTRIBUTES)) is not None
    with pytest.raises(ValueError, match="4096"):
        header(attributes=b"x" * (MAX_ATTRIBUTES + 1))
    for text in (b"x", b"[1]", b"\xff"):
        record = decode_header(header(attributes=text))
        assert record is not None
        assert record.attributes == {}


def test_sizes() -> None:
    assert [padded(n) for n in (0, 1, 8, 9)] == [0, 8, 8, 16]
    assert header_size(2, 0) == 136
    assert header_size(0, 1) == 136
    assert header_size(2, 1) == 144
