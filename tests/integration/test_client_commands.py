"""The client's command line as a process, against a real cluster."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dfs.client import Client, Prefix
from dfs.model import new_file_id
from tests.support.cluster import ROOT, Cluster

MIB = 1 << 20


class Shell:
    """Runs commands of the client in a directory of its own, on a prefix of its own."""

    def __init__(self, directory: Path, urls: str) -> None:
        self.directory = directory
        self.prefix = new_file_id() + "-p"
        self._environ = os.environ | {"DFS_API": urls, "PYTHONPATH": str(ROOT)}

    def run(self, *argv: str, stdin: bytes = b"", code: int = 0) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [sys.executable, "-m", "dfs.client", *argv],
            cwd=self.directory,
            env=self._environ,
            input=stdin,
            capture_output=True,
            timeout=120,
        )
        assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
        assert b"Traceback" not in done.stderr
        return done

    def json(self, *argv: str, code: int = 0) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.run(*argv, "--json", code=code).stdout.splitlines()]


@pytest.fixture
def shell(cluster: Cluster, tmp_path: Path) -> Shell:
    return Shell(tmp_path, cluster.url)


def test_a_file_through_all_its_commands(shell: Shell) -> None:
    content, p = os.urandom(3 * MIB + 7), shell.prefix
    (shell.directory / "a b.bin").write_bytes(content)
    stored = shell.json("put", "a b.bin", f"{p}/", "--chunk-size", "1MiB")[0]
    assert stored["path"] == f"{p}/a b.bin" and stored["chunks"] == 4 and stored["replicas"] == 2
    shell.run("get", f"{p}/a b.bin", "copy")
    shell.run("get", stored["file_id"], "by-id")
    assert (shell.directory / "copy").read_bytes() == (shell.directory / "by-id").read_bytes() == content
    assert shell.run("cat", f"{p}/a b.bin").stdout == content
    seen = shell.json("stat", f"{p}/a b.bin")[0]
    assert seen["sha256"] == stored["sha256"] and seen["chunk_size"] == MIB and seen["modified"] == stored["modified"] // 1000 * 1000
    shell.run("mv", f"{p}/a b.bin", f"{p}/sub/ü.bin")
    assert shell.run("ls", f"{p}/").stdout.decode() == f"{p}/sub/\n"
    assert shell.run("ls", "-r", f"{p}/").stdout.decode() == f"{p}/sub/ü.bin\n"
    shell.run("rm", f"{p}/sub/ü.bin")
    assert b"no file" in shell.run("get", f"{p}/sub/ü.bin", code=3).stderr
    assert shell.run("ls", f"{p}/").stdout == b""


def test_the_trash_and_back(shell: Shell) -> None:
    p = shell.prefix
    ids = []
    for content in (b"first", b"second"):
        (shell.directory / "a").write_bytes(content)
        ids.append(shell.json("put", "a", f"{p}/a")[0]["file_id"])
    first, second = ids
    shell.run("rm", f"{p}/a")
    assert shell.json("restore", f"{p}/a")[0]["file_id"] == second
    assert shell.run("cat", f"{p}/a").stdout == b"second"
    (entry,) = shell.json("ls", "--deleted", f"{p}/")
    assert (entry["file_id"], entry["path"], entry["retired"], entry["size"]) == (first, f"{p}/a", "replaced", 5)
    assert entry["expires_at"] - entry["deleted_at"] == 3_600_000
    assert first in shell.run("ls", "--deleted", f"{p}/").stdout.decode()
    shell.run("restore", f"{p}/a", "--id", first, code=4)
    assert shell.json("restore", f"{p}/a", "--id", first, "--to", f"{p}/old/")[0]["path"] == f"{p}/old/a"
    assert shell.run("cat", f"{p}/old/a").stdout == b"first"
    shell.run("restore", f"{p}/a", "--id", first, code=3)
    shell.run("rm", f"{p}/old/a")
    shell.run("rm", "--purge", "--id", first, f"{p}/old/a")
    shell.run("rm", "--purge", "--id", first, f"{p}/old/a", code=3)
    shell.run("restore", f"{p}/old/a", "--id", first, code=3)
    assert shell.json("ls", "--deleted", f"{p}/") == []


def test_stdin_and_stdout(shell: Shell) -> None:
    content = os.urandom(5 * MIB)
    shell.run("put", "-", f"{shell.prefix}/x", stdin=content)
    assert shell.run("get", f"{shell.prefix}/x", "-").stdout == content


def test_a_directory_there_and_back(shell: Shell) -> None:
    names = {"one": b"1", "sub/two": os.urandom(MIB), "sub/deep/three": b"", "ünï/ vier +%": b"4"}
    for name, content in names.items():
        (shell.directory / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (shell.directory / "d" / name).write_bytes(content)
    shell.run("put", "-r", "d", f"{shell.prefix}/")
    shell.run("get", "-r", f"{shell.prefix}/", "back")
    found = {str(each.relative_to(shell.directory / "back")): each.read_bytes() for each in (shell.directory / "back").rglob("*") if each.is_file()}
    assert found == names
    shell.run("rm", "-r", shell.prefix, "--purge")
    shell.run("get", "-r", f"{shell.prefix}/", "back", code=3)


def test_resumable_ways_without_an_interruption(shell: Shell) -> None:
    for size in (0, 1, 4 * MIB, 9 * MIB + 1):
        content = os.urandom(size)
        (shell.directory / "f").write_bytes(content)
        shell.run("put", "--resume", "f", f"{shell.prefix}/{size}")
        shell.run("get", "--resume", f"{shell.prefix}/{size}", f"out{size}")
        assert (shell.directory / f"out{size}").read_bytes() == content
    assert not list(shell.directory.glob("*.part*"))


def test_conditions(shell: Shell) -> None:
    (shell.directory / "f").write_bytes(b"1")
    path = f"{shell.prefix}/f"
    first = shell.json("put", "f", path, "--no-clobber")[0]
    shell.run("put", "f", path, "--no-clobber", code=4)
    shell.run("put", "f", path, "--if-match", new_file_id(), code=4)
    second = shell.json("put", "f", path, "--if-match", first["etag"])[0]
    shell.run("rm", path, "--if-match", first["etag"], code=4)
    shell.run("put", "f", f"{shell.prefix}/g")
    shell.run("mv", path, f"{shell.prefix}/g", code=4)
    shell.run("mv", path, f"{shell.prefix}/g", "--overwrite")
    shell.run("get", f"{shell.prefix}/g", "x", "--if-none-match", second["etag"], code=4)
    shell.run("put", "--resume", "f", f"{shell.prefix}/g", "--no-clobber", code=4)


def test_repeating_an_operation_does_it_once(shell: Shell) -> None:
    (shell.directory / "f").write_bytes(b"1")
    path, op_id = f"{shell.prefix}/f", new_file_id()
    assert shell.json("put", "f", path, "--op-id", op_id)[0]["file_id"] == op_id
    assert shell.json("put", "f", path, "--op-id", op_id, "--no-clobber")[0]["file_id"] == op_id
    for argv in (["mv", path, f"{shell.prefix}/g"], ["rm", f"{shell.prefix}/g"]):
        op_id = new_file_id()
        shell.run(*argv, "--op-id", op_id)
        shell.run(*argv, "--op-id", op_id)


def test_exit_codes_and_messages(shell: Shell) -> None:
    (shell.directory / "f").write_bytes(b"content")
    for argv, code, word in (
        (["get", "missing"], 3, b"ls"),
        (["get", new_file_id(), "x"], 3, b"no file"),
        (["--bucket", "missing", "put", "f"], 3, b"missing"),
        (["put", "f", "a/../b"], 2, b"segments"),
        (["frobnicate"], 2, b"--help"),
        (["put", "f", "--sha256", "0" * 64], 6, b"SHA-256"),
        (["--api", "http://127.0.0.1:1", "--retry-for", "0", "ls"], 5, b"--api"),
        (["rm", "missing1", "missing2"], 3, b"missing1"),
        (["put", "f", "missing", f"{shell.prefix}/"], 7, b"missing"),
        (["put", "f", "--chunk-size", "1GiB"], 1, b"X-Chunk-Size"),
    ):
        done = shell.run(*argv, code=code)
        assert word in done.stderr and done.stderr.startswith(b"dfs: "), argv


def test_a_dead_server_is_passed_over(cluster: Cluster, tmp_path: Path) -> None:
    shell = Shell(tmp_path, f"http://127.0.0.1:1,{cluster.url}")
    shell.run("put", "-", f"{shell.prefix}/x", stdin=b"abc")
    assert shell.run("cat", f"{shell.prefix}/x").stdout == b"abc"


def test_buckets_keep_paths_apart(shell: Shell) -> None:
    bucket = shell.prefix
    shell.run("mkbucket", bucket)
    shell.run("mkbucket", bucket)
    assert bucket in shell.run("buckets").stdout.decode().split()
    shell.run("--bucket", bucket, "put", "-", "f", stdin=b"x")
    assert shell.run("ls", "--bucket", bucket).stdout == b"f\n"
    shell.run("cat", "f", code=3)


def test_nodes_are_listed(shell: Shell) -> None:
    assert {node["node_id"] for node in shell.json("nodes") if node["alive"]} == {"node1", "node2", "node3"}


def test_a_reader_that_goes_away_is_no_error_message(shell: Shell) -> None:
    shell.run("put", "-", f"{shell.prefix}/x", stdin=bytes(8 * MIB))
    with subprocess.Popen(
        [sys.executable, "-m", "dfs.client", "cat", f"{shell.prefix}/x"],
        env=shell._environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.stderr.read() == b"" and process.wait() == 1


def test_the_library_lists_page_by_page(cluster: Cluster) -> None:
    prefix = new_file_id()
    with Client(cluster.url) as client:
        for number in range(7):
            client.put(b"x", f"{prefix}/{number % 3}/{number}")
        paths = [entry.path for entry in client.list(prefix) if not isinstance(entry, Prefix)]
        assert paths == sorted(f"{prefix}/{number % 3}/{number}" for number in range(7))
        assert list(client.list(f"{prefix}/", delimiter="/")) == [Prefix(f"{prefix}/{n}/") for n in range(3)]
        pages, cursor = 0, None
        found: list[str | None] = []
        while True:
            page = client.list_page(prefix, limit=2, cursor=cursor)
            found += [each.path for each in page.files]
            pages, cursor = pages + 1, page.cursor
            if cursor is None:
                break
        assert found == paths and pages >= 4
