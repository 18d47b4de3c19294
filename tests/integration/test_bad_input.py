"""Wrong requests are refused with the right status and a sentence, and leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import socket
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.caller import Answer, Caller
from tests.support.cluster import Cluster

CHUNK = b"c" * 1024


@pytest.fixture(scope="module", autouse=True)
def nothing_stored(cluster: Cluster) -> Iterator[None]:
    """After all of these tests, no path under bad/ exists, and the server is well."""
    yield
    caller = cluster.caller()
    assert caller.call("GET", "/files?prefix=bad/").json["files"] == []
    assert caller.call("GET", "/readyz").status == 200
    caller.close()


@pytest.fixture
def caller(cluster: Cluster) -> Iterator[Caller]:
    made = cluster.caller()
    yield made
    made.close()


def begin(caller: Caller, size: int = 3000) -> str:
    """Start an upload of 1,024-byte chunks; returns its file id."""
    answer = post(caller, "/init-upload", {"filename": "a.bin", "size": size, "chunk_size": 1024})
    assert answer.status == 200
    return str(answer.json["file_id"])


def post(caller: Caller, target: str, value: Any) -> Answer:
    return caller.call("POST", target, value if isinstance(value, bytes) else json.dumps(value).encode())


def chunk_target(file_id: str, index: object) -> str:
    return f"/proxy-chunk-upload?file_id={file_id}&chunk_index={index}&node_id=node1"


def missing(caller: Caller, file_id: str) -> object:
    return caller.call("GET", f"/uploads/{file_id}").json["missing"]


def refused(answer: Answer, status: int, *codes: str) -> None:
    """The answer is this error, in the one shape that errors have."""
    assert answer.status == status, answer
    error = answer.json["error"]
    assert isinstance(error, dict)
    assert error["code"] in codes
    assert error["message"]
    assert error["request_id"] == answer.headers["x-request-id"]
    assert isinstance(error["retryable"], bool)


def test_a_chunk_with_a_wrong_checksum(caller: Caller) -> None:
    file_id = begin(caller)
    wrong = hashlib.sha256(b"other").hexdigest()
    refused(caller.call("PUT", chunk_target(file_id, 0), CHUNK, X_Chunk_Checksum=wrong), 400, "checksum_mismatch")
    refused(caller.call("PUT", chunk_target(file_id, 0), CHUNK, X_Chunk_Checksum="12"), 400, "bad_request")
    assert missing(caller, file_id) == [[0, 2]]


@pytest.mark.parametrize(("index", "length"), [(0, 1023), (0, 1025), (0, 0), (2, 1024), (2, 951)])
def test_a_chunk_of_a_wrong_length(caller: Caller, index: int, length: int) -> None:
    file_id = begin(caller)
    answer = caller.call("PUT", chunk_target(file_id, index), b"x" * length)
    assert answer.status in (400, 413)
    refused(answer, answer.status, "length_mismatch", "too_large")
    assert missing(caller, file_id) == [[0, 2]]


def test_an_unknown_file(caller: Caller) -> None:
    unknown = str(uuid.uuid4())
    refused(caller.call("PUT", chunk_target(unknown, 0), CHUNK), 404, "not_found")
    refused(post(caller, "/finalize-upload", {"file_id": unknown}), 404, "not_found")
    for target in (
        f"/download-plan?file_id={unknown}",
        f"/proxy-chunk-download?file_id={unknown}&chunk_index=0&node_id=node1",
        f"/content/{unknown}",
        f"/uploads/{unknown}",
        "/files/no/such/path",
    ):
        refused(caller.call("GET", target), 404, "not_found")
    refused(caller.call("DELETE", "/files/no/such/path"), 404, "not_found")


@pytest.mark.parametrize("index", ["3", "4294967296", "-1", "x", "1.0", "+1", "", "99999999999999999999"])
def test_an_index_out_of_range(caller: Caller, index: str) -> None:
    file_id = begin(caller)
    answer = caller.call("PUT", chunk_target(file_id, index), CHUNK)
    refused(answer, 400, "bad_index", "bad_request")
    assert missing(caller, file_id) == [[0, 2]]


@pytest.mark.parametrize(
    "path",
    ["..", "a/../b", "a/./b", "%2e%2e", "a/%2e%2e/b", "a/%2E%2E%2Fb", "a%00b", "%00", "a//b", "a/", "%2Fa", "a%0Ab",
     "a%7Fb", "a%c2%80b", "%ff", "a%c0%afb", "%zz", "a%2", "x" * 1025],
)  # fmt: skip
def test_a_path_that_is_none(caller: Caller, path: str) -> None:
    for method, body in (("PUT", b"x"), ("GET", None), ("DELETE", None)):
        answer = caller.call(method, f"/files/{path}", body)
        refused(answer, 400, "bad_path", "bad_request")


@pytest.mark.parametrize("file_id", ["..", "%2e%2e", "a%00b", "..%2f..%2fetc%2fpasswd", "1", "0" * 36, ""])
def test_a_file_id_that_is_none(caller: Caller, file_id: str) -> None:
    refused(caller.call("PUT", chunk_target(file_id, 0), CHUNK), 400, "bad_request")
    refused(caller.call("GET", f"/download-plan?file_id={file_id}"), 400, "bad_request")
    refused(post(caller, "/finalize-upload", {"file_id": file_id}), 400, "bad_request")


BAD_UPLOADS: list[Any] = [
    {"filename": "a", "size": 10, "chunk_size": "x"},
    {"filename": "a", "size": 10, "chunk_size": True},
    {"filename": "a", "size": 10, "chunk_size": 1.5},
    b'{"filename": "a", "size": 10, "chunk_size": 1e999}',
    {"filename": "a", "size": 10, "chunk_size": 2**63},
    {"filename": "a", "size": 10, "chunk_size": (16 << 20) + 1},
    {"filename": "a", "size": -1},
    {"filename": "a", "size": "10"},
    {"filename": "a", "size": None},
    {"filename": "a"},
    {"filename": "", "size": 10},
    {"filename": "a\0b", "size": 10},
    {"filename": None, "size": 10},
    {"size": 10},
    b'{"filename": "a", "size": 10, "size": 11}',
    b'{"filename": "\xff", "size": 10}',
    b'{"filename": "a", "size": NaN}',
    b'{"filename": "a", "size": 10',
    b"[1]",
    b"null",
    b"",
    b"[" * 5000,
    {"filename": "a", "size": 2**40, "chunk_size": 1},
]


@pytest.mark.parametrize("value", BAD_UPLOADS, ids=lambda value: str(value)[:60])
def test_an_upload_that_is_none(caller: Caller, value: Any) -> None:
    refused(post(caller, "/init-upload", value), 400, "bad_request", "too_many_chunks", "bad_path")


@pytest.mark.parametrize("size", ["x", "0", "-1", "1.5", "1e3", "true", str(2**63), str((16 << 20) + 1), "9" * 400])
def test_a_chunk_size_header_that_is_none(caller: Caller, size: str) -> None:
    refused(caller.file("PUT", "bad/chunk-size", b"data", X_Chunk_Size=size), 400, "bad_request")
    assert caller.file("GET", "bad/chunk-size").status == 404


def test_a_file_with_a_wrong_checksum(caller: Caller) -> None:
    wrong = hashlib.sha256(b"other").hexdigest()
    refused(caller.file("PUT", "bad/checksum", b"data", X_File_SHA256=wrong), 400, "checksum_mismatch")
    big = b"d" * 300_000
    answer = caller.file("PUT", "bad/checksum", big, X_File_SHA256=wrong, X_Chunk_Size="65536")
    refused(answer, 400, "checksum_mismatch")
    assert caller.file("GET", "bad/checksum").status == 404


def test_the_smallest_chunk_size_that_fits_is_named(caller: Caller) -> None:
    answer = post(caller, "/init-upload", {"filename": "a", "size": 131072 * 2000, "chunk_size": 1024})
    refused(answer, 400, "too_many_chunks")
    assert "2000" in str(answer.json["error"])


def test_two_contents_for_one_chunk(caller: Caller) -> None:
    file_id = begin(caller)
    assert caller.call("PUT", chunk_target(file_id, 0), CHUNK).status == 201
    assert caller.call("PUT", chunk_target(file_id, 0), CHUNK).status == 201
    refused(caller.call("PUT", chunk_target(file_id, 0), b"d" * 1024), 409, "chunk_conflict")


def test_what_is_not_finished_is_not_shown(caller: Caller) -> None:
    file_id = begin(caller)
    assert caller.call("PUT", chunk_target(file_id, 1), CHUNK).status == 201
    answer = post(caller, "/finalize-upload", {"file_id": file_id})
    refused(answer, 409, "incomplete")
    error = answer.json["error"]
    assert isinstance(error, dict)
    assert error["missing"] == [[0, 0], [2, 2]]
    refused(caller.call("GET", f"/download-plan?file_id={file_id}"), 409, "not_finalized")


def raw(port: int, *pieces: bytes, shut: bool = False) -> bytes:
    """Send bytes, read all that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
            if shut:
                connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # it answered and closed before it read everything
        received = b""
        try:
            while piece := connection.recv(65536):
                received += piece
        except ConnectionResetError:
            pass
    return received


def test_ten_megabytes_of_headers(cluster: Cluster) -> None:
    line = b"X-Filler: " + b"f" * 1000 + b"\r\n"
    answer = raw(cluster.port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n", line * 10_000, b"\r\n")
    # The connection may be reset while the rest is still on its way: then nothing is received.
    assert answer == b"" or answer.startswith(b"HTTP/1.1 431 ")
    assert cluster.caller().call("GET", "/healthz").status == 200


def test_a_body_shorter_than_declared(cluster: Cluster, caller: Caller) -> None:
    head = b"PUT /files/bad/short HTTP/1.1\r\nHost: a\r\nContent-Length: 5000\r\n\r\n"
    answer = raw(cluster.port, head, b"x" * 4999, shut=True)
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 ")
    assert caller.file("GET", "bad/short").status == 404
    file_id = begin(caller)
    head = f"PUT {chunk_target(file_id, 0)} HTTP/1.1\r\nHost: a\r\nContent-Length: 1024\r\n\r\n".encode()
    raw(cluster.port, head, b"x" * 1000, shut=True)
    assert missing(caller, file_id) == [[0, 2]]


def test_a_chunked_body_that_breaks_off(cluster: Cluster, caller: Caller) -> None:
    head = b"PUT /files/bad/chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    raw(cluster.port, head, b"1000\r\n" + b"x" * 0x1000 + b"\r\n", shut=True)
    answer = raw(cluster.port, head, b"5\r\nabcdeXX0\r\n\r\n", shut=True)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert caller.file("GET", "bad/chunked").status == 404


def test_a_body_longer_than_declared_is_the_next_request(cluster: Cluster, caller: Caller) -> None:
    head = b"PUT /files/good/declared HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n"
    answer = raw(cluster.port, head, b"data", b"and more\r\n\r\n", shut=True)
    assert answer.startswith(b"HTTP/1.1 201 ")
    assert answer.count(b"HTTP/1.1 400 ") == 1
    assert caller.file("GET", "good/declared").body == b"data"
