"""One TCP connection: a non-blocking socket, what was read ahead from it, and patience.

Reads and writes try at once and wait only when the kernel has nothing: a hot connection costs one
system call each way.
"""

from __future__ import annotations

import select
import socket
import struct
import time

from dfs.wire.pace import Patience

READ_AHEAD = 16 * 1024

_RESET = struct.pack("ii", 1, 0)


class PeerGone(Exception):
    """The other side closed or reset the connection."""


class FramingError(Exception):
    """Bytes that the message syntax does not allow; the message says which."""


class Link:
    """A connected socket, made non-blocking with Nagle off.

    `data` holds bytes read but not yet consumed. Every method that waits does so as `patience` says
    (raising TooSlow) and raises PeerGone when the connection breaks.
    """

    __slots__ = ("_both", "_in", "_out", "data", "patience", "sock")

    def __init__(self, sock: socket.socket, patience: Patience) -> None:
        sock.setblocking(False)
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

    def receive_into(self, view: memoryview) -> int:
        """Fill the start of `view` with what is there, at least one byte; 0 at the end of the stream."""
        data = self.data
        if data:
            count = min(len(data), len(view))
            view[:count] = data[:count]
            del data[:count]
            return count
        while True:
            try:
                count = self.sock.recv_into(view)
            except BlockingIOError:
                self._wait_in()
                continue
            except OSError as error:
                raise PeerGone(str(error)) from None
            if count:
                self.patience.moved(count)
            return count

    def more(self) -> int:
        """Append what is there to `data`, at least one byte; 0 at the end of the stream."""
        while True:
            try:
                read = self.sock.recv(READ_AHEAD)
            except BlockingIOError:
                self._wait_in()
                continue
            except OSError as error:
                raise PeerGone(str(error)) from None
            if read:
                self.data += read
                self.patience.moved(len(read))
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
        try:
            sent = self.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            raise PeerGone(str(error)) from None
        if sent < len(data) or isinstance(data, memoryview):
            self._send_rest(memoryview(data).cast("B"), sent)

    def _send_rest(self, view: memoryview, sent: int) -> None:
        if sent:
            self.patience.moved(sent)
        poller = self._out
        while sent < len(view):
            if poller is None:
                poller = self._out = self._poller(select.POLLOUT)
            self._wait(poller)
            try:
                count = self.sock.send(view[sent:])
            except BlockingIOError:
                continue
            except OSError as error:
                raise PeerGone(str(error)) from None
            sent += count
            self.patience.moved(count)

    def send_watching(self, view: memoryview) -> int:
        """Send `view`; returns how much was sent: less than all when the peer has spoken, or is gone."""
        poller = self._both
        if poller is None:
            poller = self._both = self._poller(select.POLLIN | select.POLLOUT)
        sent = 0
        look = len(view) > READ_AHEAD  # what fits the socket's buffer is not worth asking first
        while sent < len(view):
            if look and self._wait(poller) & ~select.POLLOUT:
                break
            look = True
            try:
                count = self.sock.send(view[sent:])
            except BlockingIOError:
                continue
            except OSError:  # what the peer said before it broke may still be read
                break
            sent += count
            self.patience.moved(count)
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
