"""What a verified read returns: bytes in order, or all of them at once when they are few."""

from __future__ import annotations

from collections.abc import Generator, Iterator


class PieceStream(Iterator[memoryview]):
    """Verified bytes in order. Each view is valid until the next is asked for. Close it when done.

    The first piece has been read and verified when the stream is returned, so that what is wrong
    before the first byte is raised where the stream is made.

    `length` is the number of bytes to come; `checksum` that of the whole chunk, for a single chunk.
    `whole` has all the bytes when they are in memory already: nothing need be iterated or closed then.
    """

    __slots__ = ("_first", "_pieces", "checksum", "length", "whole")

    def __init__(
        self, pieces: Generator[memoryview, None, None], length: int, checksum: str | None = None
    ) -> None:
        self.length = length
        self.checksum = checksum
        self.whole: bytes | None = None
        self._pieces: Generator[memoryview, None, None] | None = pieces
        self._first = next(pieces, None)

    @classmethod
    def of(cls, data: bytes, checksum: str | None = None) -> PieceStream:
        """A stream of bytes that were verified."""
        made = cls.__new__(cls)
        made.length = len(data)
        made.checksum = checksum
        made.whole = data
        made._pieces = None
        made._first = memoryview(data) if data else None
        return made

    def __iter__(self) -> Iterator[memoryview]:
        return self

    def __next__(self) -> memoryview:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        if self._pieces is None:
            raise StopIteration
        return next(self._pieces)

    def close(self) -> None:
        """Let go of the connection; harmless to repeat."""
        self._first = None
        if self._pieces is not None:
            self._pieces.close()
