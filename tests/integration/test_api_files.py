"""The files interface of one API server, over nodes in memory."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.errors import NodeFull, Unavailable
from dfs.model import FileState
from dfs.wire.message import Request
from tests.support.caller import Caller, NoAnswer
from tests.support.fakes.scripted_store import intercept
from tests.support.memory_node import LocalApi, settle


@pytest.fixture
def api(tmp_path: Path) -> Iterator[LocalApi]:
    with LocalApi(tmp_path) as running:
        yield running
        settle(running)


@pytest.fixture
def caller(api: LocalApi) -> Caller:
    return api.caller()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def send(api: LocalApi, data: bytes, *, shut: bool = True) -> bytes:
    """Raw bytes to the server; what comes back until it closes."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=60) as connection:
        connection.sendall(data)
        if shut:
            connection.shutdown(socket.SHUT_WR)
        received = b""
        while piece := connection.recv(65536):
            received += piece
    return received


# --- PUT and GET -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 2048, 300_000])
@pytest.mark.parametrize("chunk_size", [1, 1024, 65_536, 1 << 20])
def test_what_is_put_is_got(api: LocalApi, caller: Caller, rng: random.Random, size: int, chunk_size: int) -> None:
    if size // chunk_size > 3000:
        size = 3000
    data = rng.randbytes(size)
    answer = caller.file("PUT", "a/b c.txt", data, X_Chunk_Size=str(chunk_size), Content_Type="text/plain")
    assert answer.status == 201, answer.body
    said = answer.json
    file_id = said["file_id"]
    assert said == {
        "bucket": "default",
        "path": "a/b c.txt",
        "file_id": file_id,
        "etag": f'"{file_id}"',
        "size": size,
        "sha256": sha(data),
        "content_type": "text/plain",
        "chunk_size": chunk_size,
        "chunks": -(-size // chunk_size),
        "replicas": 2,
        "modified": said["modified"],
    }
    assert answer.headers["etag"] == f'"{file_id}"'
    got = caller.file("GET", "a/b c.txt")
    assert (got.status, got.body) == (200, data)
    assert got.headers["etag"] == f'"{file_id}"'
    assert got.headers["x-file-sha256"] == sha(data)
    assert got.headers["content-type"] == "text/plain"
    assert got.headers["x-content-type-options"] == "nosniff"
    assert got.headers["content-security-policy"] == "sandbox"
    assert got.headers["accept-ranges"] == "bytes"
    assert caller.call("GET", f"/content/{file_id}").body == data
    head = caller.file("HEAD", "a/b c.txt")
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(size))
    assert len(api.holders(str(file_id))) == 2  # an empty file lies on its nodes too


@pytest.mark.parametrize("sizes", [[], [1], [65_536], [65_535, 1], [65_536, 1], [1] * 50, [200_000]])
def test_chunked_bodies(caller: Caller, rng: random.Random, sizes: list[int]) -> None:
    pieces = [rng.randbytes(size) for size in sizes]
    connection = socket.create_connection(("127.0.0.1", caller.port), timeout=60)
    connection.sendall(b"PUT /files/c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
    for piece in pieces:
        connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
    connection.sendall(b"0\r\n\r\n")
    assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    connection.close()
    assert caller.file("GET", "c").body == b"".join(pieces)


def test_a_put_that_does_not_say_how_much_comes(api: LocalApi, caller: Caller) -> None:
    assert send(api, b"PUT /files/x HTTP/1.1\r\nHost: a\r\n\r\n").startswith(b"HTTP/1.1 411 ")
    assert caller.file("GET", "x").status == 404


def test_a_piece_of_a_file_cannot_be_put(caller: Caller) -> None:
    assert caller.file("PUT", "x", b"abc", Content_Range="bytes 0-2/10").status == 400


@pytest.mark.parametrize("value", ["text", "text/plain; charset", "a/b\x80", "a" * 300 + "/b", "text/plain; a=\"b"])
def test_content_types_that_are_none(caller: Caller, value: str) -> None:
    assert caller.file("PUT", "x", b"abc", Content_Type=value).status == 400


def test_more_chunks_than_a_file_may_have(tmp_path: Path) -> None:
    with LocalApi(tmp_path, max_chunks_per_file=3) as api:
        caller = api.caller()
        answer = caller.file("PUT", "x", b"x" * 41, X_Chunk_Size="10")
        assert (answer.status, answer.code) == (400, "too_many_chunks")
        assert "smallest chunk size that fits is 14" in str(answer.json)
        head = b"PUT /files/x HTTP/1.1\r\nHost: a\r\nX-Chunk-Size: 10\r\nTransfer-Encoding: chunked\r\n\r\n"
        said = send(api, head + b"29\r\n" + b"x" * 0x29 + b"\r\n0\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 400 ")
        assert b"too_many_chunks" in said
        assert caller.file("GET", "x").status == 404
        assert caller.file("PUT", "x", b"x" * 30, X_Chunk_Size="10").status == 201
        api.erase_now()
        assert len(api.stored()) == 1
        settle(api)


def test_many_uploads_share_little_memory(tmp_path: Path, rng: random.Random) -> None:
    data = rng.randbytes(1_000_000)
    with LocalApi(tmp_path, buffer_bytes=1 << 20, max_chunk_size=1 << 19, chunk_size=1 << 19) as api:
        statuses: list[int] = []

        def put(number: int) -> None:
            caller = Caller(api.port)
            statuses.append(caller.file("PUT", f"f{number}", data).status)
            caller.close()

        threads = [threading.Thread(target=put, args=(number,)) for number in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert statuses == [201] * 12
        caller = api.caller()
        assert all(caller.file("GET", f"f{number}").body == data for number in range(12))
        settle(api)


# --- what goes wrong while a file comes in ---------------------------------------------------------------


@pytest.mark.parametrize("length", [5_000, 500_000])
def test_a_client_that_goes_away_leaves_nothing(api: LocalApi, caller: Caller, length: int) -> None:
    said = send(api, b"PUT /files/x HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % length + b"x" * (length - 1))
    assert said == b"" or said.startswith(b"HTTP/1.1 400 ")
    assert caller.file("GET", "x").status == 404
    api.erase_now()
    assert api.stored() == set()


@pytest.mark.parametrize("size", [1000, 200_000])
def test_a_wrong_checksum_leaves_nothing(api: LocalApi, caller: Caller, size: int) -> None:
    answer = caller.file("PUT", "x", b"x" * size, X_File_SHA256=sha(b"other"))
    assert (answer.status, answer.code) == (400, "checksum_mismatch")
    assert caller.file("GET", "x").status == 404
    api.erase_now()
    assert api.stored() == set()
    assert caller.file("PUT", "x", b"x" * size, X_File_SHA256=sha(b"x" * size).upper()).status == 201


def test_a_dead_node_is_replaced(api: LocalApi, caller: Caller) -> None:
    api.nodes[0].kill()
    for number in range(8):
        assert caller.file("PUT", f"f{number}", b"data" * 50_000).status == 201
    assert all(caller.file("GET", f"f{number}").body == b"data" * 50_000 for number in range(8))


def test_too_few_nodes_are_told_before_the_body_is_asked_for(api: LocalApi) -> None:
    for node in api.nodes[:2]:
        node.kill()
    head = b"PUT /files/x HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
    # The first attempt finds out; from then on nobody sends a body in vain.
    send(api, head.replace(b"Expect: 100-continue\r\n", b"") + b"0123456789")
    said = send(api, head)
    assert said.startswith(b"HTTP/1.1 503 ")
    assert b"Not enough active nodes. Required: 2, Available: 1" in said
    assert b"Retry-After" in said


def test_a_node_that_fails_in_the_middle_is_replaced(api: LocalApi, caller: Caller, rng: random.Random) -> None:
    data = rng.randbytes(20 * 65_536)
    calls = 0

    def fail_later(request: Request) -> None:
        nonlocal calls
        calls += 1
        if calls > 3 and request.path.startswith("/store-chunk"):
            raise NodeFull("no room")

    api.nodes[1].before = fail_later
    assert caller.file("PUT", "x", data).status == 201
    assert caller.file("GET", "x").body == data


def test_a_commit_that_fails_leaves_no_file_and_no_bytes(
    api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    transact = api.store.transact

    def refuse(steps: object) -> None:
        if "PutHead" in repr(steps):
            raise Unavailable("metadata is away")
        transact(steps)  # type: ignore[arg-type]

    intercept(monkeypatch, api.store, refuse)
    for size in (1000, 200_000):
        answer = caller.file("PUT", "x", b"x" * size)
        assert (answer.status, answer.code) == (503, "unavailable")
    monkeypatch.undo()
    assert caller.file("GET", "x").status == 404
    api.erase_now()
    assert api.stored() == set()


# --- operation ids ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1000, 200_000])
def test_a_repeated_put_is_answered_like_the_first(api: LocalApi, caller: Caller, size: int) -> None:
    op, data = str(uuid.uuid4()), b"x" * size
    first = caller.file("PUT", "x", data, X_Dfs_Op=op, If_None_Match="*")
    assert (first.status, first.json["file_id"]) == (201, op)
    again = caller.file("PUT", "x", data, Idempotency_Key=op, If_None_Match="*")
    assert (again.status, again.json) == (201, first.json)
    other = caller.file("PUT", "x", data + b"!", X_Dfs_Op=op)
    assert (other.status, other.code) == (412, "condition_failed")
    elsewhere = caller.file("PUT", "y", data, X_Dfs_Op=op)
    assert elsewhere.status == 412
    assert caller.file("PUT", "x", b"new").status == 201
    after = caller.file("PUT", "x", data, X_Dfs_Op=op, If_None_Match="*")
    assert (after.status, after.json["file_id"]) == (201, op)
    assert caller.file("GET", "x").body == b"new"


def test_a_repeat_that_waits_for_a_word_sends_no_body(api: LocalApi, caller: Caller) -> None:
    op = str(uuid.uuid4())
    assert caller.file("PUT", "x", b"data", X_Dfs_Op=op).status == 201
    head = f"PUT /files/x HTTP/1.1\r\nHost: a\r\nX-Dfs-Op: {op}\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
    assert send(api, head.encode()).startswith(b"HTTP/1.1 201 ")


@pytest.mark.parametrize("size", [1000, 200_000])
def test_an_upload_that_broke_off_is_finished_under_its_id(api: LocalApi, caller: Caller, size: int) -> None:
    op, data = str(uuid.uuid4()), b"x" * size
    head = f"PUT /files/x HTTP/1.1\r\nHost: a\r\nX-Dfs-Op: {op}\r\nContent-Length: {size}\r\n\r\n".encode()
    send(api, head + data[:-1])
    answer = caller.file("PUT", "x", data, X_Dfs_Op=op)
    assert (answer.status, answer.json["file_id"]) == (201, op)
    assert caller.file("GET", "x").body == data


@pytest.mark.parametrize("size", [1000, 200_000])
def test_an_upload_that_failed_for_want_of_nodes_goes_on(api: LocalApi, caller: Caller, size: int) -> None:
    op, data = str(uuid.uuid4()), b"x" * size
    stored = 0

    def full(request: Request) -> None:
        nonlocal stored
        if request.path.startswith("/store-chunk"):
            stored += 1
            if stored > 1:
                raise Unavailable("not now")

    for node in api.nodes:
        node.before = full
    answer = caller.file("PUT", "x", data, X_Dfs_Op=op)
    assert (answer.status, answer.code) == (503, "not_enough_nodes")
    for node in api.nodes:
        node.before = lambda request: None
    answer = caller.file("PUT", "x", data, X_Dfs_Op=op)
    assert answer.status == 201, answer.body
    assert caller.file("GET", "x").body == data


def test_other_content_for_an_unfinished_upload_is_refused(api: LocalApi, caller: Caller) -> None:
    op = str(uuid.uuid4())
    head = f"PUT /files/x HTTP/1.1\r\nHost: a\r\nX-Dfs-Op: {op}\r\nContent-Length: 200000\r\n\r\n".encode()
    send(api, head + b"x" * 199_999)
    answer = caller.file("PUT", "x", b"y" * 200_000, X_Dfs_Op=op)
    assert (answer.status, answer.code) == (409, "chunk_conflict")
    assert caller.file("GET", "x").status == 404
    assert caller.file("PUT", "x", b"x" * 200_000, X_Dfs_Op=op).status in (409, 410, 412)


@pytest.mark.parametrize("op", ["1", "x" * 36, "", "2f1b1a3e-0c1d-11ef-9a5b-0242ac120002"])
def test_an_id_that_others_might_choose(caller: Caller, op: str) -> None:
    assert caller.file("PUT", "x", b"data", X_Dfs_Op=op).status == 400
    assert caller.file("DELETE", "x", X_Dfs_Op=op).status == 400


def test_two_different_ids(caller: Caller) -> None:
    ids = {"X_Dfs_Op": str(uuid.uuid4()), "Idempotency_Key": str(uuid.uuid4())}
    assert caller.file("PUT", "x", b"data", **ids).status == 400


def test_a_refusal_stays_a_refusal(caller: Caller) -> None:
    assert caller.file("PUT", "x", b"first").status == 201
    op = str(uuid.uuid4())
    assert caller.file("PUT", "x", b"second", X_Dfs_Op=op, If_None_Match="*").status == 412
    assert caller.file("DELETE", "x").status == 204
    assert caller.file("PUT", "x", b"second", X_Dfs_Op=op, If_None_Match="*").status == 412
    assert caller.file("GET", "x").status == 404


# --- conditions and ranges ---------------------------------------------------------------------------------


def test_conditions_on_writes(caller: Caller) -> None:
    first = caller.file("PUT", "x", b"1").etag
    assert caller.file("PUT", "x", b"2", If_None_Match="*").status == 412
    assert caller.file("PUT", "x", b"2", If_Match=f'"{uuid.uuid4()}"').status == 412
    assert caller.file("PUT", "x", b"2", If_Match=f'W/"{first}"').status == 412
    assert caller.file("PUT", "new", b"2", If_Match="*").status == 412
    assert caller.file("PUT", "x", b"2", If_Match=f'"{first}"').status == 201
    assert caller.file("PUT", "x", b"3", If_Match=first).status == 400
    assert caller.file("PUT", "x", b"3", If_Unmodified_Since="Sun, 06 Nov 2094 08:49:37 GMT").status == 400
    assert caller.file("DELETE", "x", If_Match=f'"{first}"').status == 412
    assert caller.file("GET", "x").body == b"2"


def test_conditions_on_reads(caller: Caller) -> None:
    tag = f'"{caller.file("PUT", "x", b"data").etag}"'
    modified = caller.file("GET", "x").headers["last-modified"]
    for headers in ({"If_None_Match": tag}, {"If_None_Match": f'"a", W/{tag}'}, {"If_None_Match": "*"},
                    {"If_Modified_Since": modified}):  # fmt: skip
        answer = caller.file("GET", "x", **headers)
        assert (answer.status, answer.body, answer.headers["etag"]) == (304, b"", tag)
        assert caller.file("HEAD", "x", **headers).status == 304
    assert caller.file("GET", "x", If_None_Match='"other"', If_Modified_Since=modified).status == 200
    assert caller.file("GET", "x", If_Match='"other"').status == 412
    assert caller.file("GET", "x", If_Match=f"W/{tag}").status == 412
    assert caller.file("GET", "x", If_Match=tag).status == 200
    assert caller.file("GET", "x", If_Unmodified_Since="Sun, 06 Nov 1994 08:49:37 GMT").status == 412
    assert caller.file("GET", "x", If_Modified_Since="yesterday").status == 200


def test_ranges(caller: Caller, rng: random.Random) -> None:
    data = rng.randbytes(700_000)
    tag = f'"{caller.file("PUT", "x", data, X_Chunk_Size="300000").etag}"'
    for first, last in [(0, 0), (0, 699_999), (299_999, 300_000), (262_143, 262_145), (600_000, 10**30), (5, 650_000)]:
        answer = caller.file("GET", "x", Range=f"bytes={first}-{last}")
        end = min(last, 699_999)
        assert (answer.status, answer.body) == (206, data[first : end + 1])
        assert answer.headers["content-range"] == f"bytes {first}-{end}/700000"
        assert caller.file("GET", "x", Range=f"bytes={first}-{last}", If_Range='"other"').status == 200
        assert caller.file("GET", "x", Range=f"bytes={first}-{last}", If_Range=tag).status == 206
    assert caller.file("GET", "x", Range="bytes=-7").body == data[-7:]
    assert caller.file("GET", "x", Range="bytes=699990-").body == data[699_990:]
    for outside in ("bytes=700000-", "bytes=-0"):
        answer = caller.file("GET", "x", Range=outside)
        assert (answer.status, answer.code) == (416, "range_not_satisfiable")
        assert answer.headers["content-range"] == "bytes */700000"
    for ignored in ("bytes=0-1,4-5", "bytes=5-4", "lines=0-1", "bytes=a-b", "bytes"):
        assert caller.file("GET", "x", Range=ignored).status == 200


# --- reading when something is wrong -----------------------------------------------------------------------


def test_reads_go_on_without_a_node(api: LocalApi, caller: Caller, rng: random.Random) -> None:
    data = rng.randbytes(1_000_000)
    file_id = caller.file("PUT", "x", data).etag
    api.holders(file_id)[0].kill()
    assert caller.file("GET", "x").body == data


def test_a_chunk_that_no_node_has_is_a_clean_error(api: LocalApi, caller: Caller) -> None:
    file_id = caller.file("PUT", "x", b"data").etag
    for node in api.holders(file_id):
        node.chunks.clear()
    answer = caller.file("GET", "x")
    assert (answer.status, answer.code) == (503, "no_replica")
    assert "chunk 0" in str(answer.json)
    assert caller.file("HEAD", "x").status == 200


def test_corrupt_bytes_are_never_sent(api: LocalApi, caller: Caller) -> None:
    data = b"data" * 100_000
    file_id = caller.file("PUT", "x", data, X_Chunk_Size="1000000").etag
    one, two = api.holders(file_id)
    one.sums[file_id, 0] = sha(b"other")
    for _ in range(4):
        assert caller.file("GET", "x").body == data
    two.sums[file_id, 0] = sha(b"other")
    assert caller.file("GET", "x").status == 503


def test_a_short_body_never_looks_complete(api: LocalApi, caller: Caller) -> None:
    data = b"data" * 100_000
    file_id = caller.file("PUT", "x", data).etag
    for node in api.nodes:
        node.chunks.pop((file_id, 5), None)
    with pytest.raises(NoAnswer):
        caller.file("GET", "x")


def test_a_file_replaced_and_erased_before_its_first_byte(
    api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    caller.file("PUT", "x", b"old")
    stale = api.store.get_head("default", "x")
    caller.file("PUT", "x", b"new", X_Dfs_Op=str(uuid.uuid4()))
    assert stale is not None
    purged = caller.file("PUT", "y", b"gone").etag
    head = api.store.get_head("default", "y")
    caller.file("DELETE", "y", query={"purge": "1"})
    api.erase_now()
    assert head is not None and purged == head.file_id
    answers = [head]
    get_head = api.store.get_head
    monkeypatch.setattr(api.store, "get_head", lambda b, p: answers.pop() if answers else get_head(b, p))
    assert caller.file("GET", "x").body == b"new"


# --- delete, move, list, buckets ---------------------------------------------------------------------------


def test_delete_to_the_trash_and_for_good(api: LocalApi, caller: Caller) -> None:
    kept, gone = caller.file("PUT", "a", b"1").etag, caller.file("PUT", "b", b"2").etag
    assert caller.file("DELETE", "a").status == 204
    assert caller.file("DELETE", "a").status == 404
    assert caller.file("DELETE", "b", query={"purge": "1"}).status == 204
    assert caller.file("DELETE", "b", query={"purge": "maybe"}).status == 400
    api.erase_now()
    assert api.stored() == {kept}
    assert gone not in api.stored()
    record = api.store.get_file(kept)
    assert record is not None and record.state is FileState.TRASHED
    assert caller.call("GET", f"/content/{kept}").status == 404
    assert caller.call("GET", f"/download-plan?file_id={kept}").status == 404


def test_a_repeated_delete_is_answered_like_the_first(caller: Caller) -> None:
    caller.file("PUT", "a", b"1")
    op = str(uuid.uuid4())
    assert caller.file("DELETE", "a", X_Dfs_Op=op).status == 204
    assert caller.file("DELETE", "a", X_Dfs_Op=op).status == 204
    caller.file("PUT", "a", b"2")
    assert caller.file("DELETE", "b", X_Dfs_Op=op).status == 412


def test_move(caller: Caller) -> None:
    tag = caller.file("PUT", "a", b"1", Content_Type="text/x").etag
    caller.file("PUT", "b", b"2")
    assert caller.file("POST", "a").status == 400
    assert caller.file("POST", "a", query={"move_to": "../b"}).code == "bad_path"
    assert caller.file("POST", "a", query={"move_to": "b"}).status == 412
    assert caller.file("POST", "a", query={"move_to": "c"}, If_Match='"other"').status == 412
    op = str(uuid.uuid4())
    moved = caller.file("POST", "a", query={"move_to": "b", "overwrite": "1"}, X_Dfs_Op=op)
    assert (moved.status, moved.json["path"], moved.json["file_id"]) == (200, "b", tag)
    again = caller.file("POST", "a", query={"move_to": "b", "overwrite": "1"}, X_Dfs_Op=op)
    assert (again.status, again.json) == (200, moved.json)
    assert caller.file("GET", "a").status == 404
    assert caller.file("GET", "b").body == b"1"
    assert caller.file("POST", "nothing", query={"move_to": "d"}).status == 404


def test_listing(caller: Caller) -> None:
    for name in ("a", "b/1", "b/2", "c", "ü"):
        assert caller.file("PUT", name, name.encode()).status == 201
    answer = caller.call("GET", "/files?delimiter=/").json
    assert [file["path"] for file in answer["files"]] == ["a", "c", "ü"]  # type: ignore[attr-defined]
    assert (answer["prefixes"], answer["cursor"], answer["bucket"]) == (["b/"], None, "default")
    seen, cursor = [], ""
    while True:
        page = caller.call("GET", f"/files?limit=2&cursor={cursor}").json
        seen += [file["path"] for file in page["files"]]  # type: ignore[attr-defined]
        if page["cursor"] is None:
            break
        cursor = str(page["cursor"])
    assert seen == ["a", "b/1", "b/2", "c", "ü"]


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=-1", "cursor=x", "cursor=NQ", "cursor=W10", "cursor=WzEsMSwxXQ",
     "cursor=" + "A" * 9000, "limit=1&limit=2", "delimiter=" + "x" * 65, "bucket=No", "prefix=%ff"],
)  # fmt: skip
def test_listings_that_are_none(caller: Caller, query: str) -> None:
    assert caller.call("GET", f"/files?{query}").status == 400


def test_buckets(caller: Caller) -> None:
    assert caller.file("PUT", "x", b"1", query={"bucket": "photos"}).status == 404
    assert caller.file("GET", "x", query={"bucket": "photos"}).status == 404
    assert caller.call("GET", "/files?bucket=photos").status == 404
    assert caller.call("PUT", "/buckets/photos").status == 201
    assert caller.call("PUT", "/buckets/photos").status == 200
    assert caller.call("PUT", "/buckets/Photos").status == 400
    assert caller.file("PUT", "x", b"1", query={"bucket": "photos"}).status == 201
    assert caller.file("GET", "x").status == 404
    assert caller.file("GET", "x", query={"bucket": "photos"}).body == b"1"
    buckets = caller.call("GET", "/buckets").json["buckets"]
    assert [bucket["name"] for bucket in buckets] == ["default", "photos", "uploads"]  # type: ignore[attr-defined]


def test_notes_reach_the_nodes(api: LocalApi, caller: Caller) -> None:
    file_id = caller.file("PUT", "a", b"1").etag
    caller.file("POST", "a", query={"move_to": "b"})
    caller.file("DELETE", "b")
    assert api.service.notes.flush(30)
    for node in api.holders(file_id):
        assert [(note["op"], note["path"], note["state"]) for note in node.noted] == [
            ("put", "a", "committed"),
            ("move", "b", "committed"),
            ("trash", "b", "trashed"),
        ]


def test_the_state_of_nodes_and_server(api: LocalApi, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = caller.call("GET", "/nodes").json["nodes"]
    assert [(node["node_id"], node["alive"], node["state"]) for node in nodes] == [  # type: ignore[attr-defined]
        (f"node{number}", True, "active") for number in (1, 2, 3)
    ]
    assert caller.call("GET", "/healthz").json["role"] == "api"
    assert caller.call("GET", "/readyz").status == 200
    monkeypatch.setattr(api.service.membership, "read_age", lambda: 60.0)
    answer = caller.call("GET", "/readyz")
    assert (answer.status, answer.code) == (503, "unavailable")
    assert "retry-after" in answer.headers
