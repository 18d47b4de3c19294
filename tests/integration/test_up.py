"""`python -m dfs up`: starts, supervises, stops, and finds its data again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ROOT, eventually
from tests.support.embedded import Up, alive
from tests.support.moto_server import MotoServer

NODES = {"node1", "node2", "node3"}


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Up]:
    with Up(tmp_path / "data") as running:
        yield running


def test_ready_means_that_files_can_be_stored(up: Up) -> None:
    caller = up.caller()
    assert caller.file("PUT", "a", b"content").status == 201
    assert caller.file("GET", "a").body == b"content"
    nodes = caller.call("GET", "/nodes").json["nodes"]
    assert isinstance(nodes, list)
    assert {node["node_id"] for node in nodes if node["alive"]} == NODES
    assert set(up.pids()) == NODES | {"api"}
    assert all(alive(pid) for pid in up.pids().values())
    caller.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_everything_cleanly(up: Up, number: int) -> None:
    pids = up.pids()
    up.process.send_signal(number)
    code, _ = up.finish()
    assert code == 0
    assert not any(alive(pid) for pid in pids.values())
    assert up.pids() == {}


def test_kill_9_of_up_ends_its_children_and_the_next_start_finds_the_data(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Up(data) as first:
        caller = first.caller()
        assert caller.file("PUT", "kept", b"content").status == 201
        caller.close()
        pids = first.pids()
        first.process.kill()
        first.finish()
    with Up(data) as second:
        assert not any(alive(pid) for pid in pids.values())
        assert second.caller().file("GET", "kept").body == b"content"


def test_the_next_start_finds_data_ports_and_nodes(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with Up(data, "--nodes", "2") as first:
        assert first.caller().file("PUT", "kept", b"content").status == 201
        before = json.loads((data / "cluster.json").read_text())
    with Up(data) as second:
        assert second.caller().file("GET", "kept").body == b"content"
        after = json.loads((data / "cluster.json").read_text())
    assert after["nodes"] == before["nodes"]
    assert after["replication_factor"] == 2
    with Up(data, "--nodes", "3") as third:
        assert set(third.pids()) == NODES | {"api"}
        assert third.caller().file("GET", "kept").body == b"content"
    refused = Up(data, "--nodes", "2")
    code, said = refused.finish()
    assert code == 1
    assert "--nodes 2: the cluster has 3 nodes" in said


@pytest.mark.parametrize("name", ["api", "node2"])
def test_a_process_that_dies_is_started_again(up: Up, name: str) -> None:
    assert up.caller().file("PUT", "kept", b"content").status == 201
    old = up.kill(name)
    eventually(lambda: up.pids().get(name, old) != old, f"a new {name}")
    eventually(lambda: up.caller().file("GET", "kept").body == b"content", "it serves")

    def all_alive() -> bool:
        nodes = up.caller().call("GET", "/nodes").json["nodes"]
        assert isinstance(nodes, list)
        return {node["node_id"] for node in nodes if node["alive"]} == NODES

    eventually(all_alive, "all nodes alive")


def test_five_deaths_in_a_minute_leave_a_process_down(up: Up) -> None:
    old = 0
    for _ in range(5):
        eventually(lambda old=old: up.pids().get("node1", old) != old, "node1 runs")  # type: ignore[misc]
        old = up.kill("node1")
    caller = up.caller()
    assert caller.file("PUT", "a", b"two nodes are enough").status == 201
    caller.close()
    up.process.terminate()
    code, said = up.finish()
    assert code == 0
    assert "child.left_down child=node1" in said
    assert said.count("child.died child=node1") == 5


def test_without_supervision_a_dead_process_stays_down(tmp_path: Path) -> None:
    with Up(tmp_path / "data", "--no-supervise") as up:
        up.kill("node1")
        eventually(lambda: "node1" not in up.pids(), "its pid file is gone")
        assert up.caller().file("PUT", "a", b"content").status == 201
        up.process.terminate()
        _, said = up.finish()
    assert "child.left_down child=node1" in said
    assert "child.restarted" not in said


def test_one_cluster_for_one_directory(up: Up) -> None:
    second = Up(up.data)
    code, said = second.finish()
    assert code == 1
    assert f"in use by process {up.process.pid}" in said
    assert up.caller().call("GET", "/healthz").status == 200


def test_on_a_bare_python_and_in_any_directory(tmp_path: Path) -> None:
    with Up(tmp_path / "with space", bare=True) as up:
        assert up.caller().file("PUT", "a", b"content").status == 201


def test_on_dynamodb(tmp_path: Path, dynamodb: MotoServer) -> None:
    environ = dynamodb.environment()
    without_tables = Up(tmp_path / "data", "--metadata", "dynamodb", environ=environ)
    code, said = without_tables.finish()
    assert code == 1
    assert "create-tables" in said
    made = [sys.executable, "-m", "dfs.admin", "create-tables"]
    subprocess.run(made, check=True, cwd=ROOT, env=os.environ | environ)
    for _ in range(2):
        with Up(tmp_path / "data", "--metadata", "dynamodb", environ=environ) as up:
            assert up.caller().file("PUT", "a", b"content").status == 201
            assert up.caller().file("GET", "a").body == b"content"
    refused = Up(tmp_path / "data", "--metadata", "sqlite", environ=environ)
    code, said = refused.finish()
    assert (code, "keeps its metadata in dynamodb" in said) == (1, True)


def test_what_up_refuses(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, environ, code, sentence in (
            (("--api-port", port), {}, 1, f"--api-port={port}: the port is in use"),
            (("--nodes", "1"), {}, 1, "give --nodes 2 or --replication-factor 1"),
            (("--nodes", "0"), {}, 2, "'0' is not a whole number"),
            (("--api-port", "65536"), {}, 2, "'65536' is not a whole number"),
            ((), {"DFS_NO_SUCH": "1"}, 2, "DFS_NO_SUCH is not a setting"),
            ((), {"DFS_CHUNK_SIZE": "none"}, 2, "DFS_CHUNK_SIZE='none' is not allowed"),
            (("--config", str(tmp_path / "missing")), {}, 2, "cannot be read"),
        ):
            refused = Up(tmp_path / "data", *arguments, environ=environ)
            got, said = refused.finish()
            assert (got, sentence in said) == (code, True), said
            assert "Traceback" not in said
    got, said = Up(file).finish()
    assert (got, "cannot be written" in said) == (1, True)
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    (damaged / "cluster.json").write_text("{")
    got, said = Up(damaged).finish()
    assert (got, "cluster.json cannot be used" in said) == (1, True)
