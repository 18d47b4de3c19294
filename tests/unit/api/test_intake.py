"""Taking bytes in: sums of all of it and of every piece, however the bytes arrive."""

from __future__ import annotations

import hashlib
import random
import zlib
from typing import Any

import pytest

from dfs.api.intake import take_in
from dfs.cluster.calls import PIECE


class Body:
    """Bytes that end where `data` does."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    def readfully(self, view: memoryview) -> int:
        count = min(len(view), len(self._data))
        view[:count] = self._data[:count]
        self._data = self._data[count:]
        return count


@pytest.mark.parametrize("length", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 5])
@pytest.mark.parametrize("room", [0, 7])
def test_sums_of_all_and_of_every_piece(length: int, room: int) -> None:
    data = random.Random(length).randbytes(length)
    view = memoryview(bytearray(length + room))
    body: Any = Body(data)
    whole = hashlib.sha256(b"before")
    taken = take_in(body, view, whole)
    assert taken.length == length and view[:length] == data
    assert taken.sha256.hexdigest() == hashlib.sha256(data).hexdigest()
    assert taken.piece_crcs == tuple(zlib.crc32(data[at : at + PIECE]) for at in range(0, length, PIECE))
    assert whole.hexdigest() == hashlib.sha256(b"before" + data).hexdigest()


def test_no_more_is_read_than_there_is_room_for() -> None:
    body: Any = Body(b"0123456789")
    view = memoryview(bytearray(6))
    taken = take_in(body, view)
    assert (taken.length, bytes(view)) == (6, b"012345")
    assert taken.sha256.hexdigest() == hashlib.sha256(b"012345").hexdigest()
