"""Which bytes of a file are there, and in what portions the rest is fetched. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

MIB = 1 << 20

FIRST = 16 * MIB
"""What the first request of a download asks for: a smaller file comes with it, whole."""

_LEAST, _MOST = 4 * MIB, 32 * MIB
_PORTIONS = 8
"""Portions for each connection, so that all end at about the same time."""

Span = tuple[int, int]
"""Bytes of a file, from the first to before the second number."""


class Spans:
    """A set of bytes, as spans that neither touch nor overlap, ascending."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._spans: list[Span] = []
        for start, end in spans:
            self.add(start, end)

    def __iter__(self) -> Iterator[Span]:
        return iter(self._spans)

    def add(self, start: int, end: int) -> None:
        """Put bytes in; they may be in already."""
        if start >= end:
            return
        kept: list[Span] = []
        for span in self._spans:
            if span[1] < start or span[0] > end:
                kept.append(span)
            else:
                start, end = min(start, span[0]), max(end, span[1])
        kept.append((start, end))
        kept.sort()
        self._spans = kept

    def prefix(self) -> int:
        """How many bytes from the start of the file are in."""
        return self._spans[0][1] if self._spans and self._spans[0][0] == 0 else 0

    def end(self) -> int:
        """Where the last byte ends."""
        return self._spans[-1][1] if self._spans else 0

    def total(self) -> int:
        """How many bytes are in."""
        return sum(end - start for start, end in self._spans)

    def cut(self, size: int) -> Spans:
        """Those below `size`."""
        return Spans((start, min(end, size)) for start, end in self._spans)

    def gaps(self, size: int) -> list[Span]:
        """What is missing of a file of `size` bytes."""
        found: list[Span] = []
        at = 0
        for start, end in [*self._spans, (size, size)]:
            if at < min(start, size):
                found.append((at, min(start, size)))
            at = max(at, end)
        return found


def portions(gaps: Iterable[Span], size: int, jobs: int) -> Iterator[Span]:
    """`gaps` in pieces fit for one request each, in order."""
    length = min(_MOST, max(_LEAST, size // (_PORTIONS * jobs)))
    length -= length % MIB
    for start, end in gaps:
        while start < end:
            yield start, min(end, start + length)
            start += length
