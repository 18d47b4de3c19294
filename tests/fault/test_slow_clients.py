"""T12: clients that are slow on purpose take nothing from those that are not, and are all reaped.

Good clients' times are printed, not asserted: a shared machine proves nothing by them.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from dfs.wire.limits import Limits
from dfs.wire.message import Request, Response
from dfs.wire.route import Route
from dfs.wire.server import HttpServer

SLOW = int(os.environ.get("SLOW_CLIENTS", "1000" if os.environ.get("LONG") == "1" else "200"))
GOOD = 4
REQUESTS = 150
PATIENCE = 60.0
BODY = b"x" * 10_000

LIMITS = Limits(
    head_seconds=2.0,
    idle_seconds=2.0,
    stall_seconds=2.0,
    rate_window=1.0,
    min_rate=16 * 1024,
    drain_seconds=1.0,
    workers=256,
)


def _put(request: Request) -> Response:
    return Response.text(200, str(len(request.body.read_all(1 << 20))))


def _big(request: Request) -> Response:
    piece = memoryview(b"x" * 262_144)
    return Response(200, [], (piece for _ in range(400)), 400 * len(piece))


@pytest.fixture
def server() -> Iterator[HttpServer]:
    routes = [
        Route("PUT", "/it", _put, 1 << 20),
        Route("GET", "/it", lambda request: Response(200, [], BODY)),
        Route("GET", "/big", _big),
    ]
    made = HttpServer(("127.0.0.1", 0), routes, limits=LIMITS)
    made.add_pressure(lambda: True)
    made.start()
    yield made
    made.close()


def _good(port: int, client: HttpClient, times: list[float], failures: list[str]) -> None:
    for number in range(REQUESTS):
        started = time.perf_counter()
        try:
            body = BODY if number % 2 else None
            method = "PUT" if body else "GET"
            with client.request(
                "127.0.0.1", port, method, "/it", body=body, deadline=Deadline(PATIENCE), stall=PATIENCE
            ) as answer:
                found = answer.read()
            if answer.status != 200 or found != (b"10000" if body else BODY):
                failures.append(f"{number}: {answer.status}")
        except Exception as error:
            failures.append(f"{number}: {error!r}")
        times.append(time.perf_counter() - started)


def _load(port: int) -> tuple[list[float], list[str]]:
    client = HttpClient()
    times: list[float] = []
    failures: list[str] = []
    threads = [threading.Thread(target=_good, args=(port, client, times, failures)) for _ in range(GOOD)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    client.close()
    return sorted(times), failures


HEAD = b"PUT /it HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n"
KINDS: dict[str, tuple[bytes, bytes]] = {  # what is sent at once, and what drips after it
    "silent": (b"", b""),
    "half head": (b"PUT /it HTTP/1.1\r\nHost: h\r\n", b""),
    "dripping head": (b"PUT /it HTTP/1.1\r\n", b"X: y\r\n"),
    "half body": (HEAD + b"abc", b""),
    "dripping body": (HEAD, b"y"),
    "dripping chunks": (b"PUT /it HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nz\r\n"),
    "unwanted body": (b"GET /it HTTP/1.1\r\nHost: h\r\nContent-Length: 5000\r\n\r\n", b"q"),
    "idle": (b"GET /it HTTP/1.1\r\nHost: h\r\n\r\n", b""),
    "not reading": (b"GET /big HTTP/1.1\r\nHost: h\r\n\r\n", b""),
}


class Slow:
    """All the slow clients, dripped to by one thread."""

    def __init__(self, port: int) -> None:
        kinds = list(KINDS)
        self.socks: list[tuple[str, socket.socket]] = []
        for number in range(SLOW):
            kind = kinds[number % len(kinds)]
            sock = socket.socket()
            if kind == "not reading":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.settimeout(PATIENCE)
            sock.connect(("127.0.0.1", port))
            sock.sendall(KINDS[kind][0])
            self.socks.append((kind, sock))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._drip)
        self._thread.start()

    def _drip(self) -> None:
        alive = [(KINDS[kind][1], sock) for kind, sock in self.socks if KINDS[kind][1]]
        while not self._stop.wait(0.2):
            for drop, sock in list(alive):
                try:
                    sock.send(drop)
                except OSError:
                    alive.remove((drop, sock))

    def ends(self) -> dict[str, set[str]]:
        """How the server ended each kind; waits for each end."""
        found: dict[str, set[str]] = {}
        for kind, sock in self.socks:
            data = b""
            try:
                while more := sock.recv(1 << 20):
                    data = data or more
                end = data[9:12].decode() or "closed"
            except ConnectionResetError:
                end = data[9:12].decode() + " reset" if data else "reset"
            found.setdefault(kind, set()).add(end)
        return found

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for _, sock in self.socks:
            sock.close()


def test_slow_clients_are_reaped_and_good_ones_served(server: HttpServer) -> None:
    alone, failures = _load(server.port)
    assert failures == []
    slow = Slow(server.port)
    try:
        among, failures = _load(server.port)
        assert failures == []
        wait_until(lambda: not server.stats()["connections"])
        ends = slow.ends()
    finally:
        slow.close()

    def p99(times: list[float]) -> float:
        return times[int(len(times) * 0.99)] * 1000.0

    print(
        f"{SLOW} slow clients; good clients' p99 alone {p99(alone):.1f} ms, among them {p99(among):.1f} ms; ends {ends}"
    )
    assert ends["silent"] == {"closed"}
    for kind in ("half head", "dripping head", "half body", "dripping body", "dripping chunks"):
        assert ends[kind] <= {"408", "408 reset", "reset"}, (kind, ends)
        assert "408" in ends[kind], (kind, ends)
    assert ends["idle"] == {"200"}
    assert all(end.startswith("413") for end in ends["unwanted body"])
    assert ends["not reading"] == {"200 reset"}
    stats = server.stats()
    assert (stats["connections"], stats["busy"], stats["ready"]) == (0, 0, 0)


def wait_until(holds: Callable[[], bool]) -> None:
    pause = threading.Event()
    deadline = Deadline(PATIENCE)
    while not holds():
        assert not deadline.expired(), "not in time"
        pause.wait(0.02)
