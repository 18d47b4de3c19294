"""A server on a free port, and raw bytes to and from it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from dfs.wire.route import Route
from dfs.wire.server import HttpServer

PATIENCE = 20.0


class Raw:
    """A client that says exactly what it is told."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.data = b""

    def send(self, data: bytes) -> Raw:
        self.sock.sendall(data)
        return self

    def until(self, mark: bytes) -> bytes:
        """Everything up to and with `mark`; what follows stays for later."""
        while mark not in self.data:
            more = self.sock.recv(65536)
            assert more, f"ended after {self.data!r}"
            self.data += more
        found, _, self.data = self.data.partition(mark)
        return found + mark

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """One answer with a Content-Length: status, headers (lower case), body."""
        head = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)
        }
        length = int(headers.get("content-length", "0"))
        while len(self.data) < length:
            more = self.sock.recv(65536)
            assert more, "short body"
            self.data += more
        body, self.data = self.data[:length], self.data[length:]
        return int(head[0].split(" ")[1]), headers, body

    def rest(self) -> bytes:
        """Everything until the end of the stream; a reset raises ConnectionResetError."""
        while more := self.sock.recv(65536):
            self.data += more
        return self.data

    def close(self) -> None:
        self.sock.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., HttpServer]]:
    servers: list[HttpServer] = []

    def start(routes: Sequence[Route], **options: Any) -> HttpServer:
        server = HttpServer(("127.0.0.1", 0), routes, **options)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def raw() -> Iterator[Callable[[int], Raw]]:
    clients: list[Raw] = []

    def connect(port: int) -> Raw:
        clients.append(Raw(port))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()
