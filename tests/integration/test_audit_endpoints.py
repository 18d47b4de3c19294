"""The audit's endpoints, on memory nodes: what they answer, and what they refuse."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.caller import Caller
from tests.support.cluster import eventually
from tests.support.memory_node import LocalApi, post


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalApi]:
    with LocalApi(tmp_path, delete_grace=0.0) as running:
        yield running


def audited(caller: Caller, query: str = "") -> dict[str, Any]:
    """The result of an audit begun now."""
    begun = caller.call("POST", "/admin/audit" + query)
    assert begun.status == 202 and begun.json["begun"] is True

    def latest() -> Any:
        return caller.call("GET", "/admin/audit").json["last"]

    eventually(lambda: (latest() or {}).get("id") == begun.json["id"], "the audit's verdict")
    found: dict[str, Any] = latest()
    return found


def test_an_audit_by_hand(api: LocalApi) -> None:
    caller = api.caller()
    assert caller.call("GET", "/admin/audit").json == {"audit": None, "last": None}
    file_id = caller.file("PUT", "a/b", b"x" * 1000).etag
    assert audited(caller)["verdict"] == "whole"
    holder, other = api.holders(file_id)
    holder.corrupt_copy(file_id, 0)
    found = audited(caller, "?verify=1&mbps=5")
    assert (found["verdict"], found["counts"]["corrupt"], found["verify"]) == ("degraded", 1, True)
    assert found["examples"]["corrupt"][0]["node_id"] == holder.node_id
    other.kill()
    found = audited(caller)
    assert (found["counts"]["unseen"], found["counts"]["no_copy"], found["unreachable"]) == (1, 0, [other.node_id])
    other.revive()
    other.corrupt_copy(file_id, 0)
    found = audited(caller)
    assert (found["verdict"], found["lost_files"][0]["path"]) == ("data_missing", "a/b")


def test_plans_say_what_would_be_read_and_begin_nothing(api: LocalApi) -> None:
    caller = api.caller()
    plan: Any = caller.call("POST", "/admin/audit?plan=1&verify=1&mbps=3").json["plan"]
    assert (plan["verify"], plan["mbps"], plan["chunks"], plan["bytes"], plan["seconds"]) == (True, 3, 0, 0, 0.0)
    assert {node["node_id"] for node in plan["nodes"]} == {"node1", "node2", "node3"}
    assert caller.call("POST", "/admin/audit/set-aside?plan=1").json == {"plan": []}
    assert caller.call("GET", "/admin/audit").json["audit"] is None


def test_surplus_is_moved_aside_by_name_only(api: LocalApi) -> None:
    caller = api.caller()
    file_id = caller.file("PUT", "a", b"x" * 1000).etag
    idle = next(node for node in api.nodes if node not in api.holders(file_id))
    for index in (0, 7):
        stored = Caller(idle.port)
        assert stored.call("PUT", f"/store-chunk?file_id={file_id}&chunk_index={index}", b"x" * 1000).status == 201
        stored.close()
    assert audited(caller)["counts"]["extra"] == 2
    extras: Any = caller.call("GET", "/admin/audit?extras=1").json["extras"]
    assert [extra["chunk_index"] for extra in extras] == [0, 7]
    stranger = extras[0] | {"chunk_index": 5}
    assert post(caller, "/admin/audit/set-aside", {"records": [stranger]}).status == 404
    moved = post(caller, "/admin/audit/set-aside", {"records": extras}).json["records"]
    assert [each["left"] for each in moved] == ["", ""]
    assert set(idle.aside) == {(file_id, 0), (file_id, 7)} and not idle.chunks


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"records": []},
        {"records": [{}] * 51},
        {"records": ["f"]},
        {"records": [{"file_id": 1, "chunk_index": 0, "node_id": "n"}]},
        {"records": [{"file_id": "f", "chunk_index": "0", "node_id": "n"}]},
    ],
)
def test_what_is_no_list_of_records_is_refused(api: LocalApi, body: dict[str, Any]) -> None:
    assert api.caller().call("POST", "/admin/audit/set-aside", json.dumps(body).encode()).status == 400


@pytest.mark.parametrize("query", ["?mbps=0", "?mbps=x", "?verify=maybe", "?plan=2"])
def test_a_parameter_that_makes_no_sense_is_refused(api: LocalApi, query: str) -> None:
    assert api.caller().call("POST", "/admin/audit" + query).status == 400
