"""A peer's answer, read as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from dfs.errors import BadRequest
from dfs.wire.chunked import ChunkedReader
from dfs.wire.head import ResponseHead
from dfs.wire.link import FramingError, Link, PeerGone, fill
from dfs.wire.message import Headers
from dfs.wire.pace import TooSlow
from dfs.wire.strict_json import parse_json
from dfs.wire.transport import BadAnswer, ConnectionLost, PeerTimeout

_STEP = 64 * 1024
_CLOSED = "the answer was closed before it was read to its end"


@dataclass(frozen=True)
class ResponseLimits:
    """What an answer may measure, in bytes and lines."""

    head_bytes: int = 32 * 1024
    line_bytes: int = 16 * 1024
    header_lines: int = 100
    interim: int = 8
    """1xx answers before the real one."""
    read_bytes: int = 64 * 1024 * 1024
    """What `read()` without a size, and `read_json`, take into memory at most."""


class ClientResponse:
    """Status, headers and the body, which is read on demand.

    `length` is the body's declared length, None when it is chunked or ends with the connection.
    Every read raises ConnectionLost when the body is cut short, PeerTimeout, or BadAnswer. Once the
    body is read to its end the connection goes back to the pool; `close()` before that closes it.
    """

    def __init__(
        self,
        head: ResponseHead,
        link: Link,
        *,
        bodyless: bool,
        reusable: bool,
        limits: ResponseLimits,
        release: Callable[[Link], None],
    ) -> None:
        """Raises FramingError when nothing tells where the body ends."""
        framing = head.framing
        self.status = head.status
        self.headers = Headers.from_raw(head.fields)
        self.length: int | None = framing.length
        self._link: Link | None = link
        self._limits = limits
        self._release = release
        self._reusable = reusable and not framing.close and (head.version == 1 or framing.keep_alive)
        self._chunks: ChunkedReader | None = None
        self._left: int | None = framing.length
        if head.status == 204 and (framing.chunked or framing.length):
            raise FramingError("a 204 with a body")
        if bodyless or head.status in (204, 304):
            self._left = 0
        elif framing.chunked:
            self._chunks = ChunkedReader(link)
        elif framing.length is None:
            if head.status < 400:  # a cut body would look complete
                raise FramingError("nothing says where the body ends")
            self._reusable = False
        if self._left == 0:
            self._complete()

    def readinto(self, view: memoryview) -> int:
        """What is there, at least one byte, into the start of `view`; 0 at the end of the body."""
        return self._receive(view, False)

    def readfully(self, view: memoryview) -> int:
        """Fill `view`; returns fewer bytes only when the body ends."""
        if self._left is not None and self._chunks is None:
            return self._receive(view, True)
        return fill(view, self.readinto)

    def _receive(self, view: memoryview, fully: bool) -> int:
        link = self._link
        if link is None:
            if (self._left is None and self._chunks is None) or self._left:
                raise ConnectionLost(_CLOSED)
            if self._chunks is not None and not self._chunks.ended:
                raise ConnectionLost(_CLOSED)
            return 0
        if not len(view):
            return 0
        left = self._left
        try:
            if self._chunks is not None:
                count = self._chunks.readinto(view)
                if not count:
                    self._complete()
                return count
            if left is None:
                count = link.receive_into(view)
                if not count:
                    self._left = 0
                    self._complete()
                return count
            if left < len(view):
                view = view[:left]
            count = link.receive_fully(view) if fully else link.receive_into(view)
            left = self._left = left - count
            if not count or (fully and count < len(view)):
                raise PeerGone(f"the answer ended {left} bytes early")
            if not left:
                self._complete()
            return count
        except PeerGone as error:
            self.close()
            raise ConnectionLost(f"the connection broke within an answer: {error}") from None
        except TooSlow as error:
            self.close()
            raise PeerTimeout(f"an answer came too slowly: {error}") from None
        except FramingError as error:
            self.close()
            raise BadAnswer(f"malformed answer: {error}") from None

    def read(self, n: int = -1) -> bytes:
        """Exactly `n` bytes, fewer only when the body ends; all of it when `n` is negative.

        Raises BadAnswer when all of it is more than the limits allow.
        """
        most = self._limits.read_bytes
        whole = n < 0
        left = self._left
        if whole:
            if left is not None and left > most:
                self.close()
                raise BadAnswer(f"the answer is larger than {most} bytes")
            n = most + 1
        if left is not None and self._chunks is None:
            n = min(n, left)
        found = bytearray()
        while True:
            piece = bytearray(min(_STEP, n - len(found)))
            count = self.readfully(memoryview(piece))
            if count < len(piece):
                del piece[count:]
                n = 0
            if not found:
                found = piece
            else:
                found += piece
            if len(found) >= n:
                break
        if whole and len(found) > most:
            self.close()
            raise BadAnswer(f"the answer is larger than {most} bytes")
        return bytes(found)

    def iter_pieces(self, size: int) -> Iterator[bytes]:
        """The body in pieces of `size` bytes; the last may be shorter."""
        while piece := self.read(size):
            yield piece

    def read_json(self) -> Any:
        """The body as JSON; raises BadAnswer when it is none."""
        try:
            return parse_json(self.read())
        except BadRequest as error:
            raise BadAnswer(f"malformed answer: {error.message}") from None

    def close(self) -> None:
        """Give the connection up, if it is still ours."""
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _complete(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            if self._reusable and not link.data:
                self._release(link)
            else:
                link.close()

    def __enter__(self) -> ClientResponse:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
