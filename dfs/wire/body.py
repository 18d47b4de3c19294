"""A request's body as its handler reads it."""

from __future__ import annotations

from dfs.errors import BadRequest, PayloadTooLarge, RequestTimeout
from dfs.wire.chunked import ChunkedReader
from dfs.wire.link import FramingError, Link, PeerGone, fill
from dfs.wire.pace import TooSlow

_STEP = 64 * 1024


class BodyTruncated(BadRequest):
    """The connection ended before the body did."""

    code = "body_truncated"


class Body:
    """The body of one request, read from its connection as the handler asks for it.

    `length` is the declared length, None when chunked; `limit` the most a chunked body may hold.
    `started` tells whether anything was read. All reads raise BodyTruncated, RequestTimeout (too
    slow), BadRequest (malformed chunks) or PayloadTooLarge (chunks beyond the limit); after any of
    them the connection is closed once answered. Bytes after the body belong to the next request.
    """

    __slots__ = ("_chunks", "_expects", "_left", "_link", "_total", "failed", "length", "limit", "started")

    def __init__(
        self, link: Link, length: int | None, *, expects_continue: bool = False, limit: int | None = None
    ) -> None:
        self._link = link
        self._chunks = ChunkedReader(link) if length is None else None
        self._left = length or 0
        self._expects = expects_continue and length != 0
        self._total = 0
        self.length = length
        self.limit = limit
        self.started = False
        self.failed = False

    def readinto(self, view: memoryview) -> int:
        """What is there, at least one byte, into the start of `view`; 0 at the end of the body."""
        return self._receive(view, False)

    def readfully(self, view: memoryview) -> int:
        """Fill `view`; returns fewer bytes only when the body ends."""
        if self._chunks is None:
            return self._receive(view, True)
        return fill(view, self.readinto)

    def _receive(self, view: memoryview, fully: bool) -> int:
        if self.failed:
            raise BodyTruncated("the body failed before")
        self.started = True
        try:
            if self._expects:
                self._continue()
            if self._chunks is not None:
                count = self._chunks.readinto(view)
                self._total += count
                if self.limit is not None and self._total > self.limit:
                    raise PayloadTooLarge(f"the body is larger than {self.limit} bytes")
                return count
            left = self._left
            if not left or not len(view):
                return 0
            if left < len(view):
                view = view[:left]
            count = self._link.receive_fully(view) if fully else self._link.receive_into(view)
            if not count or (fully and count < len(view)):
                raise PeerGone("the connection ended")
            self._left = left - count
            return count
        except PayloadTooLarge:
            self.failed = True
            raise
        except PeerGone:
            self.failed = True
            raise BodyTruncated("the connection ended before the body did") from None
        except TooSlow as error:
            self.failed = True
            raise RequestTimeout(f"the body came too slowly: {error}") from None
        except FramingError as error:
            self.failed = True
            raise BadRequest(f"malformed body: {error}") from None

    def read(self, n: int) -> bytes:
        """Exactly `n` bytes, fewer only when the body ends, b"" after its end.

        Memory is taken as bytes arrive, not as `n` or the declared length promise.
        """
        if self._chunks is None:
            n = min(n, self._left)
            if n <= _STEP:
                piece = bytearray(n)
                self.readfully(memoryview(piece))
                return bytes(piece)
        found = bytearray()
        while len(found) < n:
            piece = bytearray(min(_STEP, n - len(found)))
            count = self.readfully(memoryview(piece))
            found += memoryview(piece)[:count]
            if count < len(piece):
                break
        return bytes(found)

    def read_all(self, limit: int) -> bytes:
        """The whole body; raises PayloadTooLarge when it is larger than `limit` bytes."""
        if self.length is not None and self.length > limit:
            raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        found = self.read(limit + 1)
        if len(found) > limit:
            self.failed = True
            raise PayloadTooLarge(f"the body is larger than {limit} bytes")
        return found

    @property
    def unread(self) -> int | None:
        """Bytes still to come before the next request; None when that is not known."""
        if self.failed:
            return None
        if self._chunks is not None:
            return 0 if self._chunks.ended else None
        if self._left and self._expects:
            return None  # the client may send the body or not: nobody can tell what comes next
        return self._left

    def _continue(self) -> None:
        self._expects = False
        if not self._link.data:
            self._link.send(b"HTTP/1.1 100 Continue\r\n\r\n")
