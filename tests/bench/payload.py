"""The bytes that are stored: cheap to make, different for every object, and different everywhere.

Byte i of object k is `pool[(start(k) + i) % len(pool)]`. The pool is random, so that no store gains by
compressing, and its length is no multiple of a power of two, so that no two blocks of a file are equal
and swapped or repeated blocks are noticed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache

_POOL = (4 << 20) + 4093
_STEP = 7919
MOST = 1 << 20
"""Most bytes of one piece."""


@cache
def _pool() -> memoryview:
    return memoryview(random.Random(20).randbytes(_POOL))


def pieces(key: int, begin: int, end: int) -> Iterator[memoryview]:
    """Bytes begin..end (exclusive) of object `key`, in pieces of at most MOST bytes; nothing is copied."""
    while begin < end:
        piece = piece_at(key, begin, end)
        yield piece
        begin += len(piece)


def piece_at(key: int, begin: int, end: int) -> memoryview:
    """The first piece of bytes begin..end of object `key`."""
    place = (key * _STEP + begin) % _POOL
    return _pool()[place : place + min(MOST, end - begin)]


def content(key: int, size: int) -> bytes:
    """Object `key` as a whole."""
    return b"".join(pieces(key, 0, size))
