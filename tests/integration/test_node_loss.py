"""Three nodes, factor 2: what goes on when nodes die, move or change places."""

from __future__ import annotations

import hashlib
import http.client
import random
import threading
from collections.abc import Iterator

from tests.support.caller import Answer, Caller
from tests.support.cluster import Cluster, eventually

MIB = 1 << 20


def put(caller: Caller, path: str, data: bytes, chunk_size: int = 64 << 10) -> Answer:
    return caller.file("PUT", path, data, X_Chunk_Size=str(chunk_size))


def test_one_node_killed_before_a_write_fails_neither_writes_nor_reads(fragile: Cluster, rng: random.Random) -> None:
    caller = fragile.caller()
    before = rng.randbytes(2 * MIB)
    assert put(caller, "before", before).status == 201
    fragile.node("node2").kill()
    for number in range(10):
        data = rng.randbytes(300_000 + number)
        assert put(caller, f"after/{number}", data).status == 201
        assert caller.file("GET", f"after/{number}").body == data
    assert caller.file("GET", "before").body == before
    caller.close()


def test_one_node_killed_in_the_middle_fails_neither_a_write_nor_a_read(
    fragile: Cluster, rng: random.Random
) -> None:
    """The node dies while a body is half sent, and while another is half received."""
    caller = fragile.caller()
    data = rng.randbytes(8 * MIB)
    assert put(caller, "read", data).status == 201
    caller.close()
    outcomes: list[tuple[int, bytes]] = []
    sent_half, killed = threading.Event(), threading.Event()

    def body() -> Iterator[bytes]:
        yield data[: 4 * MIB]
        sent_half.set()
        killed.wait(60)
        yield data[4 * MIB :]

    def write() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", fragile.port, timeout=120)
        headers = {"Content-Length": str(len(data)), "X-Chunk-Size": str(64 << 10)}
        connection.request("PUT", "/files/written", body(), headers)
        answer = connection.getresponse()
        outcomes.append((answer.status, answer.read()))
        connection.close()

    writer = threading.Thread(target=write)
    writer.start()
    assert sent_half.wait(60)
    reader = http.client.HTTPConnection("127.0.0.1", fragile.port, timeout=120)
    reader.request("GET", "/files/read")
    answer = reader.getresponse()
    received = answer.read(MIB)
    fragile.node("node1").kill()
    killed.set()
    received += answer.read()
    reader.close()
    writer.join(120)
    assert received == data
    assert [status for status, _ in outcomes] == [201], outcomes
    again = fragile.caller()
    assert again.file("GET", "written").body == data
    again.close()


def test_two_nodes_killed_writes_are_refused_with_numbers_and_no_half_file_shows(
    fragile: Cluster, rng: random.Random
) -> None:
    caller = fragile.caller()
    data = {f"file/{number}": rng.randbytes(200_000) for number in range(12)}
    for path, content in data.items():
        assert put(caller, path, content, 1 << 20).status == 201  # one chunk each
    fragile.node("node1").kill()
    fragile.node("node3").kill()

    refused = put(caller, "new", rng.randbytes(200_000))
    assert (refused.status, refused.code) == (503, "not_enough_nodes")
    assert "Required: 2, Available: 1" in str(refused.json["error"])
    assert "retry-after" in refused.headers
    started = caller.call("POST", "/init-upload", b'{"filename": "a", "size": 10}')
    assert started.status == 503
    assert "Not enough active nodes. Required: 2, Available: 1" in str(started.json["error"])
    overwrite = put(caller, "file/0", b"other")
    assert overwrite.status == 503

    assert caller.file("GET", "new").status == 404
    there = 0
    for path, content in data.items():
        answer = caller.file("GET", path)
        if answer.status == 200:
            assert answer.body == content
            there += 1
        else:
            assert (answer.status, answer.code) == (503, "no_replica")
    assert there > 0
    listing = caller.call("GET", "/files?prefix=file/").json["files"]
    assert isinstance(listing, list)
    assert [entry["path"] for entry in listing] == sorted(data)

    fragile.node("node1").start()
    eventually(lambda: put(caller, "new", b"now").status == 201, "writes are taken again")
    assert all(caller.file("GET", path).body == content for path, content in data.items())
    caller.close()


def test_a_node_that_comes_back_on_another_port_is_found(fragile: Cluster, rng: random.Random) -> None:
    caller = fragile.caller()
    data = rng.randbytes(500_000)
    assert put(caller, "file", data).status == 201
    node = fragile.node("node1")
    old_port = node.port
    node.kill()
    # Some other server takes the old port, so that calls to it are answered, but not by node1.
    fragile.node("node2").stop()
    fragile.node("node2").start(NODE_PORT=str(old_port))
    node.start(NODE_PORT="0")
    assert node.port != old_port
    fragile.wait_alive({"node1", "node2", "node3"})
    fragile.node("node3").kill()
    assert caller.file("GET", "file").body == data
    assert put(caller, "more", data).status == 201
    caller.close()


def test_two_nodes_with_swapped_ports_never_answer_for_each_other(fragile: Cluster, rng: random.Random) -> None:
    caller = fragile.caller()
    data = {f"file/{number}": rng.randbytes(40_000 + number) for number in range(20)}
    for path, content in data.items():
        assert put(caller, path, content, 8192).status == 201
    one, two = fragile.node("node1"), fragile.node("node2")
    ports = one.port, two.port
    one.kill()
    two.kill()
    one.start(NODE_PORT=str(ports[1]))
    two.start(NODE_PORT=str(ports[0]))
    for path, content in data.items():
        answer = caller.file("GET", path)
        assert answer.status == 200
        assert answer.body == content
        assert put(caller, path + "/new", content, 8192).status == 201
    fragile.wait_alive({"node1", "node2", "node3"})
    for node in (one, two):
        direct = Caller(node.port)
        target = "/store-chunk?file_id=8d3c4f0a-0000-4000-8000-000000000000&chunk_index=0"
        other = two.name if node is one else one.name
        stored = direct.call("PUT", target, b"x", X_Dfs_Node=other, X_Chunk_Checksum=hashlib.sha256(b"x").hexdigest())
        assert (stored.status, stored.code) == (421, "wrong_node")
        direct.close()
    caller.close()
