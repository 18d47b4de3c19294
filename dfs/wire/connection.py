"""One client connection of a server, as the poller and a worker hand it to each other.

A connection has one owner at any time: the poller, or one worker. Only the poller closes sockets.
"""

from __future__ import annotations

import enum
import socket

from dfs.errors import BadRequest, HeadersTooLarge
from dfs.wire.head import END, HOPELESS
from dfs.wire.limits import Limits
from dfs.wire.link import Link
from dfs.wire.pace import Pace


class State(enum.Enum):
    """What the poller waits for on a connection (each such state has one time limit)."""

    SERVED = "served"  # nothing: a worker has it
    FRESH = "fresh"  # its first byte
    HEAD = "head"  # the rest of a head
    IDLE = "idle"  # the next request
    SKIP = "skip"  # the rest of a body that nobody wants
    LINGER = "linger"  # the peer's end, after our last answer


class Fate(enum.Enum):
    """What becomes of a connection when a worker lets go of it."""

    WAIT = "wait"  # the next request
    READY = "ready"  # a complete head is there already
    LINGER = "linger"  # last answer sent: let the peer read it, then close
    CLOSE = "close"
    RESET = "reset"  # close so that the peer sees that the answer is incomplete


class Connection:
    """A link and where it stands. `skip`: bytes of an unwanted body still to come."""

    __slots__ = ("discarded", "due", "fate", "link", "peer", "requests", "scanned", "skip", "state")

    def __init__(self, sock: socket.socket, peer: tuple[str, int], pace: Pace) -> None:
        self.link = Link(sock, pace)
        self.peer = peer
        self.state = State.SERVED
        self.fate = Fate.WAIT
        self.due = 0.0
        self.requests = 0
        self.skip = 0
        self.scanned = 0
        self.discarded = 0

    def has_work(self, limits: Limits) -> bool:
        """Whether a worker should look: a head is complete, or can never become one."""
        data = self.link.data
        start = max(0, self.scanned - 3)  # each byte is looked at once, however slowly they drip in
        self.scanned = len(data)
        return (
            data.find(END, start) >= 0
            or len(data) > limits.head_bytes
            or HOPELESS.search(data, start) is not None
        )

    def take_head(self, limits: Limits) -> bytes:
        """Cut the first head off what was read; call it when `has_work` says so.

        Raises BadRequest and HeadersTooLarge for what is no head.
        """
        data = self.link.data
        self.scanned = 0
        start = 2 if data.startswith(b"\r\n") else 0  # RFC 9112, 2.2: one empty line may come before
        end = data.find(END, start)
        if end < 0 and HOPELESS.search(data) is not None:
            raise BadRequest("malformed request: only CRLF ends a line, and NUL is not allowed")
        if end < 0 or end + 4 - start > limits.head_bytes:
            raise HeadersTooLarge(f"the request head is longer than {limits.head_bytes} bytes")
        head = bytes(data[start : end + 4])
        del data[: end + 4]
        return head

    def pass_over(self) -> None:
        """Drop what was already read of a body that is to be skipped."""
        data = self.link.data
        count = min(self.skip, len(data))
        if count:
            del data[:count]
            self.skip -= count
        self.scanned = 0
