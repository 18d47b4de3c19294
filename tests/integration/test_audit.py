"""The audit of a real cluster: what it finds, how it ends, and that no death of a server stops it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.caller import Caller
from tests.support.cluster import ROOT, Cluster, eventually

SETTINGS = {"DFS_DELETE_GRACE": "0", "DFS_REPAIR_INTERVAL": "3600", "DFS_CHUNK_SIZE": "4KiB"}
"""Records count as surplus at once, and nothing is repaired behind the tests' backs."""


@pytest.fixture
def broken(tmp_path: Path, metadata: Any) -> Iterator[Cluster]:
    """Three nodes, factor 2, for a test to break, with some files."""
    with Cluster(tmp_path / "cluster", environ=metadata() | SETTINGS) as running:
        with contextlib.closing(running.caller()) as caller:
            for number in range(6):
                assert caller.file("PUT", f"dir/file {number}", os.urandom(10_000)).status == 201
            assert caller.file("PUT", "empty", b"").status == 201
        yield running


@pytest.fixture
def on_sqlite(tmp_path: Path) -> Iterator[Cluster]:
    """The same over SQLite only: what these tests are about does not depend on metadata."""
    with Cluster(tmp_path / "cluster", environ=SETTINGS) as running:
        with contextlib.closing(running.caller()) as caller:
            for number in range(6):
                assert caller.file("PUT", f"dir/file {number}", os.urandom(10_000)).status == 201
        yield running


def command(cluster: Cluster, *arguments: str) -> list[str]:
    urls = ",".join(f"http://127.0.0.1:{api.port}" for api in cluster.apis)
    return [sys.executable, "-m", "dfs.admin", "audit", "--api", urls, *arguments]


def audit(cluster: Cluster, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Exit code and JSON of the command."""
    done = subprocess.run(command(cluster, "--json", *arguments), cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def counts(told: dict[str, Any]) -> dict[str, int]:
    return {kind: count for kind, count in told["audit"]["counts"].items() if count}


def holders(cluster: Cluster, file_id: str, index: int = 0) -> list[str]:
    """Nodes that hold a chunk, by their own inventories."""
    found = []
    for node in cluster.nodes:
        with contextlib.closing(Caller(node.port)) as caller:
            chunks: Any = caller.call("GET", "/inventory?after=0&limit=10000").json["chunks"]
            if any((chunk["file_id"], chunk["chunk_index"]) == (file_id, index) for chunk in chunks):
                found.append(node.name)
    return found


def at_node(cluster: Cluster, node_id: str, method: str, target: str, body: bytes | None = None) -> int:
    with contextlib.closing(Caller(cluster.node(node_id).port)) as caller:
        return caller.call(method, target, body).status


def file_id_of(cluster: Cluster, path: str) -> str:
    with contextlib.closing(cluster.caller()) as caller:
        return caller.file("HEAD", path).etag


def flip(cluster: Cluster, node_id: str, content: bytes) -> None:
    """Flip one bit of `content` where it lies on the node's disk."""
    for volume in (cluster.directory / node_id).rglob("*"):
        if volume.is_file():
            place = volume.read_bytes().find(content)
            if place >= 0:
                with open(volume, "r+b") as file:
                    file.seek(place + 100)
                    file.write(bytes([content[100] ^ 1]))
                return
    raise AssertionError("the content is not on that disk")


def test_from_whole_to_lost_and_every_step_is_told(broken: Cluster) -> None:
    code, told = audit(broken)
    assert (code, told["audit"]["verdict"], counts(told)) == (0, "whole", {})
    assert (told["audit"]["files"], told["audit"]["chunks"], told["audit"]["bytes"]) == (7, 19, 60_000)

    file_id = file_id_of(broken, "dir/file 1")
    target = f"/drop-replica?file_id={file_id}&chunk_index=1"
    first, second = holders(broken, file_id, 1)
    assert at_node(broken, first, "POST", target) == 200
    code, told = audit(broken)
    assert (code, counts(told)) == (8, {"missing": 1, "under": 1})
    example = told["audit"]["examples"]["missing"][0]
    assert (example["path"], example["node_id"], example["chunk_index"]) == ("dir/file 1", first, 1)

    assert at_node(broken, second, "POST", target) == 200
    code, told = audit(broken)
    assert (code, counts(told)) == (9, {"missing": 2, "no_copy": 1})
    assert [(lost["bucket"], lost["path"]) for lost in told["audit"]["lost_files"]] == [("default", "dir/file 1")]
    code, told = audit(broken, "--last")
    assert code == 9 and told["audit"]["verdict"] == "data_missing"


def test_a_flipped_bit_is_found_by_reading_and_named(on_sqlite: Cluster) -> None:
    content = os.urandom(4_000)
    with contextlib.closing(on_sqlite.caller()) as caller:
        file_id = caller.file("PUT", "precious", content).etag
    node_id = holders(on_sqlite, file_id)[0]
    flip(on_sqlite, node_id, content)
    code, told = audit(on_sqlite, "--verify")
    assert (code, counts(told)) == (8, {"corrupt": 1, "under": 1})
    example = told["audit"]["examples"]["corrupt"][0]
    assert (example["path"], example["node_id"]) == ("precious", node_id)
    assert told["audit"]["verified_now"] == 2 * (6 * 3 + 1) and told["audit"]["marked_short"] == 1
    code, told = audit(on_sqlite)
    assert (code, counts(told)) == (8, {"corrupt": 1, "under": 1}), "known to the node from now on"
    shown = subprocess.run(command(on_sqlite, "--last"), cwd=ROOT, capture_output=True, text=True)
    assert shown.returncode == 8 and "default/precious chunk 0" in shown.stdout, shown.stdout + shown.stderr


def test_a_record_without_a_row_is_remarked_on_and_moved_aside_on_demand(on_sqlite: Cluster) -> None:
    stray, content = str(uuid.uuid4()), b"nobody asked for this"
    assert at_node(on_sqlite, "node2", "PUT", f"/store-chunk?file_id={stray}&chunk_index=0", content) == 201
    code, told = audit(on_sqlite)
    assert (code, counts(told), told["audit"]["verdict"]) == (0, {"extra": 1}, "whole")
    record = {"file_id": stray, "chunk_index": 0, "node_id": "node2"}
    code, told = audit(on_sqlite, "--set-aside")
    assert (code, told["set_aside"], holders(on_sqlite, stray)) == (0, [record], ["node2"])
    code, told = audit(on_sqlite, "--set-aside", "--yes")
    assert (code, told["set_aside"], holders(on_sqlite, stray)) == (0, [record | {"left": ""}], [])
    kept = [path for path in (on_sqlite.directory / "node2" / "set-aside").rglob("*") if path.is_file()]
    assert any(content in path.read_bytes() for path in kept)
    code, told = audit(on_sqlite)
    assert (code, counts(told)) == (0, {})
    with contextlib.closing(on_sqlite.caller()) as caller:
        answer = caller.call("POST", "/admin/audit/set-aside", json.dumps({"records": [record]}).encode())
        assert answer.status == 404, "only what an audit confirmed"


def test_a_node_that_is_away_degrades_what_lies_on_it(on_sqlite: Cluster) -> None:
    on_sqlite.node("node3").kill()
    code, told = audit(on_sqlite)
    assert code == 8 and told["audit"]["unreachable"] == ["node3"]
    assert set(counts(told)) == {"under", "unreachable_nodes"}
    assert told["audit"]["marked_short"] == 0, "it may come back"


def test_clients_at_work_are_no_findings(tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", environ={"DFS_CHUNK_SIZE": "4KiB", "DFS_REPLACED_RETENTION": "0"}) as cluster:
        done, failures = threading.Event(), []

        def work(worker: int) -> None:
            with contextlib.closing(cluster.caller()) as caller:
                number = 0
                while not done.is_set():
                    name = f"{worker}/{number % 7}"
                    put = caller.file("PUT", name, os.urandom(1 + 7919 * number % 30_000))
                    gone = caller.file("DELETE", name, query={"purge": "1"}) if number % 3 == 0 else put
                    failures.extend(answer for answer in (put, gone) if answer.status not in (201, 204))
                    number += 1

        workers = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for worker in workers:
            worker.start()
        try:
            told = [audit(cluster, *(["--verify"] if number % 2 else [])) for number in range(4)]
        finally:
            done.set()
            for worker in workers:
                worker.join(60)
        assert not failures
        assert [(code, counts(each)) for code, each in told] == [(0, {})] * 4
        assert told[-1][1]["audit"]["files"] > 0


def test_notes_are_kept_once(on_sqlite: Cluster) -> None:
    code, told = audit(on_sqlite)
    assert (code, told["audit"]["notes_sent"]) == (0, 12)

    def kept() -> list[int]:
        volumes = [list((on_sqlite.directory / node.name).rglob("*.vol")) for node in on_sqlite.nodes]
        return [sum(volume.read_bytes().count(b'"op":"audit"') for volume in each) for each in volumes]

    first = kept()
    assert sum(first) == 12
    assert audit(on_sqlite)[1]["audit"]["notes_sent"] == 12
    assert kept() == first


def begin_slow(cluster: Cluster, mbps: int = 1) -> subprocess.Popen[str]:
    """Start the command with an audit that takes a while: of about 40 MB a node, at so many a second."""
    with contextlib.closing(cluster.caller()) as caller:
        for number in range(8):
            data = hashlib.shake_128(bytes([number])).digest(8 << 20)
            assert caller.file("PUT", f"large/{number}", data, X_Chunk_Size="1048576").status == 201
    process = subprocess.Popen(
        command(cluster, "--json", "--verify", "--mbps", str(mbps)),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: running(cluster) is not None, "the audit runs")
    return process


def running(cluster: Cluster) -> dict[str, Any] | None:
    """The audit that runs, as the last API server knows it."""
    with contextlib.closing(cluster.caller(len(cluster.apis) - 1)) as caller:
        found: Any = caller.call("GET", "/admin/audit").json["audit"]
        return found if found is not None and found["state"] == "running" else None


def test_interrupting_the_command_ends_the_audit(on_sqlite: Cluster) -> None:
    process = begin_slow(on_sqlite)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130 and "the audit ends" in said, said
    eventually(lambda: running(on_sqlite) is None, "the audit has ended")
    with contextlib.closing(on_sqlite.caller()) as caller:
        latest: Any = caller.call("GET", "/admin/audit").json
        assert (latest["audit"]["state"], latest["audit"]["reason"], latest["last"]) == ("failed", "cancelled", None)
        assert caller.call("DELETE", "/admin/audit").status == 404
    assert audit(on_sqlite)[0] == 0


def test_an_audit_outlives_its_server_and_can_be_cancelled_from_another(on_sqlite: Cluster) -> None:
    on_sqlite.add_api()
    process = begin_slow(on_sqlite)
    before = running(on_sqlite)
    assert before is not None
    on_sqlite.apis[0].kill()

    def began_again() -> bool:
        now = running(on_sqlite)
        return now is not None and now["id"] != before["id"]

    eventually(began_again, "the other server has begun anew")
    # And in reverse: the first server comes back and cancels what the second does.
    on_sqlite.apis[0].start()
    with contextlib.closing(on_sqlite.caller(0)) as caller:
        assert caller.call("POST", "/admin/audit").json["begun"] is False
        assert caller.call("DELETE", "/admin/audit").status == 202
    eventually(lambda: running(on_sqlite) is None, "cancelled")
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "") and "cancelled" in said


def test_an_audit_begun_anew_ends_right(on_sqlite: Cluster) -> None:
    process = begin_slow(on_sqlite, mbps=8)
    before = running(on_sqlite)
    port = on_sqlite.apis[0].port
    on_sqlite.apis[0].kill()
    on_sqlite.apis[0].start(DFS_API_PORT=str(port))
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    told = json.loads(out)["audit"]
    assert before is not None and told["id"] != before["id"]
    assert (told["verdict"], told["verify"]) == ("whole", True)
