"""The HTTP server: a poller for everybody who waits, a bounded set of workers for those who do not."""

from __future__ import annotations

import http.server
import itertools
import os
import socket
import socketserver
import threading
from collections.abc import Callable, Sequence

from dfs import logs
from dfs.errors import DfsError
from dfs.wire.answer import HeadWriter, error_response
from dfs.wire.balance import Seat
from dfs.wire.connection import Connection
from dfs.wire.exchange import Exchanges
from dfs.wire.limits import Limits, raise_file_limit
from dfs.wire.poller import Poller
from dfs.wire.route import Route, Router
from dfs.wire.workers import Workers

__all__ = ["HttpServer", "Limits"]

SPARE_FILES = 256
"""Descriptors kept back from connections: for files, peers and logs."""
BACKLOG = 1024


class HttpServer(http.server.ThreadingHTTPServer):
    """Serves `routes`. The socket is bound and listening once made; threads begin with `start()`.

    So a process may make the server, fork, and start it in each child: they share the socket.
    `listening_socket` adopts one that listens already (`address` is then ignored). `seat`: this
    process's among those that serve the same socket, to share out connections evenly.
    """

    request_queue_size = BACKLOG

    def __init__(
        self,
        address: tuple[str, int],
        routes: Sequence[Route],
        *,
        limits: Limits = Limits(),  # noqa: B008 - immutable
        server_header: str = "dfs",
        listening_socket: socket.socket | None = None,
        seat: Seat | None = None,
        access_log: bool = False,
        response_headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Raises OSError when the address cannot be had."""
        self.limits = limits
        self._seat = seat
        self.access_log = access_log
        self.router = Router(routes)
        self.writer = HeadWriter(server_header, response_headers)
        self.draining = False
        self.on_fatal: Callable[[], None] | None = None
        self._poller: Poller | None = None
        self._thread: threading.Thread | None = None
        self._workers: Workers | None = None
        self._pressure: list[Callable[[], bool]] = []
        self._ids = itertools.count(1)
        self._last_id = 0
        self._id_prefix = ""
        self._stopped = threading.Event()
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        if listening_socket is not None:
            self.address_family = listening_socket.family
        super().__init__(address, http.server.BaseHTTPRequestHandler, bind_and_activate=False)
        try:
            if listening_socket is None:
                self.server_bind()
                self.server_activate()
            else:
                self.socket.close()
                self.socket = listening_socket
                self._name()
        except BaseException:
            self.socket.close()
            raise

    def server_bind(self) -> None:
        """Bind, without the name server lookup of the standard library."""
        socketserver.TCPServer.server_bind(self)
        self._name()

    def _name(self) -> None:
        self.server_address = self.socket.getsockname()
        self.server_name = str(self.server_address[0])
        self.server_port = int(self.server_address[1])

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self.server_port

    def start(self) -> None:
        """Begin to serve, in threads of its own."""
        if self._thread is not None:
            raise RuntimeError("the server was started before")
        limits = self.limits
        files = raise_file_limit()
        self._id_prefix = os.urandom(4).hex()
        exchanges = Exchanges(self)
        workers = Workers(limits.workers, exchanges.serve, self._give_back, f"http-{self.port}")
        poller = Poller(
            self.socket,
            limits,
            max(1, min(limits.connections, files - SPARE_FILES)),
            submit=workers.submit,
            refusal=self.refusal,
            pressed=self.pressed,
            seat=self._seat,
        )
        self._workers, self._poller = workers, poller
        self._thread = threading.Thread(
            target=self._poll, args=(poller,), name=f"poll-{self.port}", daemon=True
        )
        self._thread.start()

    def _poll(self, poller: Poller) -> None:
        try:
            poller.run()
        except Exception as error:  # a bug: a server that hears nobody must not look alive
            logs.error("server_failed", exc=error, port=self.port)
            if self.on_fatal is not None:
                self.on_fatal()

    def _give_back(self, connection: Connection) -> None:
        if self._poller is not None:
            self._poller.give_back(connection)

    def drain(self, seconds: float) -> bool:
        """Stop accepting, answer what was already sent, close connections as they fall idle.

        Returns True once nothing is left, False when `seconds` have passed first. Connections in the
        listening socket's queue are still served; every answer says `Connection: close`.
        """
        self.draining = True
        if self._poller is None:
            self.socket.close()
            return True
        self._poller.drain()
        return self._poller.finished.wait(seconds)

    def close(self) -> None:
        """Stop at once: cut off what is running and end all threads. May be called again."""
        self.draining = True
        if self._poller is not None and self._thread is not None and self._workers is not None:
            self._poller.stop()
            self._thread.join()
            if not self._workers.stop(1.0):
                logs.warning("handlers_left_running", port=self.port, busy=self._workers.counts()["busy"])
        self.socket.close()
        self._stopped.set()

    # -- what ThreadingHTTPServer's callers expect --

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """`start()`, then wait until `shutdown()` or `close()`."""
        self.start()
        self._stopped.wait()

    def shutdown(self) -> None:
        """`close()`."""
        self.close()

    def server_close(self) -> None:
        """`close()`."""
        self.close()

    # -- what the rest of the server asks --

    def add_pressure(self, hook: Callable[[], bool]) -> None:
        """Slow peers are cut while `hook()` is true (somebody waits for what they hold)."""
        self._pressure.append(hook)

    def pressed(self) -> bool:
        """Whether others wait, so that slow peers have to go."""
        if self.crowded() or (self._poller is not None and self._poller.full()):
            return True
        return any(hook() for hook in self._pressure)

    def crowded(self) -> bool:
        """Whether complete requests wait for a worker."""
        return self._workers is not None and self._workers.crowded()

    def at_ease(self) -> bool:
        """Whether workers are plenty, so that one may wait for the next request of its connection."""
        return self._workers is not None and self._workers.at_ease()

    def next_request_id(self) -> str:
        """A new id, unlike those of other processes."""
        number = self._last_id = next(self._ids)
        return f"{self._id_prefix}{number:08x}"

    def refusal(self, error: DfsError) -> bytes:
        """A whole error answer that ends its connection."""
        request_id = self.next_request_id()
        response = error_response(error, request_id)
        body = bytes(response.body) if isinstance(response.body, (bytes, bytearray, memoryview)) else b""
        framing = f"Content-Length: {len(body)}\r\n"
        return self.writer.head(response, framing, request_id, "Connection: close\r\n") + body

    def stats(self) -> dict[str, int]:
        """Figures for operators: connections by state, workers, requests so far."""
        found = {"requests": self._last_id}
        if self._poller is not None and self._workers is not None:
            found.update(self._poller.counts())
            found.update(self._workers.counts())
        return found
