"""Writing an answer onto a connection so that it is either complete or visibly broken."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from email.utils import formatdate
from http import HTTPStatus
from typing import cast

from dfs.errors import DfsError
from dfs.wire.link import READ_AHEAD, Link
from dfs.wire.message import Piece, Response

JOIN_BYTES = 64 * 1024
"""Up to this size copying head and body together is cheaper than a second packet."""

_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_FIELDS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_OURS = frozenset({"content-length", "transfer-encoding", "connection", "date", "server", "x-request-id"})
_NO_BODY = frozenset({204, 304})


class AnswerBroken(Exception):
    """The head went out, but the body cannot be completed: the connection must be reset."""


class HeadWriter:
    """Makes answer heads: status line, Date, Server, request id, then the response's own fields."""

    def __init__(self, server_header: str, extra: Sequence[tuple[str, str]]) -> None:
        fixed = "".join(f"{name}: {value}\r\n" for name, value in (("Server", server_header), *extra))
        if _FIELDS.fullmatch(fixed) is None or fixed.count("\n") != 1 + len(extra):
            raise ValueError("a response header of the server is malformed")
        self._fixed = fixed
        self._second = 0
        self._common = ""

    def head(self, response: Response, framing: str, request_id: str, connection: str) -> bytes:
        """The bytes of the head; `framing` and `connection` are whole lines or empty.

        Raises ValueError when a header of the response cannot be sent as it is.
        """
        now = int(time.time())
        if now != self._second:
            self._common = f"Date: {formatdate(now, usegmt=True)}\r\n{self._fixed}X-Request-Id: "
            self._second = now
        status = response.status
        fields = ""
        for name, value in response.headers:
            if name.lower() in _OURS:
                raise ValueError(f"{name} is not for a handler to set")
            fields += f"{name}: {value}\r\n"
        # counted, because a value with a whole line in it looks like two fields
        if fields and (_FIELDS.fullmatch(fields) is None or fields.count("\n") != len(response.headers)):
            raise ValueError("a header of the response is malformed")
        line = _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"
        return f"{line}{self._common}{request_id}\r\n{fields}{framing}{connection}\r\n".encode("latin-1")


def error_response(error: DfsError, request_id: str) -> Response:
    """The one shape of every error answer."""
    headers = list(error.headers)
    if error.retry_after is not None:
        headers.append(("Retry-After", str(error.retry_after)))
    return Response.json(error.status, error.payload(request_id), headers)


class Answer:
    """One response on its way out.

    `prepare()` asks the body for its first piece and makes the head, so that whatever fails there
    can still be answered properly; `send()` then writes everything.
    """

    __slots__ = ("_chunked", "_first", "_head", "_pieces", "_response", "sent", "until_close")

    def __init__(self, response: Response) -> None:
        self._response = response
        self._pieces: Iterator[Piece] | None = None
        self._first: Piece = b""
        self._head = b""
        self._chunked = False
        self.sent = 0
        self.until_close = False

    def prepare(
        self, writer: HeadWriter, request_id: str, *, method: str, version: int, connection: str
    ) -> None:
        """Raises whatever the body's first step raises, and ValueError for an unusable response."""
        response = self._response
        body = response.body
        length = response.length
        silent = method == "HEAD" or response.status in _NO_BODY
        if body is None or isinstance(body, (bytes, bytearray, memoryview)):
            if body is None:
                size = 0
            else:
                size = len(body) if type(body) is bytes else memoryview(body).nbytes
            if length is None:
                length = size
            elif length != size and not silent:
                raise ValueError(f"a response of {size} bytes declares {length}")
            if body is not None and not silent:
                self._first = body
        elif not silent:
            self._pieces = iter(body)
            first = next(self._pieces, None)
            if first is not None:
                self._first = first
            elif length:
                raise ValueError(f"an empty response declares {length} bytes")
        framing = ""
        if response.status != 204 and (response.status != 304 or response.length is not None):
            if length is not None:
                framing = f"Content-Length: {length}\r\n"
            elif version == 1:
                framing = "Transfer-Encoding: chunked\r\n"
                self._chunked = not silent
            else:
                self.until_close = not silent
                connection = "Connection: close\r\n"
        self._head = writer.head(response, framing, request_id, connection)

    def send(self, link: Link) -> None:
        """Write head and body.

        Raises AnswerBroken when the body turned out shorter or longer than declared, what the body's
        iterator raises, ValueError for a piece that cannot be sent, and PeerGone or TooSlow.
        """
        pieces = self._pieces
        if pieces is None:
            body = self._first
            size = len(body) if type(body) is bytes else memoryview(body).nbytes
            if size <= READ_AHEAD:
                link.send(self._head + body if size else self._head)
            else:
                link.send_both(self._head, body)
            self.sent = size
        elif self._chunked:
            self._send_chunks(link, pieces)
        elif self._response.length is None:
            self._send_plain(link, pieces)
        else:
            self._send_declared(link, pieces, self._response.length)

    def _send_chunks(self, link: Link, pieces: Iterator[Piece]) -> None:
        pending = self._head
        piece: Piece | None = self._first
        while piece is not None:
            size = memoryview(piece).nbytes
            if size:
                pending += b"%x\r\n" % size
                if size <= JOIN_BYTES:
                    link.send(pending + piece)
                else:
                    link.send_both(pending, piece)
                pending = b"\r\n"
                self.sent += size
            piece = next(pieces, None)
        link.send(pending + b"0\r\n\r\n")

    def _send_plain(self, link: Link, pieces: Iterator[Piece]) -> None:
        """Send the pieces, whose end is the connection's."""
        link.send(self._head)
        piece: Piece | None = self._first
        while piece is not None:
            link.send(piece)
            self.sent += memoryview(piece).nbytes
            piece = next(pieces, None)

    def _send_declared(self, link: Link, pieces: Iterator[Piece], length: int) -> None:
        """Send the pieces; the last byte only when the iterator has ended at exactly `length`.

        So nothing that goes wrong at the very end of a body (a checksum, say) can look complete.
        """
        pending = self._head
        piece: Piece | None = self._first
        while piece is not None:
            source = memoryview(piece).cast("B")
            size = len(source)
            self.sent += size
            if self.sent > length:
                raise AnswerBroken(f"the body is longer than the {length} bytes declared")
            if size > JOIN_BYTES:
                whole = size if self.sent < length else size - 1
                link.send_both(pending, source[:whole])
                pending = bytes(source[whole:])
            else:
                pending += source
                if self.sent < length and pending:
                    link.send(pending)
                    pending = b""
            piece = next(pieces, None)
        if self.sent < length:
            raise AnswerBroken(f"the body has {self.sent} bytes, not the {length} declared")
        if pending:
            link.send(pending)

    def close(self) -> None:
        """Close the body's iterator, and the iterable when that is another object."""
        body = self._response.body
        if body is None or isinstance(body, (bytes, bytearray, memoryview)):
            return
        for each in (self._pieces, body) if self._pieces is not body else (body,):
            close = getattr(cast(Iterable[Piece] | None, each), "close", None)
            if close is not None:
                close()
