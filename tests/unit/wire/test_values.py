"""Deadline, Pace, Due, targets, JSON, headers, responses: no sockets."""

from __future__ import annotations

import pytest

from dfs.errors import BadRequest
from dfs.wire.deadline import Deadline
from dfs.wire.message import Headers, Response, parse_json_object
from dfs.wire.pace import LONGEST_WAIT, Due, Pace, TooSlow
from dfs.wire.strict_json import parse_json
from dfs.wire.target import Query, is_host, origin_form, percent_decode


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_deadline_counts_down_and_never_below_zero() -> None:
    clock = Clock()
    deadline = Deadline(5.0, clock)
    assert (deadline.remaining(), deadline.sooner(2.0), deadline.sooner(9.0)) == (5.0, 2.0, 5.0)
    assert not deadline.expired()
    clock.now += 6.0
    assert (deadline.remaining(), deadline.sooner(2.0), deadline.expired()) == (0.0, 0.0, True)


def test_pace_refuses_a_stall_whether_others_wait_or_not() -> None:
    pace = Pace(6.0, 0.0, 100.0, lambda: False)
    pace.waited(5.0)
    pace.moved(1)
    pace.waited(5.9)
    with pytest.raises(TooSlow, match="no byte"):
        pace.waited(0.1)
    with pytest.raises(TooSlow, match="no byte"):
        pace.next_wait()


def test_pace_enforces_the_rate_only_while_others_wait() -> None:
    others: list[int] = []
    pace = Pace(60.0, 10.0, 4.0, lambda: bool(others))
    for _ in range(3):
        pace.moved(1)
        assert pace.next_wait() == 0.4
        pace.waited(4.0)
    pace.moved(40)
    others.append(1)
    pace.waited(4.0)
    pace.moved(39)
    with pytest.raises(TooSlow, match="while others wait"):
        pace.waited(4.0)
    pace.restart()
    assert pace.next_wait() == 0.4


def steps_until_cut(pace: Pace, rate: int, most: int = 1000) -> int:
    """How many seconds a peer goes on that sends `rate` bytes a second."""
    for second in range(1, most):
        pace.moved(rate)
        try:
            pace.waited(1.0)
        except TooSlow:
            return second
    return most


def test_who_was_slow_for_long_goes_as_soon_as_others_wait() -> None:
    others: list[int] = []
    pace = Pace(300.0, 16384.0, 10.0, lambda: bool(others))
    assert steps_until_cut(pace, 100, 60) == 60
    others.append(1)
    assert steps_until_cut(pace, 100) == 1


@pytest.mark.parametrize("burst", [0, 1, 15 * 16384, 1 << 30])
def test_who_becomes_slow_goes_within_a_window_and_a_step_whatever_it_sent_before(burst: int) -> None:
    pace = Pace(300.0, 16384.0, 10.0, lambda: True)
    pace.moved(burst)
    assert 10 <= steps_until_cut(pace, 100) <= 11
    pace = Pace(300.0, 16384.0, 10.0, lambda: True)
    assert steps_until_cut(pace, 16384) == 1000


def test_due_ends_by_stall_and_by_deadline_even_when_bytes_drip() -> None:
    clock = Clock()
    due = Due(Deadline(10.0, clock), 3.0)
    assert due.next_wait() == LONGEST_WAIT
    due.waited(2.5)
    assert due.next_wait() == 0.5
    with pytest.raises(TooSlow, match="no byte"):
        due.waited(0.5)
    due.moved(1)
    clock.now += 10.0
    for step in (lambda: due.waited(0.1), lambda: due.moved(1), due.next_wait):
        with pytest.raises(TooSlow, match="deadline"):
            step()


@pytest.mark.parametrize(
    ("text", "plain"),
    [("abc", "abc"), ("a%2Fb", "a/b"), ("%25%32%46", "%2F"), ("%C3%a9", "é"), ("a+b", "a+b"), ("%00", "\0")],
)
def test_percent_escapes_are_decoded_exactly_once(text: str, plain: str) -> None:
    assert percent_decode(text) == plain


@pytest.mark.parametrize(
    "text", ["%", "%1", "%zz", "a%2", "%%41", "%u0041", "%C3", "%ff", "%ED%A0%80", "%c0%af", "é%41"]
)
def test_what_cannot_be_decoded_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        percent_decode(text)


def test_query_values_come_by_name_with_plus_as_space() -> None:
    query = Query("a=1&&b=x+y%2B&c&d=")
    assert query.items == (("a", "1"), ("b", "x y+"), ("c", ""), ("d", ""))
    assert (query.get("b"), query.get("c"), query.get("e"), len(query), list(query)[0]) == (
        "x y+",
        "",
        None,
        4,
        ("a", "1"),
    )
    with pytest.raises(BadRequest, match="more than once"):
        Query("a=1&a=1").get("a")
    with pytest.raises(BadRequest):
        Query("a=%f")
    with pytest.raises(BadRequest, match="parameters"):
        Query("&".join(f"k{n}=1" for n in range(101)))


@pytest.mark.parametrize(
    "host", ["a", "a.b-c_d:80", "127.0.0.1:65535", "[::1]:8080", "[fe80::1]", "A.example"]
)
def test_hosts(host: str) -> None:
    assert is_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        " ",
        "a b",
        "a:",
        "a:65536",
        "a:-1",
        "a/b",
        "a@b",
        "[::1",
        "[zz]",
        "[1.2]",
        "::1",
        "a,b",
        "-a",
        "a:80:80",
        "é",
    ],
)
def test_no_hosts(host: str) -> None:
    assert not is_host(host)


def test_absolute_targets_must_name_the_same_host() -> None:
    assert origin_form("/a?b", "h") == "/a?b"
    assert origin_form("http://H:1/a?b", "h:1") == "/a?b"
    assert origin_form("http://h", "h") == "/"
    assert origin_form("http://h?x", None) == "/?x"
    for target, host in [
        ("http://x/a", "h"),
        ("*", "h"),
        ("h:80", "h"),
        ("/a#b", "h"),
        ("ftp://h/", "h"),
        ("http:///a", None),
    ]:
        with pytest.raises(BadRequest):
            origin_form(target, host)


def test_json_objects_are_read() -> None:
    assert parse_json_object(b' {"a": [1, 2.5, null, "\\u00e9\\ud83d\\ude00"]} ') == {
        "a": [1, 2.5, None, "é😀"]
    }


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[1]", b'"a"', b"1", b"{}x", b"{'a': 1}", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": -Infinity}',
        b'{"a": 1e999}', b'{"a": -1e999}', b'{"a": 1, "a": 2}', b'{"b": {"a": 1, "a": 1}}', b'{"a": "\xff"}',
        b'{"a": "\\ud800"}', b'{"a": ' + b"9" * 5000 + b"}", b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\xef\xbb\xbf{}", b'{"a": 01}', b'{"a": "\n"}', "{}".encode("utf-16"),
    ],
)  # fmt: skip
def test_other_json_is_refused(data: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_json_object(data)


def test_json_of_other_kinds_is_read_where_it_is_wanted() -> None:
    assert parse_json(b"[1]") == [1]


def test_headers_ignore_case_and_keep_order() -> None:
    headers = Headers([("A", "1"), ("b", "2"), ("a", "3")])
    assert (headers.get("a"), headers.get_all("A"), headers.get("x"), headers.get("x", "y")) == (
        "1",
        ["1", "3"],
        None,
        "y",
    )
    assert "B" in headers and "x" not in headers and 3 not in headers
    assert len(headers) == 3 and list(headers)[1] == ("b", "2") and "b" in repr(headers)
    assert Headers.from_raw([(b"A", b" \xe9\t")]).get("a") == "é"


def test_response_shorthands() -> None:
    made = Response.json(200, {"a": "é"}, [("X", "y")])
    assert (made.body, made.headers) == (
        '{"a":"é"}\n'.encode(),
        [("Content-Type", "application/json"), ("X", "y")],
    )
    assert Response.text(201, "é").body == "é".encode()
    assert Response.empty(204).body is None
    with pytest.raises(ValueError, match="JSON"):
        Response.json(200, {"a": float("inf")})
