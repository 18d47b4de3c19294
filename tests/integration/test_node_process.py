"""Storage nodes as real processes over SQLite metadata: start, serve, refuse, stop."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.chunkbatch import NewChunk, encode_batch
from dfs.metadata.sqlite import SqliteStore
from dfs.model import AdminState, NodeInfo, NodeStatus
from tests.support import needs
from tests.support.caller import Answer, Caller
from tests.support.cluster import ROOT, DidNotStart, Server, eventually
from tests.support.imds import ImdsServer

PIECE = 256 * 1024


class Lab:
    """Metadata, and nodes to be started on it; everything is killed at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.database = directory / "metadata.sqlite"
        self.metadata = SqliteStore(str(self.database))
        self.cluster_id = self.metadata.create().cluster_id
        self.servers: list[Server] = []

    def node(self, name: str, **environ: str) -> Server:
        """A node that is not started yet. An empty value leaves a setting out."""
        base = {
            "DFS_METADATA_URL": f"sqlite:///{self.database}",
            "NODE_ID": name,
            "NODE_PORT": "0",
            "NODE_PRIVATE_IP": "127.0.0.1",
            "DFS_ZONE": "lab",
            "DFS_DATA_DIR": str(self.directory / name),
            "NODE_HEARTBEAT_INTERVAL": "0.2",
            "DFS_VOLUME_SIZE": "64MiB",
        }
        log = self.directory / f"{name}-{len(self.servers)}.log"
        server = Server(name, "dfs.node", base | environ, log)
        self.servers.append(server)
        return server

    def started(self, name: str, **environ: str) -> Server:
        server = self.node(name, **environ)
        server.start()
        return server

    def row(self, name: str) -> NodeInfo:
        return next(row for row in self.metadata.list_nodes() if row.node_id == name)

    def refusal(self, server: Server, **changes: str) -> str:
        """What a node says that must not start with exit code 1."""
        with pytest.raises(DidNotStart) as refused:
            server.start(**changes)
        assert refused.value.code == 1, refused.value
        return sentence(str(refused.value))


def sentence(said: str) -> str:
    """The one sentence on stderr, behind the log lines; there is no traceback."""
    assert "Traceback" not in said
    lines = [line for line in said.splitlines() if line.startswith("dfs-node: ")]
    assert len(lines) == 1, said
    return lines[0]


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    for server in made.servers:
        server.kill()
    made.metadata.close()


def chunk(file_id: str, index: int = 0, call: str = "store-chunk", more: str = "") -> str:
    return f"/{call}?file_id={file_id}&chunk_index={index}{more}"


def call(server: Server, method: str, target: str, body: bytes | None = None, **headers: str) -> Answer:
    caller = Caller(server.port)
    try:
        return caller.call(method, target, body, **headers)
    finally:
        caller.close()


def new_id() -> str:
    return str(uuid.uuid4())


def content(size: int) -> bytes:
    return (hashlib.sha256(str(size).encode()).digest() * (size // 32 + 1))[:size]


def raw(server: Server, head: str) -> tuple[bytes, socket.socket]:
    """Send a head as it stands; the first bytes of what comes back, and the connection."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=60)
    connection.sendall(head.replace("\n", "\r\n").encode())
    return connection.recv(65536), connection


# --- start and serve ---


def test_a_node_registers_and_says_what_it_is(lab: Lab) -> None:
    node = lab.started("n1")
    row = lab.row("n1")
    assert (row.address, row.port, row.zone) == ("127.0.0.1", node.port, "lab")
    assert (row.status, row.admin_state) == (NodeStatus.ACTIVE, AdminState.ACTIVE)
    assert row.capacity_bytes >= row.free_bytes > 0
    told = call(node, "GET", "/healthz").json
    assert told["role"] == "node"
    assert (told["node_id"], told["cluster_id"]) == ("n1", lab.cluster_id)
    assert (told["boot_id"], told["disk_id"]) == (row.boot_id, row.disk_id)
    assert (told["version"], told["wire_version"], told["disk_format"]) == (row.version, 1, 1)
    assert call(node, "GET", "/readyz").status == 200
    eventually(lambda: lab.row("n1").heartbeat_seq > row.heartbeat_seq + 2, "heartbeats")


@pytest.mark.parametrize("size", [0, 1, 1024, PIECE, PIECE + 1, 2 * PIECE + 5])
def test_chunks_come_back_whole_and_in_pieces(lab: Lab, size: int) -> None:
    node, file_id, data = lab.started("n1"), new_id(), content(size)
    checksum = hashlib.sha256(data).hexdigest()
    stored = call(node, "PUT", chunk(file_id, 3, more="&replica_type=secondary"), data, X_Chunk_Checksum=checksum)
    assert (stored.status, stored.json["checksum"], stored.json["length"]) == (201, checksum, size)
    repeated = call(node, "POST", chunk(file_id, 3), data)
    assert repeated.status == 201
    found = call(node, "GET", chunk(file_id, 3, "get-chunk"))
    assert (found.status, found.body, found.headers["x-chunk-checksum"]) == (200, data, checksum)
    pieces = [data[at : at + PIECE] for at in range(0, size, PIECE)]
    assert found.headers["x-dfs-piece-crcs"] == "".join(f"{zlib.crc32(piece):08x}" for piece in pieces)
    for number, piece in enumerate(pieces):
        part = call(node, "GET", chunk(file_id, 3, "get-chunk"), X_Dfs_Pieces=f"{number}-{number}")
        assert part.body == piece
        assert part.headers["x-dfs-piece-crcs"] == f"{zlib.crc32(piece):08x}"
        assert part.headers["x-dfs-chunk-length"] == str(size)
    assert call(node, "HEAD", chunk(file_id, 3, "get-chunk")).headers["content-length"] == str(size)
    assert call(node, "POST", chunk(file_id, 3, "verify-chunk")).json == {"checksum": checksum, "length": size}


def test_a_batch_is_answered_chunk_by_chunk_and_survives_a_kill(lab: Lab) -> None:
    node, taken = lab.started("n1"), new_id()
    assert call(node, "PUT", chunk(taken), b"other bytes").status == 201
    datas = [content(number * 100) for number in range(40)]
    batch = [
        NewChunk(new_id(), number, data, hashlib.sha256(data).hexdigest(), zlib.crc32(data), 1 << 20, None)
        for number, data in enumerate(datas)
    ]
    bad = [batch[3]._replace(file_id=taken, chunk_index=0), batch[4]._replace(crc32=0)]
    answer = call(node, "POST", "/store-chunks", encode_batch([*batch, *bad]))
    assert answer.status == 200
    told = answer.json
    assert (told["node_id"], told["stored"]) == ("n1", 40)
    errors = told["errors"]
    assert isinstance(errors, dict)
    assert {place: (error["status"], error["error"]["code"]) for place, error in errors.items()} == {
        "40": (409, "chunk_conflict"),
        "41": (400, "checksum_mismatch"),
    }
    malformed = call(node, "POST", "/store-chunks", encode_batch(batch)[:-1])
    assert (malformed.status, malformed.code) == (400, "bad_request")
    assert call(node, "POST", "/store-chunks", encode_batch(batch)).json["stored"] == 40, "it is safe to repeat"
    node.kill()
    node.start()
    for stored, data in zip(batch, datas, strict=True):
        found = call(node, "GET", chunk(stored.file_id, stored.chunk_index, "get-chunk"))
        assert (found.status, found.body) == (200, data)


@pytest.mark.parametrize("size", [0, 1, PIECE, 2 * PIECE + 5])
def test_piece_crcs_vouch_for_the_bytes_of_a_store(lab: Lab, size: int) -> None:
    node, file_id, data = lab.started("n1"), new_id(), content(size)
    checksum = hashlib.sha256(data).hexdigest()
    crcs = "".join(f"{zlib.crc32(data[at : at + PIECE]):08x}" for at in range(0, size, PIECE))
    headers = {"X_Chunk_Checksum": checksum, "X_Dfs_Piece_Crcs": crcs}
    if size:
        other = data[:-1] + bytes([data[-1] ^ 1])
        refused = call(node, "PUT", chunk(file_id), other, **headers)
        assert (refused.status, refused.code) == (400, "checksum_mismatch")
        assert call(node, "GET", chunk(file_id, call="get-chunk")).status == 404
    stored = call(node, "PUT", chunk(file_id), data, **headers)
    assert (stored.status, stored.json["checksum"]) == (201, checksum)
    assert call(node, "POST", chunk(file_id, call="verify-chunk")).json == {"checksum": checksum, "length": size}


def test_every_refusal_has_its_status_and_stores_nothing(lab: Lab) -> None:
    node, file_id, data = lab.started("n1", DFS_MAX_CHUNK_SIZE="1MiB"), new_id(), b"abc"
    for expected, code, method, target, body, headers in [
        (400, "checksum_mismatch", "PUT", chunk(file_id), data, {"X_Chunk_Checksum": "0" * 64}),
        (400, "bad_request", "PUT", chunk(file_id), data, {"X_Chunk_Checksum": "xyz"}),
        (400, "bad_request", "PUT", "/store-chunk?chunk_index=0", data, {}),
        (400, "bad_request", "PUT", chunk("..%2F..%2Fetc%2Fpasswd"), data, {}),
        (400, "bad_request", "PUT", chunk(file_id, more="&chunk_index=1"), data, {}),
        (400, "bad_index", "PUT", f"/store-chunk?file_id={file_id}&chunk_index=-1", data, {}),
        (413, "too_large", "PUT", chunk(file_id), b"x" * ((1 << 20) + 1), {}),
        (421, "wrong_node", "PUT", chunk(file_id), data, {"X_Dfs_Node": "n2"}),
        (421, "wrong_node", "PUT", chunk(file_id), data, {"X_Dfs_Cluster": "c2"}),
        (404, "not_found", "GET", chunk(file_id, call="get-chunk"), None, {}),
        (404, "not_found", "POST", chunk(file_id, call="verify-chunk"), None, {}),
        (404, "not_found", "GET", "/nothing", None, {}),
        (405, "method_not_allowed", "DELETE", "/store-chunk", None, {}),
        (400, "bad_request", "POST", "/erase-files", b'{"file_ids":"x"}', {}),
        (413, "too_large", "POST", "/erase-files", b" " * 70_000, {}),
        (400, "bad_request", "POST", "/notes", b'{"notes":[],"notes":[]}', {}),
        (400, "bad_request", "GET", "/inventory?limit=10001", None, {}),
    ]:
        answer = call(node, method, target, body, **headers)
        assert (answer.status, answer.code) == (expected, code), (target, answer)
    assert call(node, "GET", "/inventory").json == {"chunks": [], "next": None}


def test_a_chunk_is_stored_once_with_other_bytes_refused(lab: Lab) -> None:
    node, file_id = lab.started("n1"), new_id()
    assert call(node, "PUT", chunk(file_id), b"abc").status == 201
    other = call(node, "PUT", chunk(file_id), b"xyz")
    assert (other.status, other.code) == (409, "chunk_conflict")
    assert call(node, "GET", chunk(file_id, call="get-chunk")).body == b"abc"
    beyond = call(node, "GET", chunk(file_id, call="get-chunk"), X_Dfs_Pieces="0-1")
    assert (beyond.status, beyond.code) == (416, "range_not_satisfiable")


def test_dropped_replicas_may_return_and_erased_files_may_not(lab: Lab) -> None:
    node, file_id = lab.started("n1"), new_id()
    call(node, "PUT", chunk(file_id), b"abc")
    assert call(node, "POST", chunk(file_id, call="drop-replica")).json == {"dropped": True}
    assert call(node, "POST", chunk(file_id, call="drop-replica")).json == {"dropped": False}
    assert call(node, "GET", chunk(file_id, call="get-chunk")).status == 404
    assert call(node, "PUT", chunk(file_id), b"abc").status == 201
    erase = json.dumps({"file_ids": [file_id, new_id()]}).encode()
    for _ in range(2):
        assert call(node, "POST", "/erase-files", erase).json == {"erased": 2}
    for gone in (
        call(node, "PUT", chunk(file_id), b"abc"),
        call(node, "GET", chunk(file_id, call="get-chunk")),
        call(node, "POST", chunk(file_id, call="verify-chunk")),
    ):
        assert (gone.status, gone.code) == (410, "gone")


def test_notes_are_taken_and_the_inventory_is_paged(lab: Lab) -> None:
    node, file_id = lab.started("n1"), new_id()
    for index in range(5):
        call(node, "PUT", chunk(file_id, index), b"x" * (index + 1))
    note = {"op_id": new_id(), "op": "commit", "bucket": "default", "path": "a/ü", "file_id": file_id, "version": 1,
            "size": 15, "chunk_count": 5, "chunk_size": 5, "sha256": None, "content_type": "text/plain",
            "state": "committed", "at": 1}  # fmt: skip
    taken = call(node, "POST", "/notes", json.dumps({"notes": [note]}).encode())
    assert (taken.status, taken.json) == (200, {"stored": 1})
    seen, after = [], "0"
    while after != "None":
        page = call(node, "GET", f"/inventory?after={after}&limit=2").json
        chunks = page["chunks"]
        assert isinstance(chunks, list) and len(chunks) <= 2
        seen += [entry["chunk_index"] for entry in chunks]
        after = str(page["next"])
    assert seen == [0, 1, 2, 3, 4]


def test_a_store_for_another_node_is_refused_before_100_continue(lab: Lab) -> None:
    node = lab.started("n1")
    head = f"PUT {chunk(new_id())} HTTP/1.1\nHost: x\nContent-Length: 3\nExpect: 100-continue\n"
    answer, connection = raw(node, head + "X-Dfs-Node: n2\n\n")
    with connection:
        assert answer.startswith(b"HTTP/1.1 421 ")
    answer, connection = raw(node, head + "\n")
    with connection:
        assert answer == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"abc")
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    answer, connection = raw(node, f"PUT {chunk(new_id())} HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n0\n\n")
    with connection:
        assert answer.startswith(b"HTTP/1.1 411 ")


def test_a_body_shorter_than_declared_stores_nothing(lab: Lab) -> None:
    node, file_id = lab.started("n1"), new_id()
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as connection:
        connection.sendall(f"PUT {chunk(file_id)} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc".encode())
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass
    assert call(node, "GET", "/inventory").json["chunks"] == []


def test_a_chunk_is_pulled_from_another_node(lab: Lab) -> None:
    source, target, file_id, data = lab.started("n1"), lab.started("n2"), new_id(), content(PIECE + 9)
    call(source, "PUT", chunk(file_id, 2), data)
    wanted = {
        "node_id": "n1", "address": "127.0.0.1", "port": source.port, "length": len(data),
        "checksum": hashlib.sha256(data).hexdigest(), "chunk_size": len(data), "file_size": None,
    }  # fmt: skip

    def pull(**changes: object) -> Answer:
        return call(target, "POST", chunk(file_id, 2, "pull-chunk"), json.dumps(wanted | changes).encode())

    for bad in ({"node_id": "n3"}, {"port": target.port}, {"checksum": "0" * 64}, {"length": 5, "chunk_size": 5}):
        refused = pull(**bad)
        assert (refused.status, refused.code) == (503, "no_replica"), bad
    assert call(target, "GET", "/inventory").json["chunks"] == []
    assert pull().status == 201
    assert call(target, "GET", chunk(file_id, 2, "get-chunk")).body == data
    source.kill()
    assert pull().status == 201, "what is here already needs no source"


# --- restart ---


@pytest.mark.parametrize("end", [Server.kill, Server.stop])
def test_a_node_restarted_on_another_port_has_its_data(lab: Lab, end: Callable[[Server], object]) -> None:
    node, file_id, data = lab.started("n1"), new_id(), content(70_000)
    call(node, "PUT", chunk(file_id), data)
    before, port = lab.row("n1"), node.port
    end(node)
    with socket.create_server(("127.0.0.1", port), reuse_port=False):
        node.start()
    after = lab.row("n1")
    assert after.port == node.port != port
    assert after.disk_id == before.disk_id
    assert after.boot_id != before.boot_id
    assert after.heartbeat_seq > before.heartbeat_seq
    assert call(node, "GET", chunk(file_id, call="get-chunk")).body == data


def test_nodes_with_swapped_ports_do_nothing_for_each_other(lab: Lab) -> None:
    one, two = lab.started("n1"), lab.started("n2")
    file_id = new_id()
    call(one, "PUT", chunk(file_id), b"abc")
    ports = one.port, two.port
    one.stop()
    two.stop()
    one.start(NODE_PORT=str(ports[1]))
    two.start(NODE_PORT=str(ports[0]))
    for server, asked in ((one, "n2"), (two, "n1")):
        for method, target, body in (
            ("GET", chunk(file_id, call="get-chunk"), None),
            ("PUT", chunk(new_id()), b"abc"),
            ("GET", "/healthz", None),
        ):
            answer = call(server, method, target, body, X_Dfs_Node=asked, X_Dfs_Cluster=lab.cluster_id)
            assert (answer.status, answer.code) == (421, "wrong_node")
    assert call(two, "GET", "/inventory").json["chunks"] == []


# --- identity ---


def test_a_second_process_on_the_directory_is_refused(lab: Lab) -> None:
    first = lab.started("n1")
    row = lab.row("n1")
    said = lab.refusal(lab.node("n1"))
    assert f"DFS_DATA_DIR={lab.directory / 'n1'}" in said
    assert "in use by another process" in said
    assert lab.row("n1").boot_id == row.boot_id
    assert call(first, "GET", "/readyz").status == 200


def test_a_disk_under_another_node_id_is_refused(lab: Lab) -> None:
    lab.started("n1").stop()
    said = lab.refusal(lab.node("n1", NODE_ID="n9"))
    assert "NODE_ID=n9, but the disk in" in said
    assert "belongs to node n1" in said
    assert [row.node_id for row in lab.metadata.list_nodes()] == ["n1"]


def test_without_a_node_id_the_disk_names_the_node(lab: Lab) -> None:
    lab.started("n1").stop()
    node = lab.started("n1", NODE_ID="")
    assert call(node, "GET", "/healthz").json["node_id"] == "n1"


def test_an_unmounted_volume_is_refused_and_not_filled(lab: Lab) -> None:
    node = lab.started("n1")
    node.stop()
    (lab.directory / "n1").rename(lab.directory / "elsewhere")
    (lab.directory / "n1").mkdir()
    said = lab.refusal(node)
    assert "has no node.json, but node n1 is registered with disk" in said
    assert {each.name for each in (lab.directory / "n1").iterdir()} <= {"lock"}
    (lab.directory / "n1" / "lock").unlink()
    (lab.directory / "n1").rmdir()
    (lab.directory / "elsewhere").rename(lab.directory / "n1")
    node.start()


def test_a_second_disk_with_the_node_id_is_refused(lab: Lab) -> None:
    lab.started("n1").stop()
    node_json = lab.directory / "n1" / "node.json"
    fields = json.loads(node_json.read_text()) | {"disk_id": str(uuid.uuid4())}
    node_json.write_text(json.dumps(fields))
    assert "is damaged" in lab.refusal(lab.node("n1"))
    del fields["crc"]  # as one who restores the file by hand may
    node_json.write_text(json.dumps(fields))
    assert "two disks carry the same node id" in lab.refusal(lab.node("n1"))


def test_another_clusters_disk_is_refused(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> None:
    lab.started("n1").stop()
    other = SqliteStore(str(tmp_path_factory.mktemp("other") / "metadata.sqlite"))
    other.create()
    said = lab.refusal(lab.node("n1", DFS_METADATA_URL=f"sqlite:///{other._file.path}"))
    assert f"belongs to cluster {lab.cluster_id}" in said
    assert other.list_nodes() == []
    other.close()


def test_a_directory_of_something_else_is_refused_and_left_alone(lab: Lab) -> None:
    (lab.directory / "n1").mkdir()
    (lab.directory / "n1" / "holiday.jpg").write_text("x")
    assert "holds 'holiday.jpg' but no node.json" in lab.refusal(lab.node("n1"))


def test_a_damaged_node_json_is_refused(lab: Lab) -> None:
    lab.started("n1").stop()
    (lab.directory / "n1" / "node.json").write_text("{")
    assert "is damaged" in lab.refusal(lab.node("n1"))


def test_a_newer_process_of_the_node_ends_the_older(lab: Lab) -> None:
    node = lab.started("n1")
    lab.metadata.register_node(dataclasses.replace(lab.row("n1"), boot_id="newer", address="10.9.9.9"))
    assert node._process is not None
    assert node._process.wait(60) == 1
    assert "a newer process of node n1 has registered from 10.9.9.9" in sentence(node.said())
    assert lab.row("n1").boot_id == "newer"


def test_on_ec2_the_metadata_service_names_the_node(lab: Lab) -> None:
    facts = {"instance-id": "i-0abc", "local-ipv4": "127.0.0.1", "placement/availability-zone": "eu-west-1c"}
    with ImdsServer(facts) as imds:
        ec2 = {"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": imds.endpoint}
        lab.started("new", NODE_ID="", NODE_PRIVATE_IP="", DFS_ZONE="", **ec2)
        row = lab.row("i-0abc")
        assert (row.address, row.zone, row.instance_id) == ("127.0.0.1", "eu-west-1c", "i-0abc")
        asked = len(imds.calls)
        lab.started("n1", **ec2)
        assert len(imds.calls) == asked, "settings answered everything"
        assert lab.row("n1").instance_id is None


# --- what operators and disks say ---


@pytest.mark.parametrize("state", ["draining", "drained"])
def test_a_node_that_is_leaving_refuses_stores_itself_and_serves_reads(lab: Lab, state: str) -> None:
    node, file_id = lab.started("n1"), new_id()
    call(node, "PUT", chunk(file_id), b"abc")
    with contextlib.closing(sqlite3.connect(lab.database)) as database:
        database.execute("UPDATE nodes SET admin_state = ?", (state,))
        database.commit()
    eventually(lambda: call(node, "GET", "/healthz").json["admin_state"] == state, "the node knows")
    head = f"PUT {chunk(new_id())} HTTP/1.1\nHost: x\nContent-Length: 3\nExpect: 100-continue\n\n"
    answer, connection = raw(node, head)
    with connection:
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b'"read_only"' in answer
    assert call(node, "GET", chunk(file_id, call="get-chunk")).body == b"abc"
    node.stop()
    node.start()
    assert call(node, "PUT", chunk(new_id()), b"abc").status == 503, "a restart undoes no drain"


def test_a_row_that_vanished_is_put_again(lab: Lab) -> None:
    node = lab.started("n1")
    with contextlib.closing(sqlite3.connect(lab.database)) as database:
        database.execute("DELETE FROM nodes")
        database.commit()
    eventually(lambda: bool(lab.metadata.list_nodes()), "the row is back")
    assert call(node, "GET", "/readyz").status == 200


def test_a_disk_that_fails_again_and_again_ends_the_node_and_loses_nothing(lab: Lab) -> None:
    needs.linux()
    node, file_id = lab.started("n1"), new_id()
    call(node, "PUT", chunk(file_id), b"abc")
    # No file of the process may grow beyond 1 MiB from now on: a write error, as of a dying disk.
    resource.prlimit(node.pid, resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    for index in (1, 2, 3):
        refused = call(node, "PUT", chunk(file_id, index), content(2 << 20))
        assert (refused.status, refused.code) == (503, "read_only")
    assert node._process is not None
    assert node._process.wait(60) == 1
    assert f"the disk in {lab.directory / 'n1'} failed" in sentence(node.said())
    assert lab.row("n1").status is NodeStatus.READ_ONLY
    node.kill()
    node.start()
    assert lab.row("n1").status is NodeStatus.ACTIVE
    assert call(node, "GET", chunk(file_id, call="get-chunk")).body == b"abc"
    assert call(node, "PUT", chunk(file_id, 1), content(2 << 20)).status == 201


def test_no_byte_of_a_rotten_piece_is_sent(lab: Lab) -> None:
    node, file_id, data = lab.started("n1"), new_id(), content(3 * PIECE)
    call(node, "PUT", chunk(file_id), data)
    flip(lab.directory / "n1", data[:64], 2 * PIECE)
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as connection:
        connection.sendall(f"GET {chunk(file_id, call='get-chunk')} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        received = bytearray()
        with contextlib.suppress(ConnectionResetError):
            while piece := connection.recv(1 << 20):
                received += piece
    head, _, body = bytes(received).partition(b"\r\n\r\n")
    assert f"Content-Length: {len(data)}".encode() in head
    assert data.startswith(body) and len(body) <= 2 * PIECE
    alone = call(node, "GET", chunk(file_id, call="get-chunk"), X_Dfs_Pieces="2-2")
    assert (alone.status, alone.code) in {(500, "corrupt_chunk"), (404, "not_found")}
    assert call(node, "PUT", chunk(file_id), data).status == 201, "storing it again heals it"
    assert call(node, "GET", chunk(file_id, call="get-chunk")).body == data


def flip(directory: Path, start: bytes, offset: int) -> None:
    """Flip a bit `offset` bytes behind where `start` lies in some volume."""
    for volume in sorted((directory / "volumes").iterdir()):
        data = bytearray(volume.read_bytes())
        at = data.find(start)
        if at >= 0:
            data[at + offset] ^= 1
            with open(volume, "r+b") as file:
                file.seek(at + offset)
                file.write(data[at + offset : at + offset + 1])
            return
    raise AssertionError("no volume holds it")


# --- stop ---


def test_sigterm_while_the_node_starts_is_a_clean_stop_too(lab: Lab) -> None:
    node = lab.node("n1")
    with contextlib.closing(sqlite3.connect(lab.database)) as database:
        database.execute("BEGIN IMMEDIATE")  # registering has to wait
        node.spawn()
        eventually(lambda: "disk.created" in node.said(), "the node starts")
        assert node.stop() == 0
    os.close(node._ready)
    assert "start.interrupted" in node.said()
    assert lab.metadata.list_nodes() == []
    node.start()


def test_sigterm_finishes_running_requests_and_exits_0(lab: Lab) -> None:
    node, file_id = lab.started("n1"), new_id()
    with socket.create_connection(("127.0.0.1", node.port), timeout=60) as connection:
        connection.sendall(
            f"PUT {chunk(file_id)} HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nExpect: 100-continue\r\n\r\n".encode()
        )
        assert connection.recv(65536).startswith(b"HTTP/1.1 100 ")
        connection.sendall(b"abc")
        os.kill(node.pid, signal.SIGTERM)
        eventually(lambda: lab.row("n1").status is NodeStatus.STOPPING, "the registry knows of the stop")
        connection.sendall(b"def")
        assert connection.recv(65536).startswith(b"HTTP/1.1 201 ")
    assert node.stop() == 0
    assert "Traceback" not in node.said()
    node.start()
    assert call(node, "GET", chunk(file_id, call="get-chunk")).body == b"abcdef"


def test_a_request_that_does_not_end_is_cut_by_the_drain_timeout(lab: Lab) -> None:
    node = lab.started("n1", DFS_DRAIN_TIMEOUT="0.2")
    answer, connection = raw(
        node, f"PUT {chunk(new_id())} HTTP/1.1\nHost: x\nContent-Length: 6\nExpect: 100-continue\n\n"
    )
    with connection:
        assert answer.startswith(b"HTTP/1.1 100 ")
        assert node.stop() == 0
    assert "drain.cut" in node.said()


def test_sigint_and_the_end_of_the_parent_are_clean_stops_too(lab: Lab) -> None:
    node = lab.started("n1")
    os.kill(node.pid, signal.SIGINT)
    assert node._process is not None
    assert node._process.wait(60) == 0
    node._forget()
    node.start()
    os.close(node._alive_pipe[1])
    node._alive_pipe = (-1, -1)
    assert node._process.wait(60) == 0
    assert lab.row("n1").status is NodeStatus.STOPPING


# --- bad settings, bad surroundings ---


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NODE_ID", "-bad", "NODE_ID='-bad' is not allowed"),
        ("NODE_PORT", "x", "NODE_PORT='x' is not allowed"),
        ("NODE_PRIVATE_IP", "nowhere", "NODE_PRIVATE_IP='nowhere' is not allowed"),
        ("DFS_NODE_BIND", "x", "DFS_NODE_BIND='x' is not allowed"),
        ("DFS_VOLUME_SIZE", "1MiB", "DFS_VOLUME_SIZE="),
        ("DFS_BUFFER_BYTES", "1MiB", "DFS_BUFFER_BYTES="),
        ("NODE_HEARTBEAT_INTERVAL", "0", "NODE_HEARTBEAT_INTERVAL='0' is not allowed"),
        ("DFS_METADATA_URL", "postgres://", "DFS_METADATA_URL='postgres://' is not allowed"),
        ("DFS_NO_SUCH", "1", "DFS_NO_SUCH is not a setting"),
    ],
)
def test_a_bad_setting_is_named_and_exit_code_2(lab: Lab, name: str, value: str, said: str) -> None:
    server = lab.node("n1", **{name: value})
    with pytest.raises(DidNotStart) as refused:
        server.start()
    assert refused.value.code == 2
    assert said in sentence(str(refused.value))
    assert not (lab.directory / "n1").exists()


def test_a_data_directory_that_cannot_be_made_names_its_setting(lab: Lab) -> None:
    (lab.directory / "file").write_text("x")
    for path in (lab.directory / "file", lab.directory / "file" / "below"):
        assert f"DFS_DATA_DIR={path}: the data directory cannot be used" in lab.refusal(
            lab.node("n1", DFS_DATA_DIR=str(path))
        )
    assert lab.metadata.list_nodes() == []


def test_a_data_directory_that_cannot_be_written_names_its_setting(lab: Lab) -> None:
    node = lab.node("n1", DFS_DATA_DIR="/proc/1")
    said = lab.refusal(node)
    assert "DFS_DATA_DIR=/proc/1" in said


def test_a_port_in_use_names_its_setting_and_makes_no_disk(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
        said = lab.refusal(lab.node("n1", NODE_PORT=str(port)))
    assert f"NODE_PORT={port}: the port is in use on 127.0.0.1" in said
    assert not (lab.directory / "n1").exists()
    assert lab.metadata.list_nodes() == []


def test_metadata_that_was_never_made_names_its_setting_and_the_way_out(lab: Lab) -> None:
    said = lab.refusal(lab.node("n1", DFS_METADATA_URL=f"sqlite:///{lab.directory / 'none.sqlite'}"))
    assert "DFS_METADATA_URL" in said
    assert "create-tables" in said
    assert not (lab.directory / "n1").exists()


def test_an_inherited_socket_is_served_and_registered(lab: Lab) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        node = lab.node("n1", NODE_PORT="1")
        read, write = os.pipe()
        code = (
            f"import os, runpy, sys; os.dup2({write}, 9); os.dup2({listener.fileno()}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "sys.argv[1:] = ['--ready-fd', '9']; runpy.run_module('dfs.node', run_name='__main__')"
        )
        started = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT, env=os.environ | node.environ, pass_fds=[listener.fileno(), write], stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(write)
        with open(read) as ready:
            assert json.loads(ready.readline())["port"] == port
        assert lab.row("n1").port == port
        node.port = port
        assert call(node, "GET", "/healthz").status == 200
        started.terminate()
        assert started.communicate(timeout=60)[1].count(b"Traceback") == 0
        assert started.returncode == 0


# --- offline check ---


def check(*argv: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dfs.node", "check", *map(str, argv)],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def test_check_finds_a_clean_disk_clean_and_a_flipped_bit(lab: Lab) -> None:
    node = lab.started("n1")
    call(node, "PUT", chunk(new_id()), content(5000))
    directory = lab.directory / "n1"
    busy = check(directory)
    assert busy.returncode == 1
    assert "in use by another process" in busy.stderr
    node.stop()
    clean = check(directory)
    assert clean.returncode == 0, clean.stdout + clean.stderr
    assert "n1" in clean.stdout
    told = check(directory, "--json")
    assert told.returncode == 0
    assert json.loads(told.stdout)["problems"] == []
    flip(directory, content(5000)[:64], 10)
    broken = check(directory)
    assert broken.returncode == 1
    assert len(json.loads(check(directory, "--json").stdout)["problems"]) == 1
    (directory / "volumes").rename(directory / "away")
    (directory / "volumes").touch()
    unreadable = check(directory)
    assert unreadable.returncode == 1
    assert unreadable.stderr.startswith("dfs-node check: ")
    assert "volumes" in unreadable.stderr
    assert "Traceback" not in unreadable.stderr


def test_check_of_what_is_no_data_directory_is_bad_usage(tmp_path: Path) -> None:
    for argv in ([], [tmp_path / "missing"], [tmp_path, "--xml"], [tmp_path]):
        done = check(*argv)
        assert done.returncode == 2, done
        assert "dfs-node check" in done.stderr
        assert "Traceback" not in done.stderr
