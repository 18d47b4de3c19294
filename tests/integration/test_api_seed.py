"""The seed protocol on one API server, over nodes in memory."""

from __future__ import annotations

import hashlib
import json
import random
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.errors import Unavailable
from dfs.metadata.contract import OutcomeUnknown
from dfs.model import ChunkReplica
from dfs.wire.message import Request
from tests.support.caller import Answer, Caller
from tests.support.memory_node import LocalApi, post, settle, slices


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalApi]:
    with LocalApi(tmp_path) as running:
        yield running
        settle(running)


@pytest.fixture
def caller(api: LocalApi) -> Caller:
    return api.caller()


def begin(caller: Caller, size: int, chunk_size: object = 1024, **more: object) -> dict[str, Any]:
    answer = post(caller, "/init-upload", {"filename": "a.bin", "size": size, "chunk_size": chunk_size} | more)
    assert answer.status == 200, answer.body
    plan: dict[str, Any] = answer.json
    return plan


def target(url: str) -> str:
    """The URL without its scheme and host."""
    return "/" + url.split("/", 3)[3]


def send(caller: Caller, plan: dict[str, Any], data: bytes) -> list[Answer]:
    answers = []
    for entry, piece in zip(plan["upload_targets"], slices(data, plan["chunk_size"]), strict=True):
        checksum = hashlib.sha256(piece).hexdigest().upper()
        answers.append(caller.call("POST", target(entry["url"]), piece, X_Chunk_Checksum=checksum))
    return answers


def upload(caller: Caller, data: bytes, chunk_size: int = 1024, **more: object) -> dict[str, Any]:
    plan = begin(caller, len(data), chunk_size, **more)
    assert {answer.status for answer in send(caller, plan, data)} <= {201}
    answer = post(caller, "/finalize-upload", {"file_id": plan["file_id"]})
    assert answer.status == 200, answer.body
    file: dict[str, Any] = answer.json
    return file


def download(caller: Caller, file_id: str) -> bytes:
    answer = caller.call("GET", f"/download-plan?file_id={file_id}")
    assert answer.status == 200, answer.body
    found = b""
    for number, entry in enumerate(json.loads(answer.body)):
        assert entry["chunk_index"] == number
        piece = caller.call("GET", target(entry["url"]))
        assert piece.status == 200
        assert hashlib.sha256(piece.body).hexdigest() == entry["checksum"]
        found += piece.body
    return found


@pytest.mark.parametrize(("size", "chunk_size"), [(0, 1024), (1, 1), (1023, 1024), (1025, 1024), (300_000, 100_000)])
def test_what_is_uploaded_is_downloaded(
    api: LocalApi, caller: Caller, rng: random.Random, size: int, chunk_size: int
) -> None:
    data = rng.randbytes(size)
    file = upload(caller, data, chunk_size)
    assert download(caller, file["file_id"]) == data
    assert (file["bucket"], file["path"]) == ("uploads", f"{file['file_id']}/a.bin")
    assert (file["size"], file["chunk_size"], file["replicas"] >= (2 if size else 0)) == (size, chunk_size, True)
    assert file["sha256"] == (hashlib.sha256(data).hexdigest() if size <= chunk_size else None)
    assert caller.file("GET", file["path"], query={"bucket": "uploads"}).body == data
    assert len(api.holders(file["file_id"])) == 2


def test_the_plan_names_every_chunk_in_order(caller: Caller) -> None:
    plan = begin(caller, 5000)
    assert list(plan) == ["file_id", "chunk_size", "upload_targets"]
    for number, entry in enumerate(plan["upload_targets"]):
        assert entry == {
            "chunk_index": number,
            "node": entry["node"],
            "url": f"http://127.0.0.1:{caller.port}/proxy-chunk-upload?file_id={plan['file_id']}"
            f"&chunk_index={number}&node_id={entry['node']}",
        }
    assert len(plan["upload_targets"]) == 5


@pytest.mark.parametrize("value", [None, 0, -1, -(2**70)])
def test_no_chunk_size_is_1024(caller: Caller, value: object) -> None:
    assert begin(caller, 5000, value)["chunk_size"] == 1024


def test_the_public_url_beats_the_host(tmp_path: Path) -> None:
    with LocalApi(tmp_path, public_url="https://files.example.org:8443") as api:
        url = begin(api.caller(), 1)["upload_targets"][0]["url"]
        assert url.startswith("https://files.example.org:8443/proxy-chunk-upload?")


def test_a_client_of_http_1_0_without_a_host(api: LocalApi) -> None:
    body = b'{"filename": "a", "size": 1}'
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(b"POST /init-upload HTTP/1.0\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        received = b""
        while piece := connection.recv(65536):
            received += piece
    plan = json.loads(received.partition(b"\r\n\r\n")[2])
    assert plan["upload_targets"][0]["url"].startswith(f"http://127.0.0.1:{api.port}/proxy-chunk-upload?")


@pytest.mark.parametrize(
    ("filename", "name"),
    [("/home/me/a.txt", "a.txt"), ("a/", "a"), ("///", "file"), ("..", "__"), ("x/.", "_"), ("a\n\x7fb", "a__b"),
     ("é" * 900, "é" * 493), ("d/" * 700 + "end", "end")],
)  # fmt: skip
def test_the_path_of_an_upload_without_one(caller: Caller, filename: str, name: str) -> None:
    plan = begin(caller, 0, filename=filename)
    file = post(caller, "/finalize-upload", {"file_id": plan["file_id"]}).json
    assert file["path"] == f"{plan['file_id']}/{name}"
    assert caller.file("GET", file["path"], query={"bucket": "uploads"}).status == 200


@pytest.mark.parametrize(
    "fields",
    [{"path": "../x"}, {"path": ""}, {"path": 5}, {"bucket": "none"}, {"bucket": "No"}, {"content_type": "text"},
     {"op_id": "1"}, {"op_id": 1}, {"filename": "\ud800"}, {"path": "\ud800"}, {"content_type": "\ud800/x"},
     {"size": 1.0}, {"size": True}, {"size": 10**300}, {"chunk_size": 10**300}, {"chunk_size": []}],
)  # fmt: skip
def test_uploads_that_are_none(caller: Caller, fields: dict[str, Any]) -> None:
    answer = post(caller, "/init-upload", {"filename": "a", "size": 1} | fields)
    assert answer.status == (404 if fields.get("bucket") == "none" else 400), answer.body


def test_our_own_clients_choose_path_and_id(api: LocalApi, caller: Caller) -> None:
    op = str(uuid.uuid4())
    more = {"path": "dir/x", "content_type": "text/plain", "op_id": op.upper(), "unknown": [1]}
    file = upload(caller, b"x" * 3000, **more)
    assert (file["bucket"], file["path"], file["file_id"], file["content_type"]) == (
        "default", "dir/x", op, "text/plain",
    )  # fmt: skip
    assert begin(caller, 3000, **more)["file_id"] == op
    other = post(caller, "/init-upload", {"filename": "a.bin", "size": 3001, "chunk_size": 1024} | more)
    assert other.status == 412
    header = post(caller, "/init-upload", {"filename": "a", "size": 1, "op_id": op}, X_Dfs_Op=str(uuid.uuid4()))
    assert header.status == 400


def test_a_chunk_is_answered_with_its_node(api: LocalApi, caller: Caller) -> None:
    plan = begin(caller, 10)
    answer = send(caller, plan, b"x" * 10)[0]
    node = plan["upload_targets"][0]["node"]
    assert (answer.status, answer.body) == (201, f"Chunk 0 stored on node {node}".encode())
    assert node in [holder.node_id for holder in api.holders(plan["file_id"])]


@pytest.mark.parametrize("hint", ["node2", "nobody", "", "a%00b", "x" * 300, "%23"])
def test_the_node_asked_for_is_a_hint(caller: Caller, hint: str) -> None:
    file_id = begin(caller, 10)["file_id"]
    answer = caller.call("PUT", f"/proxy-chunk-upload?file_id={file_id}&chunk_index=0&node_id={hint}", b"x" * 10)
    assert answer.status == 201
    if hint == "node2":
        assert answer.body == b"Chunk 0 stored on node node2"
    got = caller.call("GET", f"/proxy-chunk-download?file_id={file_id}&chunk_index=0&node_id={hint}")
    assert (got.status, got.body) == (200, b"x" * 10)


@pytest.mark.parametrize("declared", [None, 9, 11, 1 << 40])
def test_bodies_of_the_wrong_length(api: LocalApi, caller: Caller, declared: int | None) -> None:
    file_id = begin(caller, 10)["file_id"]
    framing = b"Transfer-Encoding: chunked" if declared is None else b"Content-Length: %d" % declared
    for body in (b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n", b"9\r\n" + b"x" * 9 + b"\r\n0\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
            head = f"PUT /proxy-chunk-upload?file_id={file_id}&chunk_index=0 HTTP/1.1\r\nHost: a\r\n".encode()
            connection.sendall(head + framing + b"\r\nConnection: close\r\n\r\n" + body)
            assert b"length_mismatch" in connection.recv(65536)
    assert api.stored() == set()


def test_a_repeat_and_a_conflict(api: LocalApi, caller: Caller) -> None:
    plan = begin(caller, 10)
    url = target(plan["upload_targets"][0]["url"])
    for _ in range(2):
        assert caller.call("PUT", url, b"x" * 10).status == 201
    assert caller.call("PUT", url, b"y" * 10).code == "chunk_conflict"
    assert post(caller, "/finalize-upload", {"file_id": plan["file_id"]}).status == 200
    assert caller.call("PUT", url, b"x" * 10).status == 201
    assert caller.call("PUT", url, b"y" * 10).code == "chunk_conflict"


def test_other_bytes_are_refused_though_all_nodes_of_the_first_are_away(tmp_path: Path) -> None:
    with LocalApi(tmp_path, nodes=4) as api:
        caller = api.caller()
        plan = begin(caller, 10)
        url = target(plan["upload_targets"][0]["url"])
        assert caller.call("PUT", url, b"x" * 10).status == 201
        held = api.holders(plan["file_id"])
        for node in held:
            node.kill()
        # The first time nobody knows that they are away.
        for _ in range(2):
            assert caller.call("PUT", url, b"y" * 10).code == "chunk_conflict"
            assert api.holders(plan["file_id"]) == held


def test_another_hint_is_no_way_to_other_bytes(tmp_path: Path) -> None:
    with LocalApi(tmp_path, nodes=3, replication_factor=1) as api:
        caller = api.caller()
        file_id = begin(caller, 10)["file_id"]
        answers = [
            caller.call("PUT", f"/proxy-chunk-upload?file_id={file_id}&chunk_index=0&node_id=node{number}", data)
            for number, data in ((1, b"x" * 10), (2, b"y" * 10), (3, b"y" * 10), (3, b"x" * 10))
        ]
        assert [answer.status for answer in answers] == [201, 409, 409, 201]


def test_finalize_refuses_while_replicas_disagree(api: LocalApi, caller: Caller) -> None:
    plan = begin(caller, 10)
    assert send(caller, plan, b"x" * 10)[0].status == 201
    stray = ChunkReplica(plan["file_id"], 0, "node9", "0" * 64, 10, "secondary", 1)
    api.store.add_replicas(plan["file_id"], [stray])
    answer = post(caller, "/finalize-upload", {"file_id": plan["file_id"]})
    assert (answer.status, answer.code) == (409, "chunk_conflict")


def test_finalize_names_what_is_missing(caller: Caller) -> None:
    plan = begin(caller, 10 * 1024)
    for index in (0, 1, 5):
        assert caller.call("PUT", target(plan["upload_targets"][index]["url"]), b"x" * 1024).status == 201
    answer = post(caller, "/finalize-upload", {"file_id": plan["file_id"]})
    assert (answer.status, answer.code) == (409, "incomplete")
    assert answer.json["error"]["missing"] == [[2, 4], [6, 9]]
    assert answer.json["error"]["missing_chunks"] == 7
    said = caller.call("GET", f"/uploads/{plan['file_id']}").json
    assert (said["state"], said["missing"], said["size"], said["chunks"]) == ("uploading", [[2, 4], [6, 9]], 10240, 10)


def test_finalize_once_more_and_on_conditions(caller: Caller) -> None:
    caller.file("PUT", "x", b"old")
    plan = begin(caller, 10, path="x")
    send(caller, plan, b"x" * 10)
    refused = post(caller, "/finalize-upload", {"file_id": plan["file_id"]}, If_None_Match="*")
    assert (refused.status, refused.code) == (412, "condition_failed")
    assert caller.file("GET", "x").body == b"old"
    first = post(caller, "/finalize-upload", {"file_id": plan["file_id"]})
    assert first.status == 200 and first.headers["etag"] == f'"{plan["file_id"]}"'
    again = post(caller, "/finalize-upload", {"file_id": plan["file_id"]}, If_None_Match="*")
    assert (again.status, again.json) == (200, first.json)
    assert caller.file("GET", "x").body == b"x" * 10
    assert caller.call("GET", f"/uploads/{plan['file_id']}").json["missing"] == []


@pytest.mark.parametrize("body", [b"{}", b'{"file_id": 5}', b'{"file_id": ""}', b'{"file_id": "x"}', b"", b"[]"])
def test_finalize_of_nothing(caller: Caller, body: bytes) -> None:
    assert caller.call("POST", "/finalize-upload", body).status == 400


def test_an_upload_given_up(api: LocalApi, caller: Caller) -> None:
    plan = begin(caller, 10)
    url, file_id = target(plan["upload_targets"][0]["url"]), plan["file_id"]
    assert caller.call("PUT", url, b"x" * 10).status == 201
    assert caller.call("DELETE", f"/uploads/{file_id}").status == 204
    assert caller.call("DELETE", f"/uploads/{file_id}").status == 204
    assert caller.call("PUT", url, b"x" * 10).status == 410
    assert post(caller, "/finalize-upload", {"file_id": file_id}).status == 410
    assert caller.call("GET", f"/download-plan?file_id={file_id}").status == 410
    api.erase_now()
    assert api.stored() == set()
    assert caller.call("PUT", url, b"x" * 10).status in (404, 410)
    assert caller.call("DELETE", f"/uploads/{file_id}").status == 404
    done = upload(caller, b"x")
    assert caller.call("DELETE", f"/uploads/{done['file_id']}").status == 412


def test_downloads_go_on_without_a_node(api: LocalApi, caller: Caller, rng: random.Random) -> None:
    data = rng.randbytes(20_000)
    file_id = upload(caller, data)["file_id"]
    plan = json.loads(caller.call("GET", f"/download-plan?file_id={file_id}").body)
    api.nodes[0].kill()
    assert b"".join(caller.call("GET", target(entry["url"])).body for entry in plan) == data
    assert download(caller, file_id) == data


def test_a_plan_never_lacks_a_chunk(api: LocalApi, caller: Caller) -> None:
    file_id = upload(caller, b"x" * 5000)["file_id"]
    holders = api.holders(file_id, 3)
    for node in holders:
        node.kill()
    membership = api.service.membership
    # A live node that does not answer is only suspect: it counts as dead once its heartbeat is late.
    with membership._changed:
        for node in holders:
            membership._members[node.node_id].fresh_at = -1000.0
        membership._publish()
    answer = caller.call("GET", f"/download-plan?file_id={file_id}")
    assert (answer.status, answer.code) == (503, "no_replica")
    assert "chunk " in answer.json["error"]["message"]


@pytest.mark.parametrize("index", ["5", "99999"])
def test_chunks_that_are_none(caller: Caller, index: str) -> None:
    file_id = upload(caller, b"x" * 5000)["file_id"]
    answer = caller.call("GET", f"/proxy-chunk-download?file_id={file_id}&chunk_index={index}")
    assert (answer.status, answer.code) == (400, "bad_index")


def test_an_empty_file_has_no_chunks(caller: Caller) -> None:
    file_id = upload(caller, b"")["file_id"]
    for method, call in (("GET", "/proxy-chunk-download"), ("PUT", "/proxy-chunk-upload")):
        answer = caller.call(method, f"{call}?file_id={file_id}&chunk_index=0")
        assert (answer.status, answer.code) == (400, "bad_index")


def test_a_chunk_that_is_not_stored_yet(caller: Caller) -> None:
    file_id = begin(caller, 10)["file_id"]
    answer = caller.call("GET", f"/proxy-chunk-download?file_id={file_id}&chunk_index=0")
    assert answer.status == 404
    assert caller.call("GET", f"/download-plan?file_id={file_id}").code == "not_finalized"


def test_a_lost_answer_to_the_rows_is_no_failure(
    api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = begin(caller, 10)
    add, lost = api.store.add_replicas, [1]

    def lose(*given: Any) -> None:
        add(*given)
        if lost:
            lost.pop()
            raise OutcomeUnknown("the answer was lost")

    monkeypatch.setattr(api.store, "add_replicas", lose)
    assert send(caller, plan, b"x" * 10)[0].status == 201
    monkeypatch.undo()

    def never(*given: Any) -> None:
        raise OutcomeUnknown("the answer was lost")

    monkeypatch.setattr(api.store, "add_replicas", never)
    assert send(caller, plan, b"x" * 10)[0].status == 503


def test_a_slow_node_does_not_delay_the_answer_of_a_quorum(tmp_path: Path) -> None:
    with LocalApi(tmp_path, nodes=3, replication_factor=3, replication_strategy="async") as api:
        caller = api.caller()

        def away(request: Request) -> None:
            if request.path.startswith("/store-chunk"):
                raise Unavailable("not now")

        api.nodes[0].before = api.nodes[1].before = away
        file = upload(caller, b"x" * 3000)
        assert file["replicas"] == 1
        assert caller.file("PUT", "x", b"y" * 200_000).status == 201
        assert caller.file("GET", "x").body == b"y" * 200_000
        assert download(caller, file["file_id"]) == b"x" * 3000
        settle(api)
