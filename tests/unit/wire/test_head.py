from __future__ import annotations

import pytest

from dfs.errors import DfsError, HeadersTooLarge
from dfs.wire.head import (
    REMEMBERED,
    HeadLimits,
    RequestHeads,
    parse_fields,
    parse_request_head,
    parse_response_head,
)
from dfs.wire.link import FramingError

LIMITS = HeadLimits(line_bytes=1000, lines=10)


def status(head: bytes) -> int:
    """What a request head is refused with, 200 when it is not."""
    try:
        parse_request_head(head + b"\r\n\r\n", LIMITS)
    except DfsError as error:
        return error.status
    return 200


H = b"\r\nHost: h"


def test_a_head_is_taken_apart() -> None:
    head = parse_request_head(
        b"PUT /a?b HTTP/1.1\r\nhOST: h:80\r\nContent-Length:5\r\nConnection: x , Close\r\nExpect: 100-Continue\r\nX:\t \r\n\r\n",
        LIMITS,
    )
    assert (head.method, head.target, head.version, head.host) == ("PUT", "/a?b", 1, "h:80")
    assert (head.framing.length, head.framing.chunked, head.persistent, head.expects_continue) == (
        5,
        False,
        False,
        True,
    )


@pytest.mark.parametrize(
    ("head", "persistent"),
    [
        (b"GET / HTTP/1.1" + H, True),
        (b"GET / HTTP/1.1" + H + b"\r\nConnection: close", False),
        (b"GET / HTTP/1.0", False),
        (b"GET / HTTP/1.0\r\nConnection: Keep-Alive", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive, close", False),
    ],
)
def test_persistence(head: bytes, persistent: bool) -> None:
    assert parse_request_head(head + b"\r\n\r\n", LIMITS).persistent is persistent


@pytest.mark.parametrize(
    ("head", "expected"),
    [
        (b"GET / HTTP/1.1" + H + b"\r\nTransfer-Encoding: Chunked", 200),
        (b"GET / HTTP/1.0\r\nExpect: something", 200),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: 000", 200),
        (b"GET / HTTP/1.1" + H + b"\r\nX: \x80\xff\t", 200),
        (b"GET / HTTP/1.1", 400),
        (b"GET / HTTP/1.1\r\nHost:", 400),
        (b"GET / HTTP/1.1\r\nHost: a/b", 400),
        (b"GET / HTTP/1.0\r\nHost: a/b", 400),
        (b"GET / HTTP/1.1" + H + H, 400),
        (b"GET  / HTTP/1.1" + H, 400),
        (b"GET / HTTP/1.1 " + H, 400),
        (b" GET / HTTP/1.1" + H, 400),
        (b"GET\t/ HTTP/1.1" + H, 400),
        (b"GET /", 400),
        (b"", 400),
        (b"G(T / HTTP/1.1" + H, 400),
        (b"G" * 33 + b" / HTTP/1.1" + H, 400),
        (b"GET /\x7f HTTP/1.1" + H, 400),
        (b"GET /\xc3\xa9 HTTP/1.1" + H, 400),
        (b"GET / http/1.1" + H, 400),
        (b"GET / HTTP/11.1" + H, 400),
        (b"GET / HTTP/1.9" + H, 505),
        (b"GET / HTTP/2.0" + H, 505),
        (b"GET / HTTP/0.9" + H, 505),
        (b"GET /" + b"a" * 1000 + b" HTTP/1.1" + H, 414),
        (b"GET / HTTP/1.1" + H + b"\r\nX: " + b"a" * 1000, 431),
        (b"GET / HTTP/1.1" + H + b"\r\nX: a" * 10, 431),
        (b"GET / HTTP/1.1" + H + b"\r\nX : a", 400),
        (b"GET / HTTP/1.1" + H + b"\r\n X: a", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nX: a\r\n b", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nX", 400),
        (b"GET / HTTP/1.1" + H + b"\r\n: a", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nX: a\nY: b", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nX: a\rY: b", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nX: \0", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nX: \x7f", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nX\xe9: a", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: 5\r\nContent-Length: 5", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: 5, 5", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: +5", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: -5", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: 1_0", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: 0x5", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length:", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: \xb2", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: 1234567890123456789", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nTransfer-Encoding: chunked, chunked", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nTransfer-Encoding: identity", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nTransfer-Encoding: gzip", 501),
        (b"GET / HTTP/1.1" + H + b"\r\nTransfer-Encoding:", 400),
        (b"GET / HTTP/1.1" + H + b'\r\nTransfer-Encoding: "chunked"', 400),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked", 400),
        (b"GET / HTTP/1.1" + H + b"\r\nExpect: other", 417),
        (b"GET / HTTP/1.1" + H + b"\r\nExpect: 100-continue\r\nExpect: 100-continue", 400),
    ],
)  # fmt: skip
def test_request_heads(head: bytes, expected: int) -> None:
    assert status(head) == expected


def test_heads_made_to_cost_time_are_refused() -> None:
    limits = HeadLimits()
    for block in (b"a" * 32_000, b"a: b\r\n" * 5000 + b"\0", b"a:" + b" " * 32_000 + b"\0", b"a: \t" * 8000):
        with pytest.raises((FramingError, HeadersTooLarge)):
            parse_fields(block, limits)


@pytest.mark.parametrize(
    "line", [b"HTTP/1.1 200 OK", b"HTTP/1.0 404 ", b"HTTP/1.1 599 \xe9 x", b"HTTP/1.1 100 Continue"]
)
def test_status_lines(line: bytes) -> None:
    assert parse_response_head(line + b"\r\nContent-Length: 1\r\n\r\n", LIMITS).framing.length == 1


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200", b"HTTP/1.1 20 OK", b"HTTP/1.1 2000 OK", b"HTTP/1.1 600 X", b"HTTP/1.1 099 X", b"HTTP/2.0 200 OK",
        b"http/1.1 200 OK", b" HTTP/1.1 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1 200 O\0K", b"HTTP/1.1 +20 OK", b"",
        b"HTTP/1.1 200 OK\r\nX : a", b"HTTP/1.1 200 OK\r\n X: a", b"HTTP/1.1 200 OK\r\nX: a\r\n b",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1", b"HTTP/1.1 200 OK\r\nContent-Length: -1",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked", b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip", b"HTTP/1.1 200 OK" + b"\r\na: b" * 11,
    ],
)  # fmt: skip
def test_malformed_response_heads(head: bytes) -> None:
    with pytest.raises(FramingError):
        parse_response_head(head + b"\r\n\r\n", LIMITS)


def test_what_is_remembered_of_a_head_is_what_its_bytes_say() -> None:
    heads = RequestHeads(LIMITS)
    keep = b"\r\nHost: h\r\nX: 1\r\nConnection: x\r\n\r\n"
    first = heads.parse(b"GET /a HTTP/1.1" + keep)
    again = heads.parse(b"PUT /b HTTP/1.1" + keep)
    old = heads.parse(b"GET /c HTTP/1.0" + keep)
    assert [(each.method, each.target, each.version, each.persistent) for each in (first, again, old)] == [
        ("GET", "/a", 1, True),
        ("PUT", "/b", 1, True),
        ("GET", "/c", 0, False),
    ]
    assert first.headers is again.headers and first.headers is not old.headers
    assert (again.headers.get("x"), again.headers.get_all("X"), again.headers.get("Y", "no")) == ("1", ["1"], "no")
    for line in (b"GET /a HTTP/2.0", b"GET  /a HTTP/1.1", b"GET /" + b"a" * 1000 + b" HTTP/1.1"):
        with pytest.raises(DfsError):
            heads.parse(line + keep)
    for block in (b"\r\nHost: h\r\nHost: h\r\n\r\n", b"\r\nHost: h\r\nX : 1\r\n\r\n", b"\r\n\r\n"):
        for _ in range(2):
            with pytest.raises(DfsError):
                heads.parse(b"GET /a HTTP/1.1" + block)
    assert heads.parse(b"GET /a HTTP/1.0\r\n\r\n").host is None


@pytest.mark.parametrize(
    "fields", [b"Content-Length: 5", b"Transfer-Encoding: chunked", b"X: " + b"a" * 990, b"X: %d"]
)
def test_only_short_blocks_of_requests_without_a_body_are_remembered_and_not_many(fields: bytes) -> None:
    heads = RequestHeads(HeadLimits())
    for number in range(2 * REMEMBERED + 5):
        line = fields % number if b"%" in fields else fields + b"\r\nY: %d" % number
        head = b"PUT /a HTTP/1.1\r\nHost: h\r\n" + line + b"\r\nZ: " + b"b" * 30 + b"\r\n\r\n"
        found = heads.parse(head)
        assert found.headers.get("Z") == "b" * 30
        same = heads.parse(head).headers is found.headers
        assert same == (fields == b"X: %d")
    assert len(heads._known) == (5 if fields == b"X: %d" else 0)
