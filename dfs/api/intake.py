"""Bytes on their way in: each is read and summed up once, piece by piece, while it is in the processor's cache."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from typing import Protocol

from dfs.cluster.calls import PIECE
from dfs.wire.body import Body


class Hash(Protocol):
    """What `hashlib` makes."""

    def update(self, data: memoryview, /) -> None: ...

    def copy(self) -> Hash: ...

    def hexdigest(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Intake:
    """What was read: `sha256` of all of it, and the CRC-32 of every PIECE."""

    length: int
    sha256: Hash
    piece_crcs: tuple[int, ...]


def take_in(body: Body, view: memoryview, whole: Hash | None = None) -> Intake:
    """Read until `view` is full or the body ends. `whole`, if given, goes on over the same bytes."""
    digest: Hash = hashlib.sha256()
    crcs: list[int] = []
    filled = 0
    for start in range(0, len(view), PIECE):
        piece = view[start : start + PIECE]
        count = body.readfully(piece)
        if count:
            read = piece[:count]
            digest.update(read)
            if whole is not None:
                whole.update(read)
            crcs.append(zlib.crc32(read))
            filled += count
        if count < len(piece):
            break
    return Intake(filled, digest, tuple(crcs))
