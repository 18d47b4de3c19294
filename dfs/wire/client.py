"""HTTP client: pooled keep-alive connections, deadlines, strict answers."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence

from dfs.wire.deadline import Deadline
from dfs.wire.head import END, HOPELESS, HeadLimits, ResponseHead, parse_response_head
from dfs.wire.link import FramingError, Link, PeerGone
from dfs.wire.message import Piece
from dfs.wire.pace import Due, TooSlow
from dfs.wire.pool import IdlePool
from dfs.wire.reply import ClientResponse, ResponseLimits
from dfs.wire.transport import BadAnswer, ConnectFailed, ConnectionLost, PeerTimeout, TransportError

__all__ = [
    "BadAnswer",
    "BegunRequest",
    "ClientResponse",
    "ConnectFailed",
    "ConnectionLost",
    "HttpClient",
    "PeerTimeout",
    "ResponseLimits",
    "TransportError",
]

CONTINUE_SECONDS = 1.0
"""How long to wait for a 100 before the body is sent anyway (RFC 9110, 10.1.1)."""
JOIN_BYTES = 64 * 1024

_METHOD = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(r"/[\x21-\x22\x24-\x7e]*")
_FIELDS = re.compile(r"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: [\t\x20-\x7e\x80-\xff]*\r\n)*")
_OURS = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect", "user-agent"})

Body = Piece | Iterable[Piece] | None


class _Exchange:
    """One request and its answer on one connection. Raises PeerGone, TooSlow and FramingError."""

    __slots__ = ("_head_limits", "_interim", "_limits", "_link", "answered")

    def __init__(self, link: Link, limits: ResponseLimits, head_limits: HeadLimits) -> None:
        self._link = link
        self._limits = limits
        self._head_limits = head_limits
        self._interim = 0
        self.answered = False
        """Whether any byte of an answer has come."""

    def head(self) -> ResponseHead:
        """The next head, interim or final."""
        link, limits = self._link, self._limits
        data, scanned = link.data, 0
        while True:
            start = max(0, scanned - 3)
            end = data.find(END, start)
            if end < 0 and HOPELESS.search(data, start):
                raise FramingError("malformed head")
            if (end + 4 if end >= 0 else len(data)) > limits.head_bytes:
                raise FramingError(f"the head is longer than {limits.head_bytes} bytes")
            if end >= 0:
                break
            scanned = len(data)
            if not link.more():
                raise PeerGone("it was closed without an answer" if not data else "it ended within a head")
            self.answered = True
        raw = bytes(data[: end + 4])
        del data[: end + 4]
        found = parse_response_head(raw, self._head_limits)
        if found.status < 200:
            self._interim += 1
            framing = found.framing
            if found.status == 101 or self._interim > limits.interim:
                raise FramingError("an interim answer that was not asked for")
            if framing.chunked or framing.length is not None:
                raise FramingError("an interim answer with a body")
        return found

    def final_head(self) -> ResponseHead:
        """The next final head."""
        while True:
            found = self.head()
            if found.status >= 200:
                return found

    def invited(self, seconds: float) -> ResponseHead | None:
        """Wait for a 100 Continue, `seconds` at most; a final answer that comes instead is returned."""
        while self._link.data or self._link.readable(seconds):
            found = self.head()
            if found.status == 100:
                return None
            if found.status >= 200:
                return found
        return None

    def send(self, pieces: Iterable[Piece]) -> ResponseHead | None:
        """Send `pieces`; stops with the final answer when that comes first."""
        for piece in pieces:
            view = memoryview(piece).cast("B")
            while len(view):
                view = view[self._link.send_watching(view) :]
                if len(view):
                    found = self.head()
                    if found.status >= 200:
                        return found
        return None


def _exactly(pieces: Iterable[Piece], length: int) -> Iterator[Piece]:
    """`pieces`, whose sizes must add up to `length`; raises ValueError instead of sending too much."""
    left = length
    for piece in pieces:
        left -= memoryview(piece).nbytes
        if left < 0:
            raise ValueError(f"the body is longer than the {length} bytes declared")
        yield piece
    if left:
        raise ValueError(f"the body is {left} bytes shorter than the {length} declared")


def _chunks(pieces: Iterable[Piece]) -> Iterator[Piece]:
    for piece in pieces:
        size = memoryview(piece).nbytes
        if size:
            yield b"%x\r\n" % size
            yield piece
            yield b"\r\n"
    yield b"0\r\n\r\n"


class BegunRequest:
    """A request that was sent. Ask for its answer, once, or close it."""

    __slots__ = ("_answer", "_link")

    def __init__(self, link: Link, answer: Callable[[], ClientResponse]) -> None:
        self._link: Link | None = link
        self._answer = answer

    def answer(self) -> ClientResponse:
        """The answer, once its head has come; raises like `HttpClient.request`."""
        self._link = None
        return self._answer()

    def close(self) -> None:
        """Give the connection up, unless the answer was asked for."""
        link, self._link = self._link, None
        if link is not None:
            link.close()


class HttpClient:
    """Requests to any number of peers; thread-safe. Make it after a fork, not before."""

    def __init__(
        self,
        *,
        max_idle_per_host: int = 32,
        idle_seconds: float = 60.0,
        connect_timeout: float = 2.0,
        user_agent: str = "dfs",
        limits: ResponseLimits = ResponseLimits(),  # noqa: B008 - immutable
    ) -> None:
        self._pool = IdlePool(max_idle_per_host, idle_seconds)
        self._connect_timeout = connect_timeout
        self._user_agent = user_agent
        self._limits = limits
        self._head_limits = HeadLimits(limits.line_bytes, limits.header_lines)

    def request(
        self,
        host: str,
        port: int,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: Body = None,
        length: int | None = None,
        deadline: Deadline,
        stall: float,
        expect_continue: bool = False,
        repeatable: bool = False,
    ) -> ClientResponse:
        """Send one request and return its answer once the head has come.

        `body` may be bytes, or an iterable sent piece by piece: with `length`, exactly that many
        bytes (else ValueError, and the connection is closed), without, chunked. `deadline` bounds
        everything up to the last byte of the answer, `stall` any time without progress.
        An answer that comes before the body is sent ends the sending. `repeatable`: when a pooled
        connection turns out to be dead before any byte of an answer, try once more on a new one.

        Raises ConnectFailed (nothing was sent, by no try), ConnectionLost, PeerTimeout, BadAnswer, and ValueError for a request
        that cannot be sent as it is. What the body's iterator raises is passed on.
        """
        whole = body if isinstance(body, (bytes, bytearray, memoryview)) else None
        if whole is not None:
            size: int | None = memoryview(whole).nbytes
            if length is not None and length != size:
                raise ValueError(f"the body has {size} bytes, not {length}")
        else:
            size = length
        expect_continue = expect_continue and body is not None and size != 0
        head = self._head(host, port, method, target, headers, body is not None, size, expect_continue)
        peer = (host, port)
        link = self._pool.take(peer)
        lost: ConnectionLost | None = None
        if link is not None:
            exchange = _Exchange(link, self._limits, self._head_limits)
            try:
                return self._run(
                    exchange, link, peer, method, head, body, size, Due(deadline, stall), expect_continue
                )
            except PeerTimeout:
                raise
            except ConnectionLost as error:
                if exchange.answered or not repeatable or not (body is None or whole is not None):
                    raise
                lost = error
        try:
            link = self._connect(host, port, deadline)
        except ConnectFailed as error:
            if lost is None:
                raise
            # The first try was sent: a peer that died of it may have done it before.
            raise ConnectionLost(f"{lost}, then {error}") from None
        exchange = _Exchange(link, self._limits, self._head_limits)
        return self._run(
            exchange, link, peer, method, head, body, size, Due(deadline, stall), expect_continue
        )

    def begin(
        self,
        host: str,
        port: int,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        deadline: Deadline,
        stall: float,
    ) -> BegunRequest | None:
        """Send a GET and do not wait for its answer: the peer can work on it meanwhile.

        Only on an idle connection that is at hand: None when there is none (or it turned out broken),
        so that this never waits. Raises ValueError for a request that cannot be sent as it is.
        """
        head = self._head(host, port, "GET", target, headers, False, None, False)
        peer = (host, port)
        link = self._pool.take(peer)
        if link is None:
            return None
        due = Due(deadline, stall)
        link.patience = due
        try:
            link.send(head)
        except (PeerGone, TooSlow):
            link.close()
            return None
        exchange = _Exchange(link, self._limits, self._head_limits)
        return BegunRequest(
            link, lambda: self._run(exchange, link, peer, "GET", b"", None, None, due, False)
        )

    def close_idle(self, host: str, port: int) -> None:
        """Close the idle connections to one peer."""
        self._pool.drop((host, port))

    def close(self) -> None:
        """Close all idle connections; those in use are closed when done."""
        self._pool.close()

    def idle(self) -> int:
        """How many idle connections are kept."""
        return self._pool.count()

    def _head(
        self,
        host: str,
        port: int,
        method: str,
        target: str,
        headers: Sequence[tuple[str, str]],
        has_body: bool,
        size: int | None,
        expect_continue: bool,
    ) -> bytes:
        if _METHOD.fullmatch(method) is None or _TARGET.fullmatch(target) is None:
            raise ValueError(f"the request line {method!r} {target!r} cannot be sent")
        authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        count = 2 + len(headers)
        fields = f"Host: {authority}\r\nUser-Agent: {self._user_agent}\r\n"
        for name, value in headers:
            if name.lower() in _OURS:
                raise ValueError(f"{name} is not for a caller to set")
            fields += f"{name}: {value}\r\n"
        if has_body and size is None:
            count += 1
            fields += "Transfer-Encoding: chunked\r\n"
        elif has_body or method in ("PUT", "POST"):
            count += 1
            fields += f"Content-Length: {size or 0}\r\n"
        if expect_continue:
            count += 1
            fields += "Expect: 100-continue\r\n"
        # counted, because a value with a whole line in it looks like two fields
        if _FIELDS.fullmatch(fields) is None or fields.count("\n") != count:
            raise ValueError("a header cannot be sent as it is")
        return f"{method} {target} HTTP/1.1\r\n{fields}\r\n".encode("latin-1")

    def _connect(self, host: str, port: int, deadline: Deadline) -> Link:
        seconds = deadline.sooner(self._connect_timeout)
        if seconds <= 0.0:
            raise ConnectFailed(f"no time left to connect to {host}:{port}")
        try:
            return Link(socket.create_connection((host, port), timeout=seconds), Due(deadline, seconds))
        except (OSError, UnicodeError) as error:
            raise ConnectFailed(f"cannot connect to {host}:{port}: {error}") from None

    def _run(
        self,
        exchange: _Exchange,
        link: Link,
        peer: tuple[str, int],
        method: str,
        head: bytes,
        body: Body,
        size: int | None,
        due: Due,
        expect_continue: bool,
    ) -> ClientResponse:
        link.patience = due
        where = f"{peer[0]}:{peer[1]}"
        try:
            early = self._send(exchange, link, head, body, size, due, expect_continue)
            found = exchange.final_head() if early is None else early
            return ClientResponse(
                found,
                link,
                bodyless=method == "HEAD",
                reusable=early is None,
                limits=self._limits,
                release=lambda done: self._pool.put(peer, done),
            )
        except PeerGone as error:
            link.close()
            raise ConnectionLost(f"the connection to {where} broke: {error}") from None
        except TooSlow as error:
            link.close()
            raise PeerTimeout(f"{where} was waited for in vain: {error}") from None
        except FramingError as error:
            link.close()
            raise BadAnswer(f"malformed answer from {where}: {error}") from None
        except BaseException:  # from the body's iterator: half a request must not stay in the pool
            link.close()
            raise

    def _send(
        self,
        exchange: _Exchange,
        link: Link,
        head: bytes,
        body: Body,
        size: int | None,
        due: Due,
        expect_continue: bool,
    ) -> ResponseHead | None:
        """Send the request; returns the answer when it came before all was sent."""
        if body is None:
            if head:  # else it was sent before
                link.send(head)
            return None
        if isinstance(body, (bytes, bytearray, memoryview)):
            if memoryview(body).nbytes <= JOIN_BYTES and not expect_continue:
                return exchange.send((head + body,))
            pieces: Iterable[Piece] = (body,)
        elif size is None:
            pieces = _chunks(body)
        else:
            pieces = _exactly(body, size)
        link.send(head)
        if expect_continue:
            early = exchange.invited(min(CONTINUE_SECONDS, due.next_wait()))
            if early is not None:
                return early
        return exchange.send(pieces)
