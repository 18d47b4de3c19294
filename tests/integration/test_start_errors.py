"""A server that cannot start says why in one sentence that names the setting."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import ROOT, Cluster
from tests.support.moto_server import MotoServer


def run(module: str, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a server that is expected to refuse to start."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def refused(done: subprocess.CompletedProcess[str], code: int, *parts: str) -> None:
    """It exited with `code`, and its last line is the sentence, without a traceback anywhere."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    for part in parts:
        assert part in last, done.stderr


@pytest.mark.parametrize("module", ["dfs.api", "dfs.node", "dfs.admin"])
def test_an_unknown_setting(module: str) -> None:
    arguments = ["create-tables"] if module == "dfs.admin" else []
    refused(run(module, *arguments, DFS_CHUNKSIZE="4MiB"), 2, "DFS_CHUNKSIZE", "not a setting")


@pytest.mark.parametrize(
    ("module", "name", "value"),
    [
        ("dfs.api", "REPLICATION_FACTOR", "0"),
        ("dfs.api", "REPLICATION_STRATEGY", "eventually"),
        ("dfs.api", "DFS_API_PORT", "70000"),
        ("dfs.api", "DFS_METADATA_URL", "mysql://"),
        ("dfs.node", "NODE_ID", "../etc"),
        ("dfs.node", "NODE_PORT", "eighty"),
        ("dfs.node", "DFS_VOLUME_SIZE", "1 parsec"),
    ],
)
def test_a_bad_value(module: str, name: str, value: str) -> None:
    refused(run(module, **{name: value}), 2, name, repr(value))


def test_a_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("not a directory")
    environ = {
        "DFS_METADATA_URL": f"sqlite:///{tmp_path / 'm.sqlite'}",
        "NODE_ID": "n",
        "NODE_PRIVATE_IP": "127.0.0.1",
        "NODE_PORT": "0",
    }
    assert run("dfs.admin", "create-tables", **environ).returncode == 0
    refused(run("dfs.node", **environ, DFS_DATA_DIR=str(file / "data")), 1, "DFS_DATA_DIR", str(file / "data"))


def test_a_port_in_use(tmp_path: Path) -> None:
    environ = {"DFS_METADATA_URL": f"sqlite:///{tmp_path / 'm.sqlite'}", "NODE_PRIVATE_IP": "127.0.0.1"}
    assert run("dfs.admin", "create-tables", **environ).returncode == 0
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused(run("dfs.api", **environ, DFS_API_PORT=port), 1, f"DFS_API_PORT={port}", "in use")
        environ |= {"NODE_ID": "n", "DFS_DATA_DIR": str(tmp_path / "n")}
        refused(run("dfs.node", **environ, NODE_PORT=port), 1, f"NODE_PORT={port}", "in use")


def test_sqlite_without_tables(tmp_path: Path) -> None:
    done = run("dfs.api", DFS_METADATA_URL=f"sqlite:///{tmp_path / 'none.sqlite'}", DFS_API_PORT="0")
    refused(done, 1, "create-tables")


def test_a_missing_table(dynamodb: MotoServer) -> None:
    environ = dynamodb.environment("never-made")
    refused(run("dfs.api", **environ, DFS_API_PORT="0"), 1, "never-made", "create-tables")
    refused(run("dfs.node", **environ, NODE_ID="n", NODE_PRIVATE_IP="127.0.0.1"), 1, "never-made", "create-tables")


def test_missing_credentials(dynamodb: MotoServer) -> None:
    environ = dynamodb.environment("any") | {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}
    refused(run("dfs.api", **environ, DFS_API_PORT="0"), 1, "credentials")


def test_a_directory_that_is_in_use(tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", nodes=1, factor=1) as running:
        node = running.nodes[0]
        refused(run("dfs.node", **node.environ), 1, node.environ["DFS_DATA_DIR"], "in use")


def test_a_data_directory_of_another_node(tmp_path: Path) -> None:
    with Cluster(tmp_path / "cluster", nodes=1, factor=1) as running:
        node = running.nodes[0]
        node.stop()
        refused(run("dfs.node", **node.environ | {"NODE_ID": "other"}), 1, "NODE_ID", "node1")
