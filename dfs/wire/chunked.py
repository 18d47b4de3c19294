"""The chunked transfer coding, decoded strictly.

Extensions are allowed, bounded and ignored; trailer fields are checked, bounded and discarded.
"""

from __future__ import annotations

import re

from dfs.errors import HeadersTooLarge
from dfs.wire.head import HeadLimits, parse_fields
from dfs.wire.link import FramingError, Link, PeerGone

SIZE_LINE_BYTES = 256
EXTENSION_BYTES = 16 * 1024
"""All extensions of one body together: they cost us time and carry nothing."""
TRAILER_BYTES = 8 * 1024

_SIZE_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?")


class ChunkedReader:
    """Reads one chunked body from `link`. `ended` is set once its last CRLF was consumed."""

    __slots__ = ("_extensions", "_left", "_link", "_started", "ended")

    def __init__(self, link: Link) -> None:
        self._link = link
        self._left = 0
        self._started = False
        self._extensions = 0
        self.ended = False

    def readinto(self, view: memoryview) -> int:
        """At least one byte of the body into `view`; 0 at its end.

        Raises FramingError for bad syntax, PeerGone when the connection ends within the body.
        """
        if self.ended or not len(view):
            return 0
        if not self._left and not self._next_chunk():
            return 0
        count = self._link.receive_into(view[: self._left])
        if not count:
            raise PeerGone("the connection ended within a chunk")
        self._left -= count
        return count

    def _next_chunk(self) -> bool:
        """Read up to the next chunk's first byte; False when there is none."""
        if self._started and self._link.line(0):
            raise FramingError("a chunk does not end where its size says")
        self._started = True
        line = self._link.line(SIZE_LINE_BYTES)
        match = _SIZE_LINE.fullmatch(line)
        if match is None:
            raise FramingError("malformed chunk size")
        if match[2]:
            self._extensions += len(match[2])
            if self._extensions > EXTENSION_BYTES:
                raise FramingError("too many chunk extensions")
        self._left = int(match[1], 16)
        if not self._left:
            self._trailers()
            self.ended = True
        return not self.ended

    def _trailers(self) -> None:
        block = bytearray()
        while line := self._link.line(TRAILER_BYTES):
            block += line + b"\r\n"
            if len(block) > TRAILER_BYTES:
                raise FramingError("the trailer is too long")
        try:
            parse_fields(bytes(block), HeadLimits())
        except HeadersTooLarge as error:
            raise FramingError(error.message) from None
