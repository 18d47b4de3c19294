"""dfs.errors: one tree, stable codes, and the way back from a peer's answer."""

from __future__ import annotations

import pytest

from dfs import errors
from dfs.errors import DfsError, from_answer

STATUS = {
    "bad_request": 400, "bad_path": 400, "checksum_mismatch": 400, "length_mismatch": 400, "bad_index": 400,
    "too_many_chunks": 400, "not_found": 404, "chunk_conflict": 409, "incomplete": 409, "not_finalized": 409,
    "gone": 410, "condition_failed": 412, "wrong_node": 421, "not_enough_nodes": 503, "no_replica": 503,
    "unavailable": 503, "busy": 503, "unknown": 503, "cluster_full": 507,
}  # fmt: skip
"""The codes clients switch on (PROTOCOL.md)."""


def kinds() -> list[type[DfsError]]:
    return list(errors.BY_CODE.values())


@pytest.mark.parametrize(("code", "status"), STATUS.items())
def test_the_documented_codes_have_their_status(code: str, status: int) -> None:
    assert errors.BY_CODE[code].status == status


def test_every_class_of_this_module_has_a_code_of_its_own() -> None:
    declared = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, DfsError) and kind.__module__ == errors.__name__
    ]
    assert len({kind.code for kind in declared}) == len(declared)
    assert all(errors.BY_CODE[kind.code] is kind for kind in declared)


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_what_is_retryable_fits_its_status(kind: type[DfsError]) -> None:
    if kind.retryable:
        assert kind.status in (408, 500, 503, 507)
    else:
        assert kind.status not in (503, 507)
    assert kind.__doc__


@pytest.mark.parametrize("kind", kinds(), ids=lambda kind: kind.code)
def test_an_error_survives_the_way_to_a_peer_and_back(kind: type[DfsError]) -> None:
    sent = kind("it is so", details={"missing": [[0, 3]], "code": "not this", "message": "nor this"})
    payload = sent.payload("req-1")
    assert payload["error"]["request_id"] == "req-1"
    assert payload["error"]["retryable"] is kind.retryable
    received = from_answer(kind.status, payload, retry_after=7)
    assert type(received) is kind
    assert received.message == str(received) == "it is so"
    assert received.details == {"missing": [[0, 3]]}
    assert received.retry_after == 7


def test_503_carries_a_retry_after_unless_told_otherwise() -> None:
    assert errors.Unavailable("x").retry_after == 2
    assert errors.Busy("x", retry_after=0).retry_after == 0
    assert errors.NotFound("x").retry_after is None


@pytest.mark.parametrize(
    "payload",
    [None, [], "text", {}, {"error": "text"}, {"error": {}}, {"error": {"code": 5}}, {"error": {"code": "no_such"}},
     {"error": {"code": ["bad_request"]}}, {"error": {"code": "not_found"}}],
)  # fmt: skip
def test_an_answer_that_is_not_ours_becomes_a_plain_error_naming_the_status(payload: object) -> None:
    server = from_answer(502, payload)
    assert type(server) is errors.Unavailable
    assert server.message == "the server answered 502"
    client = from_answer(400, payload)
    assert type(client) is errors.BadRequest
    assert not client.retryable
