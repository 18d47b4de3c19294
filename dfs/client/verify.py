"""Whether what arrives is what was stored, told while it arrives."""

from __future__ import annotations

import hashlib
from typing import Protocol

from dfs.client.failures import VerifyFailed

DIGEST = 32


class Verifier(Protocol):
    """Fed every byte in order; raises VerifyFailed as soon as it knows, at the latest in `finish`."""

    def feed(self, piece: bytes) -> None: ...
    def finish(self) -> None: ...


class WholeVerifier:
    """Against the SHA-256 of the whole file."""

    def __init__(self, sha256: str, what: str) -> None:
        self._expected = sha256
        self._what = what
        self._hash = hashlib.sha256()

    def feed(self, piece: bytes) -> None:
        self._hash.update(piece)

    def finish(self) -> None:
        found = self._hash.hexdigest()
        if found != self._expected:
            raise VerifyFailed(
                f"{self._what}: the content received does not verify "
                f"(SHA-256 {found[:12]}…, expected {self._expected[:12]}…)"
            )


class ChunkVerifier:
    """Against the SHA-256 of every chunk: `digests` are all of them, 32 bytes each, in order."""

    def __init__(self, digests: bytes, chunk_size: int, size: int, what: str) -> None:
        self._digests = digests
        self._chunk_size = chunk_size
        self._what = what
        self._hash = hashlib.sha256()
        self._index = 0
        self._left = min(chunk_size, size)
        self._after = size - self._left

    def feed(self, piece: bytes) -> None:
        view = memoryview(piece)
        while len(view):
            if not self._left:
                raise VerifyFailed(f"{self._what}: more bytes came than the file has")
            part = view[: self._left]
            self._hash.update(part)
            self._left -= len(part)
            view = view[len(part) :]
            if not self._left:
                self._next()

    def finish(self) -> None:
        if self._left or self._index * DIGEST != len(self._digests):
            raise VerifyFailed(f"{self._what}: fewer bytes came than the file has")

    def _next(self) -> None:
        at = self._index * DIGEST
        if self._hash.digest() != self._digests[at : at + DIGEST]:
            raise VerifyFailed(f"{self._what}: chunk {self._index} of the content received does not verify")
        self._index += 1
        self._hash = hashlib.sha256()
        self._left = min(self._chunk_size, self._after)
        self._after -= self._left
