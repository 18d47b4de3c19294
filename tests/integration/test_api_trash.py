"""The trash over HTTP: listing, restore, purge, over nodes in memory."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from dfs.cluster.calls import NodeCalls
from dfs.metadata.lease import LeaseHolder
from dfs.model import FileState, new_file_id
from dfs.repair.eraser import Eraser
from dfs.repair.relief import Relief
from dfs.repair.retention import Retention
from dfs.repair.trash import Trash
from dfs.wire.client import HttpClient
from tests.support.caller import Caller
from tests.support.cluster import eventually
from tests.support.memory_node import LocalApi, settle


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalApi]:
    with LocalApi(tmp_path, trash_retention=1000.0, replaced_retention=10.0) as running:
        yield running
        settle(running)


@pytest.fixture
def caller(api: LocalApi) -> Caller:
    return api.caller()


def trash(caller: Caller, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = ""
    while True:
        answer = caller.call("GET", f"/files?deleted=1&{query}{cursor}")
        assert answer.status == 200, answer
        found += answer.json["files"]
        if answer.json["cursor"] is None:
            return found
        cursor = f"&cursor={answer.json['cursor']}"


def test_the_trash_is_listed_with_what_a_restore_needs(api: LocalApi, caller: Caller) -> None:
    old = caller.file("PUT", "a/b", b"old", Content_Type="text/x").json
    new = caller.file("PUT", "a/b", b"newer").json
    caller.file("DELETE", "a/b")
    caller.file("PUT", "z", b"")
    caller.file("DELETE", "z")
    first, second, last = trash(caller, "limit=1")
    assert (first["path"], second["path"], last["path"]) == ("a/b", "a/b", "z")
    deleted_at = first["deleted_at"]
    assert first == {
        "path": "a/b",
        "file_id": old["file_id"],
        "size": 3,
        "sha256": old["sha256"],
        "content_type": "text/x",
        "modified": old["modified"],
        "deleted_at": deleted_at,
        "retired": "replaced",
        "expires_at": deleted_at + 10_000,
    }
    assert (second["file_id"], second["retired"]) == (new["file_id"], "deleted")
    assert second["expires_at"] == second["deleted_at"] + 1_000_000
    assert [file["path"] for file in trash(caller, "prefix=a/")] == ["a/b"] * 2
    assert trash(caller, "bucket=uploads") == []


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("deleted=1&delimiter=/", 400),
        ("deleted=yes", 400),
        ("deleted=1&limit=0", 400),
        ("deleted=1&cursor=x", 400),
        ("deleted=1&bucket=none", 404),
        ("deleted=0", 200),
    ],
)
def test_what_a_listing_of_the_trash_refuses(caller: Caller, query: str, status: int) -> None:
    assert caller.call("GET", f"/files?{query}").status == status


def test_a_restored_file_is_the_file_it_was(api: LocalApi, caller: Caller) -> None:
    said = caller.file("PUT", "a b/ü", b"x" * 200_000, Content_Type="text/x").json
    caller.file("DELETE", "a b/ü")
    api.erase_now()
    answer = caller.file("POST", "a b/ü", query={"restore": said["file_id"]})
    assert (answer.status, answer.etag) == (200, said["file_id"])
    assert answer.json == {name: value for name, value in said.items() if name != "replicas"}
    got = caller.file("GET", "a b/ü")
    assert (got.body, got.etag, got.headers["content-type"]) == (b"x" * 200_000, said["file_id"], "text/x")
    assert trash(caller) == []
    eventually(lambda: _noted(api, said["file_id"], "restore"), "the nodes are told")


def _noted(api: LocalApi, file_id: str, op: str) -> bool:
    return any(note["op"] == op and note["file_id"] == file_id for node in api.nodes for note in node.noted)


def test_what_a_restore_refuses(api: LocalApi, caller: Caller) -> None:
    file_id = caller.file("PUT", "a", b"1").etag
    assert caller.file("POST", "a", query={"restore": file_id}).status == 404, "it is shown"
    caller.file("DELETE", "a")
    newer = caller.file("PUT", "a", b"2").etag
    assert caller.file("POST", "a", query={"restore": file_id}).status == 412
    assert caller.file("POST", "a", query={"restore": "latest"}).status == 412
    assert caller.file("POST", "b", query={"restore": file_id}).status == 404
    assert caller.file("POST", "b", query={"restore": "latest"}).status == 404
    assert caller.file("POST", "a", query={"restore": new_file_id()}).status == 404
    assert caller.file("POST", "a", query={"restore": ""}).status == 400
    assert caller.file("POST", "a", query={"restore": "newest"}).status == 400
    assert caller.file("POST", "a", query={"restore": "latest", "move_to": "b"}).status == 400
    assert caller.file("POST", "a", query={"restore": "latest", "to": "../b"}).code == "bad_path"
    assert caller.file("POST", "a", query={"restore": "latest", "to": "b"}, If_Match=f'"{newer}"').status == 412
    assert caller.file("POST", "a", query={"restore": "latest", "bucket": "none"}).status == 404
    restored = caller.file("POST", "a", query={"restore": "latest", "to": "b"}, If_None_Match="*")
    assert (restored.status, restored.etag, restored.json["path"]) == (200, file_id, "b")
    assert (caller.file("GET", "a").body, caller.file("GET", "b").body) == (b"2", b"1")


def test_a_repeated_restore_is_answered_like_the_first(caller: Caller) -> None:
    caller.file("PUT", "a", b"1")
    caller.file("DELETE", "a")
    op = str(uuid.uuid4())
    first = caller.file("POST", "a", query={"restore": "latest"}, X_Dfs_Op=op)
    assert first.status == 200
    again = caller.file("POST", "a", query={"restore": "latest"}, X_Dfs_Op=op)
    assert (again.status, again.json) == (200, first.json)
    assert caller.file("DELETE", "a", X_Dfs_Op=op).status == 412


def test_a_file_in_the_trash_is_purged_and_what_the_path_shows_stays(api: LocalApi, caller: Caller) -> None:
    gone = caller.file("PUT", "a", b"1").etag
    caller.file("DELETE", "a")
    kept = caller.file("PUT", "a", b"2").etag
    query = {"purge": "1", "file_id": gone}
    assert caller.file("DELETE", "a", query={"file_id": gone}).status == 400
    assert caller.file("DELETE", "a", query=query, If_Match=f'"{gone}"').status == 400
    assert caller.file("DELETE", "a", query=query | {"file_id": kept}).status == 404, "it is shown, not in the trash"
    assert caller.file("DELETE", "b", query=query).status == 404
    op = str(uuid.uuid4())
    assert caller.file("DELETE", "a", query=query, X_Dfs_Op=op).status == 204
    assert caller.file("DELETE", "a", query=query, X_Dfs_Op=op).status == 204
    assert caller.file("DELETE", "a", query=query).status == 404
    record = api.store.get_file(gone)
    assert record is not None and record.state is FileState.DELETING
    api.erase_now()
    assert api.stored() == {kept}
    assert caller.file("POST", "a", query={"restore": gone, "to": "c"}).status == 404


def test_a_path_of_the_greatest_length_comes_back(caller: Caller) -> None:
    paths = ["é" * 511 + tail for tail in "xy"]
    for path in paths:
        caller.file("PUT", path, path[-1].encode())
        caller.file("DELETE", path)
    assert {file["path"] for file in trash(caller, f"prefix={quote('é' * 500)}&limit=1")} == set(paths)
    for path in paths:
        assert caller.file("POST", path, query={"restore": "latest"}).status == 200
        assert caller.file("GET", path).body == path[-1].encode()


def test_what_is_restored_while_retention_ends_and_the_eraser_works_is_whole_or_not_found(api: LocalApi) -> None:
    """No retention and no grace: every file in the trash is on its way out at once."""
    service = api.service
    http = HttpClient()
    calls = NodeCalls(http, service.cluster.cluster_id, 5.0)
    relief = Relief(api.store, service.membership, largest=1, grace=0.0)
    keeper = Trash(api.store, Retention(0, 0), relief)
    eraser = Eraser(
        api.store, service.membership, calls, LeaseHolder(api.store, "eraser", "test", 60.0),
        grace=0.0, upload_ttl=3600.0, interval=0.001, pace=0.0, trash=keeper,
    )  # fmt: skip
    back = [0] * 3

    def client(number: int) -> None:
        caller = api.caller()
        for turn in range(25):
            path, data = f"c{number}/{turn}", f"{number} {turn}".encode() * 100
            file_id = caller.file("PUT", path, data).etag
            assert caller.file("DELETE", path).status == 204
            answer = caller.file("POST", path, query={"restore": file_id})
            got = caller.file("GET", path)
            if answer.status == 200:
                assert (got.status, got.body) == (200, data)
                back[number] += 1
            else:
                assert (answer.status, got.status) == (404, 404)

    eraser.start()
    with ThreadPoolExecutor(3) as pool:
        for done in [pool.submit(client, number) for number in range(3)]:
            done.result()
    assert sum(back) > 0
    shown = {file["file_id"] for file in api.caller().call("GET", "/files").json["files"]}
    assert len(shown) == sum(back)
    eventually(lambda: api.stored() == shown, "the bytes of the others go")
    eraser.stop()
    http.close()


def test_a_chunk_whose_nodes_are_gone_does_not_keep_a_file_in_the_trash(api: LocalApi, caller: Caller) -> None:
    """The file comes back at once; its bytes are read when one of their nodes is back."""
    file_id = caller.file("PUT", "a", b"data").etag
    caller.file("DELETE", "a")
    holders = api.holders(file_id)
    kept = [node.chunks.pop((file_id, 0)) for node in holders]
    assert caller.file("POST", "a", query={"restore": "latest"}).status == 200
    assert caller.file("GET", "a").status == 503
    for node, chunk in zip(holders, kept, strict=True):
        node.chunks[file_id, 0] = chunk
    assert caller.file("GET", "a").body == b"data"


def test_the_trash_is_emptied_by_order(api: LocalApi, caller: Caller) -> None:
    caller.call("PUT", "/buckets/photos")
    for bucket, path in (("default", "a"), ("default", "b"), ("photos", "c")):
        caller.file("PUT", path, b"12345", query={"bucket": bucket})
        caller.file("DELETE", path, query={"bucket": bucket})
    plan = caller.call("POST", "/admin/trash/purge?plan=1").json
    assert (plan["files"], plan["bytes"], plan["plan"], plan["cursor"]) == (3, 15, True, None)
    assert plan["oldest_at"] == min(file["deleted_at"] for file in trash(caller))
    assert caller.call("POST", "/admin/trash/purge?older_than=1h").json["files"] == 0
    caller.call("POST", "/admin/trash/purge?bucket=photos")
    assert (len(trash(caller)), trash(caller, "bucket=photos")) == (2, [])
    done = caller.call("POST", "/admin/trash/purge").json
    assert (done["files"], done["bytes"], done["bucket"]) == (2, 10, None)
    api.erase_now()
    assert api.stored() == set()


@pytest.mark.parametrize(
    ("query", "status"), [("older_than=x", 400), ("cursor=x", 400), ("bucket=none", 404), ("plan=maybe", 400)]
)
def test_what_an_order_to_empty_the_trash_refuses(caller: Caller, query: str, status: int) -> None:
    assert caller.call("POST", f"/admin/trash/purge?{query}").status == status
