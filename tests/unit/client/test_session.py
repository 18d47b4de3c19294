from __future__ import annotations

import random

import pytest

from dfs import errors
from dfs.client.endpoint import Endpoint, parse_endpoints
from dfs.client.failures import LocalFailure, Unreachable
from dfs.client.retry import RetryPolicy
from dfs.client.session import Call, Session
from dfs.client.transport import MAX_JSON, read_json, refusal
from dfs.wire.client import BadAnswer, ConnectFailed, ConnectionLost, PeerTimeout
from tests.unit.client.fakes import FakeAnswer, FakeApi, as_json


class Stage:
    """A session with a fake clock; attempts follow a script of results and exceptions."""

    def __init__(self, *script: object, urls: str = "http://a:1,http://b:2", policy: RetryPolicy | None = None) -> None:
        self.script = list(script)
        self.asked: list[str] = []
        self.waits: list[float] = []
        self.heard: list[str] = []
        self.now = 0.0
        self.cost = 0.0
        self.session = Session(
            parse_endpoints(urls),
            FakeApi(),
            timeout=10.0,
            policy=policy,
            rng=random.Random(1),
            clock=lambda: self.now,
            pause=self._pause,
            on_retry=lambda error, _: self.heard.append(error.code),
        )

    def _pause(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def attempt(self, endpoint: Endpoint) -> object:
        self.asked.append(endpoint.host)
        self.now += self.cost
        found = self.script.pop(0) if len(self.script) > 1 else self.script[0]
        if isinstance(found, Exception):
            raise found
        return found


def test_the_next_server_is_asked_at_once() -> None:
    stage = Stage(ConnectFailed("refused"), "done")
    assert stage.session.run(stage.attempt, writes=False) == "done"
    assert stage.asked == ["a", "b"] and not stage.waits


def test_the_server_that_answered_is_asked_first_the_next_time() -> None:
    stage = Stage(ConnectFailed("refused"), "done")
    stage.session.run(stage.attempt, writes=False)
    stage.session.run(stage.attempt, writes=False)
    assert stage.asked == ["a", "b", "b"]


def test_turned_away_from_a_server_the_next_call_begins_with_the_other() -> None:
    stage = Stage("done")
    stage.session.turn_away(Endpoint("http://a:1", "a", 1))
    stage.session.run(stage.attempt, writes=False)
    assert stage.asked == ["b"]


def test_after_a_round_it_waits_and_says_so() -> None:
    stage = Stage(ConnectFailed("x"), ConnectionLost("x"), "done")
    assert stage.session.run(stage.attempt, writes=False) == "done"
    assert stage.asked == ["a", "b", "a"] and len(stage.waits) == 1
    assert stage.heard == ["unavailable"]


def test_retry_after_is_honoured() -> None:
    stage = Stage(errors.Busy("b", retry_after=7), errors.Busy("b", retry_after=7), "done")
    stage.session.run(stage.attempt, writes=False)
    assert stage.waits == [7.0]


@pytest.mark.parametrize("lost", [ConnectionLost("x"), PeerTimeout("x"), BadAnswer("x")])
def test_a_lost_write_is_unknown_and_a_lost_read_unavailable(lost: Exception) -> None:
    policy = RetryPolicy(attempts=1)
    with pytest.raises(errors.Unknown):
        stage = Stage(lost, policy=policy)
        stage.session.run(stage.attempt, writes=True)
    with pytest.raises(errors.Unavailable) as caught:
        stage = Stage(lost, policy=policy)
        stage.session.run(stage.attempt, writes=False)
    assert caught.value.code == "unavailable"


def test_no_server_reached_means_nothing_was_sent() -> None:
    stage = Stage(ConnectFailed("cannot connect to a:1: [Errno 111] Connection refused"))
    with pytest.raises(Unreachable, match="^cannot connect to a:1: Connection refused$"):
        stage.session.run(stage.attempt, writes=True)
    assert 1 < len(stage.waits) and sum(stage.waits) <= 8.0


def test_once_unknown_always_unknown() -> None:
    stage = Stage(ConnectionLost("broke"), ConnectFailed("refused"), urls="http://a:1")
    with pytest.raises(errors.Unknown, match="broke.*after that: refused"):
        stage.session.run(stage.attempt, writes=True)


def test_an_unknown_outcome_is_cleared_up_by_the_repeat() -> None:
    stage = Stage(ConnectionLost("broke"), errors.ConditionFailed("no"))
    with pytest.raises(errors.ConditionFailed):
        stage.session.run(stage.attempt, writes=True)


def test_what_will_fail_again_is_raised_at_once() -> None:
    stage = Stage(errors.NotFound("n"))
    with pytest.raises(errors.NotFound):
        stage.session.run(stage.attempt, writes=False)
    assert stage.asked == ["a"]


def test_an_answer_tells_more_than_a_refused_connection() -> None:
    stage = Stage(ConnectFailed("x"), errors.NotEnoughNodes("n", retry_after=0), policy=RetryPolicy(attempts=1))
    with pytest.raises(errors.NotEnoughNodes):
        stage.session.run(stage.attempt, writes=True)


def test_what_cannot_be_sent_again_is_not() -> None:
    stage = Stage(ConnectionLost("x"))
    with pytest.raises(errors.Unknown):
        stage.session.run(stage.attempt, writes=True, may_repeat=lambda: False)
    assert stage.asked == ["a"]


def test_short_calls_that_hang_are_given_up_after_two_timeouts() -> None:
    stage = Stage(PeerTimeout("slow"), urls="http://a:1", policy=RetryPolicy(attempts=1000, total=5.0))
    stage.cost = 10.0
    with pytest.raises(errors.Unavailable):
        stage.session.run(stage.attempt, writes=False)
    assert len(stage.asked) == 3


def test_a_closed_session_does_not_wait() -> None:
    stage = Stage(ConnectionLost("x"))
    stage.session.close()
    with pytest.raises(errors.Unavailable):
        stage.session.run(stage.attempt, writes=False)
    assert not stage.waits


def test_closing_while_it_waits_ends_it() -> None:
    stage = Stage(ConnectionLost("x"))
    stage._pause = lambda _: stage.session.close()  # type: ignore[method-assign]
    stage.session._pause = stage._pause
    with pytest.raises(errors.Unavailable):
        stage.session.run(stage.attempt, writes=False)
    assert stage.asked == ["a", "b"]


class OneAnswer(FakeApi):
    """Answers everything alike."""

    def __init__(self, answer: FakeAnswer) -> None:
        super().__init__()
        self.faults.append(lambda _: answer)


def session_of(answer: FakeAnswer) -> Session:
    return Session(parse_endpoints("http://a:1"), OneAnswer(answer), policy=RetryPolicy(attempts=1))


def test_json_answers_are_read_and_closed() -> None:
    answer = as_json({"a": 1})
    assert session_of(answer).json(Call("GET", "/x", "x")) == {"a": 1}
    assert answer.closed
    assert session_of(FakeAnswer(204)).json(Call("GET", "/x", "x")) is None


@pytest.mark.parametrize("body", [b"<html>", b"{", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_not_json_says_so(body: bytes) -> None:
    with pytest.raises(LocalFailure, match="is that URL a dfs API server"):
        read_json(FakeAnswer(200, body=body))


def test_an_answer_without_end_is_not_read_to_it() -> None:
    with pytest.raises(LocalFailure, match="too long"):
        read_json(FakeAnswer(200, body=b" " * (MAX_JSON + 5)))


def test_an_error_answer_becomes_the_same_error_here() -> None:
    body = b'{"error":{"code":"busy","message":"later","retryable":true,"request_id":"r"}}'
    error = refusal(FakeAnswer(503, [("Retry-After", "9")], body), "x")
    assert isinstance(error, errors.Busy) and error.message == "later" and error.retry_after == 9


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (304, errors.ConditionFailed),
        (404, errors.NotFound),
        (410, errors.Gone),
        (412, errors.ConditionFailed),
        (403, errors.Forbidden),
        (418, errors.BadRequest),
        (502, errors.Unavailable),
    ],
)
def test_an_answer_without_a_body_is_judged_by_its_status(status: int, kind: type[errors.DfsError]) -> None:
    assert type(refusal(FakeAnswer(status), "x")) is kind


@pytest.mark.parametrize("body", [b"<html>", b"[" * 60_000, b"{}", b'{"error": 5}'])
def test_somebody_elses_error_page_is_not_taken_for_ours(body: bytes) -> None:
    error = refusal(FakeAnswer(404, body=body), "x")
    assert type(error) is errors.BadRequest and error.message == "the server answered 404"


def test_a_broken_error_body_is_no_further_error() -> None:
    answer = FakeAnswer(404, body=b"{}")
    answer.cut = 0
    assert isinstance(refusal(answer, "x"), errors.NotFound)
    assert answer.closed


@pytest.mark.parametrize("value", ["soon", "-1", "", "99999999", "१"])
def test_a_strange_retry_after_is_ignored(value: str) -> None:
    headers = [("Retry-After", value)] if value.isascii() else []
    assert refusal(FakeAnswer(503, headers), "x").retry_after == errors.Unavailable.default_retry_after
