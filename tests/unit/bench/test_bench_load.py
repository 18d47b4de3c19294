"""The load generator against a small server that answers well, badly, slowly and not at all."""

from __future__ import annotations

import http.server
import multiprocessing
import socket
import threading
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import pytest

from tests.bench import load, payload
from tests.bench.load import Load, LoadFailed, Phase


class _Store(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.port = self.server_address[1]


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Store

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.objects[self.path] = body
        status = HTTPStatus.INSUFFICIENT_STORAGE if self.path.startswith("/full") else HTTPStatus.CREATED
        self._answer(status, b"{}")

    def do_GET(self) -> None:
        body = self.server.objects.get(self.path.replace("/other", "/good").replace("/short", "/good"))
        if body is None:
            self._answer(HTTPStatus.NOT_FOUND, b"no such object")
        elif self.path.startswith("/short"):
            self._answer(HTTPStatus.OK, body[:-1])
        else:
            self._answer(HTTPStatus.OK, body if self.path.startswith("/good") else bytes(len(body)))

    def _answer(self, status: HTTPStatus, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture(scope="module")
def store() -> Iterator[_Store]:
    server = _Store()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def workers() -> Iterator[Load]:
    with Load(2) as made:
        yield made


def test_put_and_get_move_the_bytes_that_belong_to_each_number(store: _Store, workers: Load) -> None:
    size = (1 << 20) + 17  # more than one piece
    put = workers.run(Phase("PUT", store.port, "/good/a/{n}", size, 3, 30.0, most=5))
    assert put.numbers == [0, 1, 2, 3, 4]
    assert put.count == 5
    for number in put.numbers:
        assert store.objects[f"/good/a/{number}"] == payload.content(number, size)
        load.fetch(store.port, "/good/a/{n}", number, size)
    get = workers.run(Phase("GET", store.port, "/good/a/{n}", size, 2, 0.0, numbers=put.numbers))
    assert get.count == 2  # one each: there was no time for more
    assert get.rate > 0 and get.cpu >= 0


def test_targets_are_asked_for_once_each(store: _Store, workers: Load) -> None:
    targets = [f"/good/b/{n}?x=1" for n in range(7)]
    put = workers.run(Phase("PUT", store.port, "", 10, 3, 0.0, targets=targets))
    assert put.numbers == list(range(7))
    assert {store.objects[target] for target in targets} == {payload.content(n, 10) for n in range(7)}


def test_numbers_go_on_from_the_first(store: _Store, workers: Load) -> None:
    assert workers.run(Phase("PUT", store.port, "/good/c/{n}", 0, 4, 30.0, first=100, most=6)).numbers == list(range(100, 106))


def test_a_get_without_numbers_does_nothing(store: _Store, workers: Load) -> None:
    assert workers.run(Phase("GET", store.port, "/good/{n}", 10, 2, 1.0)).count == 0


@pytest.mark.parametrize(
    ("method", "target", "size", "said"),
    [("PUT", "/full/{n}", 10, "status 507"), ("GET", "/missing/{n}", 10, "status 404"),
     ("GET", "/good/d/{n}", 11, "10 bytes where 11"), ("GET", "/short/d/{n}", 10, "9 bytes where 10")],
)  # fmt: skip
def test_a_bad_answer_ends_the_phase_and_not_the_workers(
    store: _Store, workers: Load, method: str, target: str, size: int, said: str
) -> None:
    store.objects["/good/d/0"] = payload.content(0, 10)
    with pytest.raises(LoadFailed, match=said):
        workers.run(Phase(method, store.port, target, size, 2, 5.0, numbers=[0]))
    assert workers.run(Phase("PUT", store.port, "/good/e/{n}", 1, 2, 30.0, most=2)).count == 2


def test_nobody_listening_is_a_failure(workers: Load) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(LoadFailed, match="PUT /x"):
        workers.run(Phase("PUT", port, "/x", 1, 2, 1.0))


def test_a_connection_that_is_closed_is_a_failure(workers: Load) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def hang_up() -> None:
        for answer in (b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nabc"):
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=hang_up)
    thread.start()
    with listener:
        for said in ("closed instead", "early"):
            with pytest.raises(LoadFailed, match=said):
                workers.run(Phase("GET", listener.getsockname()[1], "/x", 5, 1, 1.0, numbers=[1]))
        thread.join()


def test_other_bytes_are_noticed(store: _Store) -> None:
    store.objects["/good/f/3"] = payload.content(3, 50)
    load.fetch(store.port, "/good/f/{n}", 3, 50)
    for target, size, said in (("/other/f/{n}", 50, "other bytes"), ("/good/f/{n}", 49, "more than"),
                               ("/good/f/{n}", 51, "other bytes"), ("/gone/{n}", 1, "404")):  # fmt: skip
        with pytest.raises(LoadFailed, match=said):
            load.fetch(store.port, target, 3, size)


def test_json_calls_report_what_they_were_answered(store: _Store) -> None:
    assert load.call_json(store.port, "PUT", "/good/json", {"a": 1}) == {}
    with pytest.raises(LoadFailed, match="answered 404"):
        load.call_json(store.port, "GET", "/nothing")


def test_an_answer_that_is_no_http_is_a_failure() -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def babble() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            connection.sendall(b"hello\r\n\r\n")

    thread = threading.Thread(target=babble)
    thread.start()
    with listener, pytest.raises(LoadFailed, match="BadStatusLine"):
        load.call_json(listener.getsockname()[1], "GET", "/")
    thread.join()


def test_heads_are_read_whatever_the_case_of_their_names() -> None:
    assert load.parse_head(b"HTTP/1.1 200 OK\r\nCONTENT-length: 12\r\nX: y") == (200, 12)
    assert load.parse_head(b"HTTP/1.1 201 Created\r\nDate: now\r\nContent-Length:0") == (201, 0)
    assert load.parse_head(b"HTTP/1.1 204 No Content\r\nDate: now") == (204, 0)
    with pytest.raises(LoadFailed, match="without Content-Length"):
        load.parse_head(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked")


def test_the_order_of_reads_is_the_same_every_time() -> None:
    first, second, other = list(range(50)), list(range(50)), list(range(50))
    load.random_order(first, 1)
    load.random_order(second, 1)
    load.random_order(other, 2)
    assert first == second != other
    assert sorted(first) == list(range(50))


def test_payloads_differ_between_objects_and_within_one() -> None:
    assert payload.content(1, 4096) != payload.content(2, 4096)
    long = payload.content(7, 9 << 20)
    assert len(long) == 9 << 20
    blocks = [long[n : n + (1 << 20)] for n in range(0, 9 << 20, 1 << 20)]
    assert len(set(blocks)) == len(blocks)
    assert b"".join(payload.pieces(7, 5, 3 << 20)) == long[5 : 3 << 20]


def test_workers_end_with_the_load() -> None:
    before = set(multiprocessing.active_children())
    with Load(2):
        started = set(multiprocessing.active_children()) - before
        assert len(started) == 2
    assert not any(process.is_alive() for process in started)
