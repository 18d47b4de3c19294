"""Transfers over several connections: servers that die, files that change, a client that is killed."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from dfs.client import Client
from dfs.model import new_file_id
from tests.integration.test_client_faults import Proxy, environ, here, run, start
from tests.support.cluster import Cluster, eventually

__all__ = ["environ", "here"]

MIB = 1 << 20
SIZE = 40 * MIB + 5


@pytest.fixture
def content() -> bytes:
    return os.urandom(SIZE)


@pytest.fixture
def stored(cluster: Cluster, content: bytes) -> str:
    path = f"{new_file_id()}/f"
    with Client(cluster.url) as client:
        client.put(content, path)
    return path


def test_a_server_that_dies_in_the_middle_is_left_for_the_other(
    cluster: Cluster, stored: str, content: bytes, tmp_path: Path
) -> None:
    with Proxy(cluster.port, limit=18 * MIB) as proxy, Client(f"{proxy.url},{cluster.url}") as client:
        told: list[int] = []
        client.get(stored, tmp_path / "out", progress=lambda done, _: told.append(done))
        assert proxy.reached.is_set() and (tmp_path / "out").read_bytes() == content
        assert told == sorted(told) and told[-1] == SIZE


def test_a_file_replaced_while_it_is_fetched_comes_whole_all_the_same(
    cluster: Cluster, stored: str, content: bytes, tmp_path: Path
) -> None:
    new = content[::-1]
    with Proxy(cluster.port, limit=20 * MIB, hold=True) as proxy, Client(proxy.url) as client:
        replaced: list[str] = []

        def replace(done: int, _: int | None) -> None:
            if done > 10 * MIB and not replaced:
                assert proxy.reached.wait(60)
                with Client(cluster.url) as other:
                    replaced.append(other.put(new, stored).file_id)
                proxy.lift()

        assert client.get(stored, tmp_path / "out", progress=replace).file_id == replaced[0]
    assert hashlib.sha256((tmp_path / "out").read_bytes()).digest() == hashlib.sha256(new).digest()
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_a_killed_get_over_several_connections_fetches_only_the_rest(
    cluster: Cluster, stored: str, content: bytes, here: Path, environ: dict[str, str]
) -> None:
    note = here / "out.part.json"

    def held() -> int:
        done = json.loads(note.read_text()).get("done", []) if note.exists() else []
        return sum(end - begin for begin, end in done)

    with Proxy(cluster.port, limit=34 * MIB, hold=True) as proxy:
        process = start(here, environ, "--api", proxy.url, "get", "--resume", "--jobs", "3", stored, "out")
        eventually(lambda: held() >= 4 * MIB, "a portion is there")
        assert proxy.reached.wait(60)
        process.kill()
        process.communicate(timeout=60)
    there = held()
    assert not (here / "out").exists()
    with Proxy(cluster.port, limit=SIZE - there + MIB) as proxy:
        run(here, environ, "--api", proxy.url, "--retry-for", "0", "get", "--resume", stored, "out")
        assert not proxy.reached.is_set()  # only the rest came
    assert (here / "out").read_bytes() == content and len(list(here.iterdir())) == 1


def test_a_put_over_several_connections_survives_a_server_and_is_stored_once(
    cluster: Cluster, content: bytes, tmp_path: Path
) -> None:
    path = f"{new_file_id()}/f"
    (tmp_path / "f").write_bytes(content)
    with Proxy(cluster.port, limit=15 * MIB, direction="up") as proxy:
        with Client(f"{proxy.url},{cluster.url}") as client:
            put = client.put(tmp_path / "f", path, jobs=4, if_none_match="*")
        assert proxy.reached.is_set()
    with Client(cluster.url) as client:
        found = client.stat(path)
        assert (found.file_id, found.size, found.sha256) == (put.file_id, SIZE, None)
        client.get(path, tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content


def test_an_empty_file_and_one_byte_more_than_the_first_answer_holds(cluster: Cluster, tmp_path: Path) -> None:
    folder = new_file_id()
    with Client(cluster.url) as client:
        for size in (0, 1, 16 * MIB, 16 * MIB + 1):
            body = os.urandom(size)
            client.put(body, f"{folder}/{size}")
            client.get(f"{folder}/{size}", tmp_path / "out")
            assert (tmp_path / "out").read_bytes() == body
