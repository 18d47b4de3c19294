"""dfs.chunkbatch: what goes in comes out, and what is malformed is refused as a whole."""

from __future__ import annotations

import hashlib
import random
import struct
import zlib

import pytest

from dfs.chunkbatch import (
    BATCH_BYTES,
    BATCH_CHUNK,
    BATCH_ITEMS,
    ITEM_OVERHEAD,
    NewChunk,
    decode_batch,
    encode_batch,
)
from dfs.errors import BadRequest
from tests.support.sweep import SEED, scaled, seeded

FILE = "bd08c6c6-3b5d-4f28-a32a-2bab04d1aba5"
OTHER = "00000000-0000-4000-8000-00000000000f"


def new(data: bytes = b"data", index: int = 0, file_id: str = FILE, **more: object) -> NewChunk:
    made = NewChunk(
        file_id, index, data, hashlib.sha256(data).hexdigest(), zlib.crc32(data), max(1, len(data)), None
    )
    return made._replace(**more)  # type: ignore[arg-type]


def same(found: list[NewChunk], sent: list[NewChunk]) -> bool:
    return [chunk._replace(data=bytes(chunk.data)) for chunk in found] == sent


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_a_batch_comes_out_as_it_went_in(kind: type) -> None:
    sent = [
        new(),
        new(b"", 1),
        new(b"x" * BATCH_CHUNK, 2**31 - 1, OTHER, file_size=2**53, chunk_size=2**53),
        new(b"s", 3, replica_type="secondary", file_size=1),
    ]
    assert same(decode_batch(kind(encode_batch(sent))), sent)


def test_the_most_that_fits() -> None:
    many = [new(b"%d" % number, number) for number in range(BATCH_ITEMS)]
    assert same(decode_batch(encode_batch(many)), many)
    room = BATCH_BYTES - 4 - 16 * ITEM_OVERHEAD - 15 * BATCH_CHUNK
    large = [new(b"x" * BATCH_CHUNK, number) for number in range(15)] + [new(b"y" * room, 15)]
    body = encode_batch(large)
    assert len(body) == BATCH_BYTES
    assert same(decode_batch(body), large)
    with pytest.raises(ValueError, match="at most"):
        encode_batch([*large[:-1], new(b"y" * (room + 1), 15)])


@pytest.mark.parametrize(
    "chunks",
    [
        [],
        [new()] * (BATCH_ITEMS + 1),
        [new(b"x" * (BATCH_CHUNK + 1))],
        [new(replica_type="third")],
        [new(crc32=1 << 32)],
        [new(chunk_index=-1)],
        [new(checksum="zz" * 32)],
    ],
)
def test_what_no_batch_holds_is_not_encoded(chunks: list[NewChunk]) -> None:
    with pytest.raises(ValueError):
        encode_batch(chunks)


@pytest.mark.parametrize(
    ("offset", "layout", "value"),
    [
        (0, "<I", 0),
        (0, "<I", 2),
        (0, "<I", BATCH_ITEMS + 1),
        (0, "<I", 0xFFFFFFFF),
        (4 + 6, "B", 0x1F),
        (4 + 8, "B", 0xC0),
        (4 + 16, "<Q", 1 << 31),
        (4 + 16, "<Q", (1 << 64) - 1),
        (4 + 24, "<Q", 3),
        (4 + 24, "<Q", 5),
        (4 + 24, "<Q", BATCH_CHUNK + 1),
        (4 + 24, "<Q", (1 << 64) - 1),
        (4 + 32, "<Q", 0),
        (4 + 32, "<Q", 3),
        (4 + 32, "<Q", (1 << 53) + 1),
        (4 + 40, "<q", -2),
        (4 + 40, "<q", 3),
        (4 + 40, "<q", (1 << 53) + 1),
        (4 + 84, "B", 0),
        (4 + 84, "B", 3),
        (4 + 85, "B", 1),
        (4 + 87, "B", 1),
    ],
)
def test_a_malformed_field_is_refused(offset: int, layout: str, value: int) -> None:
    body = bytearray(encode_batch([new()]))
    decode_batch(body)
    struct.pack_into(layout, body, offset, value)
    with pytest.raises(BadRequest):
        decode_batch(body)


def test_what_is_too_long_or_too_short_is_refused() -> None:
    body = encode_batch([new(), new(b"more", 1)])
    for length in range(len(body)):
        with pytest.raises(BadRequest):
            decode_batch(body[:length])
    with pytest.raises(BadRequest, match="1 bytes follow"):
        decode_batch(body + b"x")
    with pytest.raises(BadRequest, match="at most"):
        decode_batch(bytes(BATCH_BYTES + 1))


@pytest.mark.parametrize("part", range(2))
def test_no_mutation_does_more_than_be_refused(part: int) -> None:
    """Whatever comes out of a mutated batch keeps every rule; nothing but BadRequest is raised."""
    for number in range(scaled(2_000, 200_000)):
        rng = seeded("chunkbatch", part, number)
        body = bytearray(encode_batch([new(rng.randbytes(rng.randrange(9)), n) for n in range(rng.randint(1, 4))]))
        _mutate(body, rng)
        try:
            chunks = decode_batch(body)
        except BadRequest:
            continue
        where = f"SEED={SEED}, part {part}, number {number}"
        assert sum(len(chunk.data) for chunk in chunks) + 4 + len(chunks) * ITEM_OVERHEAD == len(body), where
        assert encode_batch(chunks) == body, where


def _mutate(body: bytearray, rng: random.Random) -> None:
    for _ in range(rng.randint(1, 3)):
        at = rng.randrange(len(body))
        how = rng.randrange(4)
        if how == 0:
            body[at] ^= 1 << rng.randrange(8)
        elif how == 1:
            body[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
        elif how == 2:
            del body[at : at + rng.randint(1, len(body) - at)]
            body.extend(bytes(max(0, 1 - len(body))))
        else:
            body[at:at] = rng.randbytes(rng.randint(1, 100))
