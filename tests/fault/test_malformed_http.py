"""T11: any bytes at all give a clean HTTP error or a closed connection, never a smuggled request.

Each case writes bytes to a server in this process and ends its side. The body of every malformed
request is itself a request for `/smuggled`, whose handler counts its calls. `FUZZ_CASES` (and
`LONG=1`) choose how many mutations are tried; `SEED` replays a run.
"""

from __future__ import annotations

import logging
import os
import pathlib
import random
import re
import socket
import threading
import tracemalloc
from collections.abc import Iterator

import pytest

from dfs.errors import DfsError
from dfs.wire.client import HttpClient, ResponseLimits, TransportError
from dfs.wire.deadline import Deadline
from dfs.wire.head import HeadLimits, parse_request_head, parse_response_head
from dfs.wire.limits import Limits
from dfs.wire.link import FramingError
from dfs.wire.message import Request, Response, parse_json_object
from dfs.wire.route import Route
from dfs.wire.server import HttpServer

CASES = int(os.environ.get("FUZZ_CASES", "2000000" if os.environ.get("LONG") == "1" else "20000"))
SEED = int(os.environ.get("SEED", "1"))
PATIENCE = 20.0

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: h\r\n"
N = b"%d" % len(SMUGGLED)


class Target:
    """A server whose handlers count what reaches them."""

    def __init__(self) -> None:
        self.smuggled = 0
        self.echoed = 0
        routes = [
            Route("GET", "/smuggled", self._smuggled),
            Route("GET", "/", lambda request: Response.text(200, "root")),
            Route("POST", "/echo", self._echo, 1 << 16),
            Route("PUT", "/files/{path+}", self._echo, None),
            Route(
                "POST",
                "/json",
                lambda request: Response.json(200, parse_json_object(request.body.read_all(1000))),
                1000,
            ),
            Route("GET", "/stream", lambda request: Response(200, [], iter((b"abc", b"def")), None)),
        ]
        limits = Limits(head_seconds=5, idle_seconds=5, stall_seconds=5, drain_seconds=5, workers=16)
        self.server = HttpServer(("127.0.0.1", 0), routes, limits=limits)
        self.server.start()

    def _smuggled(self, request: Request) -> Response:
        self.smuggled += 1
        return Response.text(200, "smuggled")

    def _echo(self, request: Request) -> Response:
        self.echoed += 1
        return Response(200, [], request.body.read_all(1 << 16))

    def say(self, data: bytes) -> bytes:
        """Send `data` and our end; everything that comes back until the server's end."""
        with socket.create_connection(("127.0.0.1", self.server.port), timeout=PATIENCE) as sock:
            found = b""
            try:
                sock.sendall(data)
                sock.shutdown(socket.SHUT_WR)
                while more := sock.recv(65536):
                    found += more
            except (ConnectionResetError, BrokenPipeError):
                pass
            return found


class Complaints(logging.Handler):
    """What the server logged as its own failure."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.records: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(f"{record.getMessage()} {getattr(record, 'fields', '')} {record.exc_info}")


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    made = Target()
    yield made
    made.server.close()


@pytest.fixture
def complaints() -> Iterator[list[str]]:
    handler = Complaints()
    logger = logging.getLogger("dfs")
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


def fields(*lines: bytes, start: bytes = POST) -> bytes:
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + SMUGGLED


CL = b"Content-Length: "
TE = b"Transfer-Encoding: "
CHUNKED = POST + TE + b"chunked\r\n\r\n"

# Requests that must be refused whole: nothing reaches a handler.
REFUSED: list[bytes] = [
    # lengths
    *(fields(CL + value) for value in (
        b"-5", b"+5", b"5, 5", b"5,5", b"5;", b"5 5", b"1_0", b"0x10", b"", b" ", b"5.0", b"1e1", b"\xb2", b"\xef\xbc\x95", b"five", b"5\t5",
        b"'5'", b'"5"', b"9" * 19, b"9" * 100, b"9" * 5000, b"18446744073709551616", b"--1", b"5\x0b", b"5\x0c", b"5\x85", b"\xa05",
    )),
    fields(CL + N, CL + N), fields(CL + b"0", CL + N), fields(CL + N, CL + b"0"), fields(CL + b"5", b"content-length: 35"),
    fields(b"Content-Length : " + N), fields(b"Content-Length\t: " + N), fields(b" Content-Length: " + N), fields(b"\tContent-Length: " + N),
    fields(b"Content_Length: 5", b"Content-Length:  5 5"), fields(b"Content-Length"), fields(b"Content-Length 5"), fields(b": 5"),
    fields(b"Content-Length\0: 5"), fields(b"Content-Length: 5\0"), fields(b"Content-Length:\r\n 5"), fields(b"Content-Length: 5\r\n 0"),
    # transfer codings
    *(fields(TE + value) for value in (
        b"", b"gzip", b"identity", b"chunked, chunked", b"chunked,", b",chunked", b"chunked;q=1", b"gzip, chunked", b"chunked, gzip",
        b"x chunked", b"chunked x", b'"chunked"', b"\x0bchunked", b"chunked\x0b", b"chunke", b"chunkedd", b"chunked\0", b"xchunked", b"chunked identity",
        b"identity, chunked", b"\xa0chunked", b"chunked\x85",
    )),
    fields(TE + b"chunked", CL + N), fields(CL + N, TE + b"chunked"), fields(CL + b"0", TE + b"chunked"), fields(TE + b"chunked", TE + b"chunked"),
    fields(TE + b"chunked", TE + b"identity"), fields(TE + b"identity", CL + N), fields(b"Transfer-Encoding : chunked"),
    fields(b" Transfer-Encoding: chunked"), fields(b"Transfer-Encoding\r\n: chunked"), fields(b"Transfer-Encoding:\r\n chunked"),
    fields(b"X: y\rTransfer-Encoding: chunked"), fields(b"X: y\nTransfer-Encoding: chunked"), fields(b"Transfer\xadEncoding: chunked", b"X : y"),
    fields(TE + b"chunked", start=b"POST /echo HTTP/1.0\r\nHost: h\r\n"),
    # hosts
    b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n",
    *(b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n" for host in (
        b"", b"a b", b"a/b", b"a@b", b"a?b", b"a#b", b"a:b", b"a:", b"a:99999", b"[::1", b"::1", b"[zz]", b"a,b", b"\xe9", b"http://a", b"a\\b", b"a\0",
        b"a%00", b"<a>", b"a;b", b"-",
    )),
    # request lines
    b"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1\nHost: h\n\n", b"GET / HTTP/1.1\r\nHost: h\n\r\n", b"GET / HTTP/1.1\rHost: h\r\r",
    b"GET / HTTP/1.1\r\nHost: h\r\n\n", b"GET / HTTP/1.1\r\r\nHost: h\r\n\r\n", b"GET  / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /  HTTP/1.1\r\nHost: h\r\n\r\n",
    b"GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /\tHTTP/1.1\r\nHost: h\r\n\r\n", b" GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"GET / HTTP/1.1 \r\nHost: h\r\n\r\n",
    b"GET /\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/1.1 x\r\nHost: h\r\n\r\n", b"GET / x HTTP/1.1\r\nHost: h\r\n\r\n", b"G\0T / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"G@T / HTTP/1.1\r\nHost: h\r\n\r\n", b"\xe9 / HTTP/1.1\r\nHost: h\r\n\r\n", b"(GET) / HTTP/1.1\r\nHost: h\r\n\r\n", b"A" * 40 + b" / HTTP/1.1\r\nHost: h\r\n\r\n",
    *(b"GET / " + version + b"\r\nHost: h\r\n\r\n" for version in (
        b"HTTP/1.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/0.9", b"HTTP/1", b"HTTP/1.", b"HTTP/.1", b"HTTP/11", b"HTTP/1.10", b"HTTP/01.1", b"http/1.1",
        b"HTTP/+1.1", b"HTTP/1.-1", b"HTTP/1,1", b"HTTP 1.1", b"HTTPS/1.1", b"HTTP/1.1\0", b"HTTP/\xb2.1", b"FTP/1.1", b"",
    )),
    *(b"GET " + path + b" HTTP/1.1\r\nHost: h\r\n\r\n" for path in (
        b"*", b"h:80", b"x", b"..", b"?", b"#", b"/#", b"/a#b", b"/\x00", b"/\x7f", b"/\xff", b"/\xc3\xa9", b"/a\\\x01", b"http://", b"http://x/", b"https://h/",
        b"ftp://h/", b"//h\r", b"/%", b"/%zz", b"/%f", b"/files/%ff", b"/?%", b"/?a=%ff", b"/?a=%C0%AF", b"/?" + b"a=1&" * 101, b"h/", b"\\", b"http:/h/",
    )),
    b"CONNECT h:80 HTTP/1.1\r\nHost: h\r\n\r\n", b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", b"TRACE / HTTP/1.1\r\nHost: h\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"SSH-2.0-OpenSSH_9\r\n", b"EHLO x\r\n\r\n", b"\0" * 100, b"\xff" * 100,
    b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: h\r\n\r\n", b"GET /" + b"a" * 70_000, b"a" * 70_000,
    # other fields
    *(fields(line) for line in (
        b"X", b"X Y: z", b"X\x00: y", b"X: \x00", b"X: \x01", b"X: \x7f", b"X: \x1b[0m", b"X\xe9: y", b"(X): y", b"X: y\r", b"X: y\rZ: 1", b"X: y\nZ: 1",
        b"X@: y", b"[X]: y", b"X,Y: z", b"X;: y", b"{X}: y", b"=: y", b'"X": y', b"\\: y", b"X\t: y", b"X: y\r\n folded", b"X: y\r\n\tfolded", b"X: y\r\n \r\n",
        b"X: " + b"a" * 17_000, b"X: " + b"a" * 40_000, b"a" * 300 + b": b", b"Expect: 200-ok", b"Expect: 100-continue, x", b"Expect:",
    )),
    fields(*[b"X: y"] * 101), fields(*[b"X: " + b"y" * 500] * 70), POST + b"X: y\r\n" * 20_000 + b"\r\n", fields(b"Expect: 100-continue", b"Expect: 100-continue"),
]  # fmt: skip

# Requests whose head is fine but whose chunked body is not.
BAD_CHUNKS: list[bytes] = [CHUNKED + rest + SMUGGLED for rest in (
    b"x\r\n", b"-1\r\n", b"+1\r\na\r\n0\r\n\r\n", b"0x1\r\na\r\n0\r\n\r\n", b" 1\r\na\r\n0\r\n\r\n", b"1 \r\na\r\n0\r\n\r\n", b"\r\n", b"\n", b"1\na\n0\n\n",
    b"1\r\nab\r\n0\r\n\r\n", b"2\r\na\r\n0\r\n\r\n", b"1\r\na0\r\n\r\n", b"1\r\na\n0\r\n\r\n", b"1\r\na\r0\r\n\r\n", b"1_0\r\n", b"\xb2\r\n", b"f" * 16 + b"\r\n",
    b"0" * 20 + b"\r\n\r\n", b"1;\0\r\na\r\n0\r\n\r\n", b"1;a\nb\r\na\r\n0\r\n\r\n", b"1;a\rb\r\na\r\n0\r\n\r\n", b"1;" + b"a" * 5000 + b"\r\na\r\n0\r\n\r\n",
    b"0\r\nX\r\n\r\n", b"0\r\nX : y\r\n\r\n", b"0\r\n X: y\r\n\r\n", b"0\r\nX: y\n\r\n", b"0\r\nX: \0\r\n\r\n", b"0\r\n" + b"X: y\r\n" * 200 + b"\r\n",
    b"0\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", b"0\n\n", b"0\r\n\n", b"0;\0\r\n\r\n", b"1,1\r\na\r\n", b"g\r\n", b"1;\x7f\r\n", b"7fffffff;x", b"1" * 300,
    b"20000\r\n" + b"a" * 0x20000 + b"\r\n0\r\n\r\n",
)]  # fmt: skip


def answers(data: bytes) -> list[int]:
    """The statuses in `data`, which must be whole HTTP answers one after the other."""
    found = []
    while data:
        head, mark, data = data.partition(b"\r\n\r\n")
        match = re.match(rb"HTTP/1\.1 ([1-5][0-9]{2}) [A-Za-z -]*\r\n", head + b"\r\n")
        assert mark and match, head
        found.append(int(match[1]))
        length = re.search(rb"\r\nContent-Length: ([0-9]+)", head)
        if length:
            assert len(data) >= int(length[1])
            data = data[int(length[1]) :]
    return found


def test_the_corpus_is_as_large_as_promised() -> None:
    assert len({*REFUSED, *BAD_CHUNKS}) >= 150


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_a_malformed_request_is_refused_and_nothing_behind_it_is_served(
    target: Target, complaints: list[str], number: int
) -> None:
    smuggled, echoed = target.smuggled, target.echoed
    found = answers(target.say(REFUSED[number]))
    assert len(found) <= 1 or REFUSED[number].count(b"\r\n\r\n") == len(found), found
    assert found or b"\r\n\r\n" not in REFUSED[number]  # half a head and the end: nobody is there to answer
    assert all(400 <= status < 600 and status != 500 for status in found), found
    assert (target.smuggled, target.echoed, complaints) == (smuggled, echoed, [])


@pytest.mark.parametrize("number", range(len(BAD_CHUNKS)))
def test_a_malformed_body_is_refused_and_nothing_behind_it_is_served(
    target: Target, complaints: list[str], number: int
) -> None:
    smuggled = target.smuggled
    found = answers(target.say(BAD_CHUNKS[number]))
    assert len(found) == 1 and found[0] in (400, 413), found
    assert (target.smuggled, complaints) == (smuggled, [])


def test_an_unread_body_is_not_the_next_request(target: Target) -> None:
    smuggled = target.smuggled
    for method in (b"GET / ", b"GET /nope ", b"DELETE /echo ", b"PUT /nope "):
        found = answers(target.say(method + b"HTTP/1.1\r\nHost: h\r\n" + CL + N + b"\r\n\r\n" + SMUGGLED))
        assert len(found) == 1 and found[0] in (404, 405, 413)
    assert target.smuggled == smuggled


GOOD = [
    b"GET / HTTP/1.1\r\nHost: h\r\n\r\n",
    POST + CL + N + b"\r\n\r\n" + SMUGGLED,
    POST + TE + b"chunked\r\n\r\n" + b"%x;a=b\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\nX: y\r\n\r\n",
    b"PUT /files/a%20b?x=%41 HTTP/1.1\r\nHost: [::1]:80\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /json HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 18\r\n\r\n" + b'{"a": [1, 2, "x"]}',
    b"GET /stream HTTP/1.1\r\nHost: h\r\nConnection: close\r\nAccept: */*\r\nUser-Agent: fuzz/1.0\r\n\r\n",
]
DICTIONARY = [
    b"\r\n", b"\n", b"\r", b"\0", b":", b" ", b"\t", b"\r\n\r\n", b"Content-Length: 5\r\n", b"Content-Length: 0\r\n", b"Transfer-Encoding: chunked\r\n",
    b"Host: h\r\n", b"chunked", b"0\r\n\r\n", b"-", b"+", b"HTTP/1.1", b"HTTP/1.0", b"%", b"%00", b"\xff", b";", b",", b"Connection: close\r\n", b"{", b"[" * 50,
    b"9" * 30, b"1e999", b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"A" * 2000, b"Expect: 100-continue\r\n", b'"', b"\\ud800",
]  # fmt: skip


def mutate(rng: random.Random, data: bytes) -> bytes:
    made = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        at = rng.randrange(len(made) + 1)
        kind = rng.randrange(7)
        if kind == 0 and at < len(made):
            made[at] = rng.randrange(256)
        elif kind == 1:
            made[at:at] = rng.choice(DICTIONARY)
        elif kind == 2:
            del made[at : at + rng.choice((1, 1, 2, 5, 20))]
        elif kind == 3:
            made[at : at + 20] = made[at : at + 20] * 2
        elif kind == 4 and at < len(made):
            made[at] ^= 1 << rng.randrange(8)
        elif kind == 5:
            made[at : at + rng.randrange(8)] = rng.choice(DICTIONARY)
        elif at:
            del made[at:]
    return bytes(made)


def strict_reading(data: bytes) -> int:
    """How many requests for /smuggled stand in `data` on the outside, by a reading of the rules of its own.

    Bodies are passed over by their declared length or their chunks; the first thing that is not
    exactly by the rules ends the reading.
    """
    count = 0
    while data:
        if data.startswith(b"\r\n"):
            data = data[2:]
        head, mark, data = data.partition(b"\r\n\r\n")
        if not mark:
            return count
        lines = head.split(b"\r\n")
        if b"/smuggled " in lines[0] + b" ":
            count += 1
        names = {line.partition(b":")[0].lower(): line.partition(b":")[2].strip(b" \t") for line in lines[1:]}
        if b"transfer-encoding" in names:
            while True:
                size, mark, data = data.partition(b"\r\n")
                match = re.match(rb"[0-9a-fA-F]+", size)
                if not mark or not match:
                    return count
                length = int(match[0], 16)
                if not length:
                    while data and not data.startswith(b"\r\n"):
                        data = data.partition(b"\r\n")[2]
                    data = data[2:]
                    break
                data = data[length + 2 :]
        elif names.get(b"content-length", b"0").isdigit():
            data = data[int(names.get(b"content-length", b"0")) :]
        else:
            return count
    return count


def open_files() -> int:
    """Descriptors of this process, 0 where the system does not list them."""
    listing = pathlib.Path("/proc/self/fd")
    return len(list(listing.iterdir())) if listing.is_dir() else 0


def test_mutated_requests_do_no_harm(complaints: list[str]) -> None:
    """Over real connections, each mutation on one of its own."""
    cases = min(CASES, max(20_000, CASES // 10))
    files_before = open_files()
    target = Target()
    print(f"seed {SEED}, {cases} cases (SEED={SEED} FUZZ_CASES={CASES})")
    threads_before = threading.active_count()
    peak = 0
    for number in range(cases):
        rng = random.Random(f"{SEED}:wire:{number}")
        data = mutate(rng, rng.choice(GOOD) + (rng.choice(GOOD) if rng.random() < 0.3 else b""))
        smuggled = target.smuggled
        found = target.say(data)
        assert not found or found.startswith(b"HTTP/1.1 "), (number, data, found)
        assert target.smuggled - smuggled <= strict_reading(data), (number, data, found)
        assert complaints == [], (number, data)
        if number == 100:
            tracemalloc.start()
            peak = tracemalloc.get_traced_memory()[0]
    grown = tracemalloc.get_traced_memory()[0] - peak
    tracemalloc.stop()
    assert grown < 4_000_000, f"{grown} bytes more after {cases} cases"
    assert threading.active_count() <= threads_before + 17
    assert target.server.drain(PATIENCE), "a connection was left hanging"
    target.server.close()
    assert not [thread for thread in threading.enumerate() if f"-{target.server.port}" in thread.name]
    assert open_files() <= files_before


def test_mutated_heads_parse_or_are_refused() -> None:
    """The parsers of requests, answers and JSON, without a connection: either a value or their own error."""
    limits = HeadLimits()
    response = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\nX-Y: z\r\n\r\n"
    chunked = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n"
    document = b'{"a": [1, 2.5, {"b": "\\u00e9"}], "c": null, "d": -1e5}'
    print(f"seed {SEED}, {CASES} cases (SEED={SEED} FUZZ_CASES={CASES})")
    accepted = 0
    for number in range(CASES):
        rng = random.Random(f"{SEED}:parse:{number}")
        data = mutate(rng, rng.choice(GOOD)).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        try:
            head = parse_request_head(data, limits)
            accepted += 1
            assert not re.search(rb"\0|(?<!\r)\n|\r[^\n]|\r\n[ \t]", data), (number, data)
            assert data.lower().count(b"\ncontent-length:") <= 1 and data.lower().count(b"\nhost:") <= 1, (
                number,
                data,
            )
            assert not (head.framing.chunked and head.framing.length is not None), (number, data)
        except DfsError:
            pass
        data = mutate(rng, rng.choice((response, chunked))).partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        try:
            answer = parse_response_head(data, limits)
            assert 100 <= answer.status <= 599
            assert data.lower().count(b"\ncontent-length:") <= 1, (number, data)
        except FramingError:
            pass
        try:
            parse_json_object(mutate(rng, document))
        except DfsError:
            pass
    assert accepted > CASES // 20


def test_mutated_answers_never_look_complete_when_they_are_not() -> None:
    """Our client against a peer that answers with mutations: the whole body, or one of its own errors."""
    body = b"0123456789" * 20
    good = [
        b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n" + body,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n64;x=y\r\n"
        + body[:100]
        + b"\r\n64\r\n"
        + body[100:]
        + b"\r\n0\r\nX: y\r\n\r\n",
        b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 200\r\nConnection: close\r\n\r\n"
        + body,
    ]
    cases = max(100, CASES // 20)
    scripts: list[bytes] = []
    for number in range(cases):
        rng = random.Random(f"{SEED}:answer:{number}")
        scripts.append(
            mutate(rng, rng.choice(good)) if number % 3 else rng.choice(good)[: rng.randrange(200)]
        )
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)

    def play() -> None:
        for script in scripts:
            sock, _ = listener.accept()
            with sock:
                sock.settimeout(PATIENCE)
                try:
                    while b"\r\n\r\n" not in sock.recv(65536):
                        pass
                    sock.sendall(script)
                except OSError:
                    continue

    player = threading.Thread(target=play)
    player.start()
    client = HttpClient(limits=ResponseLimits(read_bytes=10_000), max_idle_per_host=0)
    whole = 0
    for number, script in enumerate(scripts):
        try:
            with client.request(
                "127.0.0.1",
                listener.getsockname()[1],
                "GET",
                "/",
                deadline=Deadline(PATIENCE),
                stall=PATIENCE,
            ) as answer:
                found = answer.read()
            length = answer.headers.get("content-length")
            assert length is None or answer.status in (204, 304) or len(found) == int(length), (
                number,
                script,
            )
            assert length is not None or answer.status >= 400 or b"0" in script or not found, (number, script)
            whole += 1
        except TransportError:
            pass
    player.join(PATIENCE)
    listener.close()
    assert not player.is_alive() and whole > cases // 10
