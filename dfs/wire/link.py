"""One TCP connection: its socket, what was read ahead from it, and patience.

Reads and writes wait within their system call, `PAUSE` seconds at most; only when nothing came in that
time does the thread wait with poll for as long as patience allows. So a lively peer costs one system
call each way. Who must not wait at all (the server's poller) passes MSG_DONTWAIT.

A large body is read with MSG_WAITALL: the kernel fills the buffer, however many segments that takes.
SO_RCVLOWAT would save wakings, but holds back the acknowledgements that a peer with a small window
waits for: 40 ms each on a loopback connection, whose segments are as large as its first window.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Sequence

from dfs.wire.pace import Patience

READ_AHEAD = 16 * 1024
PAUSE = 0.1
"""Seconds that one system call waits for the peer."""
SEND_STEP = 1024 * 1024
"""Sent at once at most, so that a long answer is measured, and an early one seen, now and then."""

# plain numbers: the enumeration of the library costs more than the test of a bit
_NOW = int(socket.MSG_DONTWAIT)
_WHOLE = int(socket.MSG_WAITALL)
_PAUSE = struct.pack("ll", int(PAUSE), int(PAUSE * 1_000_000) % 1_000_000)
_RESET = struct.pack("ii", 1, 0)


class PeerGone(Exception):
    """The other side closed or reset the connection."""


class FramingError(Exception):
    """Bytes that the message syntax does not allow; the message says which."""


class Link:
    """A connected socket, made blocking for `PAUSE` seconds, with Nagle off.

    `data` holds bytes read but not yet consumed. Every method that waits does so as `patience` says
    (raising TooSlow) and raises PeerGone when the connection breaks.
    """

    __slots__ = ("_both", "_in", "_out", "data", "patience", "sock")

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _PAUSE)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PAUSE)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.patience = patience
        self.data = bytearray()
        self._in: select.poll | None = None
        self._out: select.poll | None = None
        self._both: select.poll | None = None

    def _poller(self, events: int) -> select.poll:
        made = select.poll()
        made.register(self.sock, events)
        return made

    def readable(self, seconds: float) -> bool:
        """Whether bytes, the end or an error arrive within `seconds` (patience is not asked)."""
        poller = self._in
        if poller is None:
            poller = self._in = self._poller(select.POLLIN)
        return bool(poller.poll(seconds * 1000.0))

    def _wait(self, poller: select.poll) -> int:
        """Wait for `poller` as patience allows; returns the events, 0 when none came."""
        started = time.monotonic()
        found = poller.poll(self.patience.next_wait() * 1000.0)
        self.patience.waited(time.monotonic() - started)
        return found[0][1] if found else 0

    def _wait_in(self) -> None:
        poller = self._in
        if poller is None:
            poller = self._in = self._poller(select.POLLIN)
        self._wait(poller)

    def _wait_out(self) -> None:
        poller = self._out
        if poller is None:
            poller = self._out = self._poller(select.POLLOUT)
        self._wait(poller)

    def _receive(self, view: memoryview, flags: int) -> int:
        """recv_into as patience allows; 0 at the end of the stream. Raises PeerGone."""
        patience, sock = self.patience, self.sock
        if patience.next_wait() < PAUSE:
            flags = _NOW
        while True:
            started = time.monotonic()
            try:
                count = sock.recv_into(view, 0, flags)
            except BlockingIOError:
                patience.waited(time.monotonic() - started)
                self._wait_in()
                flags = _NOW
                continue
            except OSError as error:
                raise PeerGone(str(error)) from None
            patience.moved(count, time.monotonic() - started)
            return count

    def _take(self, view: memoryview) -> int:
        """What was read ahead, into the start of `view`."""
        data = self.data
        count = min(len(data), len(view))
        view[:count] = data[:count]
        del data[:count]
        return count

    def receive_into(self, view: memoryview) -> int:
        """Fill the start of `view` with what is there, at least one byte; 0 at the end of the stream."""
        return self._take(view) if self.data else self._receive(view, 0)

    def receive_fully(self, view: memoryview) -> int:
        """Fill `view`; returns fewer bytes only at the end of the stream."""
        filled = self._take(view) if self.data else 0
        while filled < len(view):
            count = self._receive(view[filled:] if filled else view, _WHOLE)
            if not count:
                break
            filled += count
        return filled

    def more(self) -> int:
        """Append what is there to `data`, at least one byte; 0 at the end of the stream."""
        patience, sock = self.patience, self.sock
        flags = 0 if patience.next_wait() >= PAUSE else _NOW
        while True:
            started = time.monotonic()
            try:
                read = sock.recv(READ_AHEAD, flags)
            except BlockingIOError:
                patience.waited(time.monotonic() - started)
                self._wait_in()
                flags = _NOW
                continue
            except OSError as error:
                raise PeerGone(str(error)) from None
            patience.moved(len(read), time.monotonic() - started)
            self.data += read
            return len(read)

    def listen(self) -> int | None:
        """Append what comes within `PAUSE` seconds to `data` (patience is not asked).

        Returns how much came, 0 at the end of the stream or when it broke, None when nothing did.
        """
        try:
            read = self.sock.recv(READ_AHEAD)
        except BlockingIOError:
            return None
        except OSError:
            return 0
        self.data += read
        return len(read)

    def line(self, limit: int) -> bytes:
        """The next line without its CRLF, at most `limit` bytes; raises FramingError when it is not one."""
        data = self.data
        searched = 0
        while True:
            end = data.find(b"\n", searched)
            if end >= 0:
                break
            if len(data) > limit + 2:
                raise FramingError("a line is too long")
            searched = len(data)
            if not self.more():
                raise PeerGone("the connection ended within a line")
        if end == 0 or data[end - 1] != 0x0D:
            raise FramingError("a line ends with a bare LF")
        found = bytes(data[: end - 1])
        del data[: end + 1]
        if len(found) > limit:
            raise FramingError("a line is too long")
        if b"\r" in found or b"\0" in found:
            raise FramingError("a line contains CR or NUL")
        return found

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of `data`."""
        sent = 0
        if len(data) <= READ_AHEAD:  # it fits the socket's buffer, unless the peer is slow
            try:
                sent = self.sock.send(data, _NOW)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise PeerGone(str(error)) from None
            if sent:
                self.patience.moved(sent)
        if sent < len(data) or isinstance(data, memoryview):
            self._send_rest(memoryview(data).cast("B"), sent)

    def send_both(self, head: bytes, data: bytes | bytearray | memoryview) -> None:
        """Send all of `head` and `data`, as if they were one."""
        view = memoryview(data).cast("B")
        sent = 0
        if head:
            sent = self._send_some([head, view[:SEND_STEP]]) - len(head)
            if sent < 0:
                self._send_rest(memoryview(head), sent + len(head))
                sent = 0
        self._send_rest(view, sent)

    def _send_rest(self, view: memoryview, sent: int) -> None:
        while sent < len(view):
            sent += self._send_some([view[sent : sent + SEND_STEP]])

    def _send_some(self, parts: Sequence[bytes | memoryview]) -> int:
        """Send what the peer takes of `parts`, at least one byte."""
        patience, sock = self.patience, self.sock
        flags = 0 if patience.next_wait() >= PAUSE else _NOW
        while True:
            started = time.monotonic()
            try:
                count = sock.sendmsg(parts, (), flags)
            except BlockingIOError:
                patience.waited(time.monotonic() - started)
                self._wait_out()
                flags = _NOW
                continue
            except OSError as error:
                raise PeerGone(str(error)) from None
            patience.moved(count, time.monotonic() - started)
            return count

    def send_watching(self, view: memoryview) -> int:
        """Send `view`; returns how much was sent: less than all when the peer has spoken, or is gone."""
        patience, sock = self.patience, self.sock
        sent = 0
        look = len(view) > READ_AHEAD  # what fits the socket's buffer is not worth asking first
        while sent < len(view):
            if look and self.readable(0.0):
                break
            look = True
            flags = 0 if patience.next_wait() >= PAUSE else _NOW
            started = time.monotonic()
            try:
                count = sock.send(view[sent : sent + SEND_STEP], flags)
            except BlockingIOError:
                patience.waited(time.monotonic() - started)
                poller = self._both
                if poller is None:
                    poller = self._both = self._poller(select.POLLIN | select.POLLOUT)
                self._wait(poller)
                continue
            except OSError:  # what the peer said before it broke may still be read
                break
            sent += count
            patience.moved(count, time.monotonic() - started)
        return sent

    def finish_sending(self) -> None:
        """Tell the peer that nothing more will come; what it still sends can be read."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise PeerGone(str(error)) from None

    def reset_on_close(self) -> None:
        """Make the coming close a reset, so that what was sent never looks complete."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    def cut_off(self) -> None:
        """Make every wait of another thread on this connection end at once."""
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was broken already
            return

    def close(self) -> None:
        """Close the socket."""
        self.sock.close()


def fill(view: memoryview, receive: Callable[[memoryview], int]) -> int:
    """Call `receive` until `view` is full or there is no more (0); the number of bytes."""
    filled = 0
    while filled < len(view):
        count = receive(view[filled:])
        if not count:
            break
        filled += count
    return filled
