"""The admin commands' connection: several servers, one error tree, exit codes."""

from __future__ import annotations

import json
from collections import deque
from typing import Any

import pytest

from dfs.admin.server import Server
from dfs.client.failures import LocalFailure, Unreachable
from dfs.errors import NotFound, Refused, SettingsError, Unavailable, Unknown
from dfs.wire.client import ConnectFailed, ConnectionLost
from tests.unit.client.fakes import FakeAnswer


class Wire:
    """A transport that plays a script of answers and exceptions."""

    def __init__(self, *script: object) -> None:
        self.script = deque(script)
        self.asked: list[tuple[str, str, str, bytes | None]] = []
        self.repeatable: list[bool] = []
        self.closed = False

    def request(self, host: str, port: int, method: str, target: str, **named: Any) -> FakeAnswer:
        self.asked.append((host, method, target, named["body"]))
        self.repeatable.append(named["repeatable"])
        found = self.script.popleft()
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, FakeAnswer)
        return found

    def close(self) -> None:
        self.closed = True


def answer(value: object, status: int = 200) -> FakeAnswer:
    return FakeAnswer(status, body=json.dumps(value).encode())


def error(status: int, code: str, **more: object) -> FakeAnswer:
    return answer({"error": {"code": code, "message": f"it is {code}", "retryable": False, **more}}, status)


def server(wire: Wire, urls: str = "http://a:1,http://b:2") -> Server:
    return Server(urls, transport=wire)


def test_an_answer_is_an_object_and_a_body_is_json() -> None:
    wire = Wire(answer({"x": 1}), answer({}))
    with server(wire) as made:
        assert made.call("GET", "/status") == {"x": 1}
        assert made.call("POST", "/admin/repair?plan=1", body={"a": 2}) == {}
    assert wire.asked == [("a", "GET", "/status", None), ("a", "POST", "/admin/repair?plan=1", b'{"a": 2}')]
    assert wire.repeatable == [True, False] and wire.closed


def test_the_next_server_is_asked_and_stays_the_first() -> None:
    wire = Wire(ConnectFailed("refused"), answer({}), answer({}))
    made = server(wire)
    made.call("GET", "/status")
    made.call("GET", "/status")
    assert [host for host, *_ in wire.asked] == ["a", "b", "b"] and made.url == "http://b:2"


def test_a_server_that_did_nothing_is_no_reason_to_give_up() -> None:
    wire = Wire(error(503, "unavailable"), answer({"done": True}))
    assert server(wire).call("POST", "/admin/nodes/n1/drain") == {"done": True}


def test_when_nobody_answers_the_first_failure_is_told() -> None:
    with pytest.raises(Unreachable, match="refused"):
        server(Wire(ConnectFailed("refused"), ConnectionLost("reset"))).call("GET", "/status")


def test_a_lost_answer_to_a_change_is_unknown_and_not_sent_elsewhere() -> None:
    wire = Wire(ConnectionLost("reset"))
    with pytest.raises(Unknown, match="outcome is not known"):
        server(wire).call("POST", "/admin/nodes/n1/drain")
    assert len(wire.asked) == 1


@pytest.mark.parametrize(("method", "kind"), [("GET", Unavailable), ("POST", Unknown)])
def test_an_answer_that_breaks_off(method: str, kind: type[Exception]) -> None:
    broken = answer({"long": "x" * 100})
    broken.cut = 10
    with pytest.raises(kind, match="broke off"):
        server(Wire(broken)).call(method, "/status")
    assert broken.closed


def test_refusals_keep_their_reasons() -> None:
    with pytest.raises(Refused) as caught:
        server(Wire(error(409, "refused", reasons=["one", "two"]))).call("POST", "/x")
    assert caught.value.details == {"reasons": ["one", "two"]}
    with pytest.raises(NotFound):
        server(Wire(error(404, "not_found"))).call("GET", "/x")


@pytest.mark.parametrize("body", [b"<html>", b"[1]"])
def test_what_is_no_object_of_ours(body: bytes) -> None:
    with pytest.raises(LocalFailure, match="is that URL a dfs API server"):
        server(Wire(FakeAnswer(200, body=body))).call("GET", "/status")


def test_urls_that_name_nothing() -> None:
    with pytest.raises(SettingsError):
        Server("ftp://x")
