"""Metadata that cannot be reached for half a minute, on both stores.

Writes are refused with 503 and Retry-After, reads that have begun end well, nothing is lost, no node
counts as dead for it, and afterwards everything goes on without anybody's help.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.caller import Answer, Caller
from tests.support.cluster import Cluster, eventually
from tests.support.load import Load
from tests.support.moto_server import MotoServer
from tests.support.proxy import Proxy
from tests.support.sweep import seeded

OUTAGES = int(os.environ.get("OUTAGES", "20" if os.environ.get("LONG") == "1" else "1"))
OUTAGE_SECONDS = 30.0
CHUNK = 64 * 1024
CHUNKS = 400
"""More than whose rows are read at once."""

SETTINGS = {
    "REPLICATION_TIMEOUT": "8",
    "DFS_NODE_TIMEOUT": "2",
    "DFS_REPAIR_DELAY": "5",  # less than the outage: who counted that as absence would begin to copy
    "DFS_REPAIR_INTERVAL": "1",
}

_HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=60, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.read()
"""


@dataclass
class Setting:
    """A cluster and a way to take its metadata away; `reads_too`: also from who only reads."""

    cluster: Cluster
    outage: Callable[[], AbstractContextManager[None]]
    reads_too: bool


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Another process has the database to itself."""
    held = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert held.stdin is not None and held.stdout is not None
    try:
        assert held.stdout.readline() == "held\n"
        yield
    finally:
        held.stdin.close()
        held.wait(60)
        held.stdout.close()


@contextlib.contextmanager
def frozen(proxy: Proxy) -> Iterator[None]:
    """Connections stay, and nothing comes of them."""
    proxy.freeze()
    try:
        yield
    finally:
        proxy.heal()


@pytest.fixture(params=["sqlite", "dynamodb"])
def setting(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Setting]:
    if request.param == "sqlite":
        with Cluster(tmp_path, environ=SETTINGS) as cluster:
            yield Setting(cluster, lambda: locked(tmp_path / "metadata.sqlite"), False)
        return
    with MotoServer() as moto, Proxy(("127.0.0.1", moto.port)) as proxy:
        environ = moto.environment() | {"AWS_ENDPOINT_URL": proxy.url} | SETTINGS
        with Cluster(tmp_path, environ=environ) as cluster:
            yield Setting(cluster, lambda: frozen(proxy), True)


class Reader:
    """A download that has begun: some of it is read, the rest waits."""

    def __init__(self, port: int, path: str, first: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        self._connection.request("GET", f"/files/{path}")
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        self._sum = hashlib.sha256(self._answer.read(first))

    def finish(self) -> str:
        """The SHA-256 of everything; raises when it is cut short."""
        while piece := self._answer.read(1 << 20):
            self._sum.update(piece)
        self._connection.close()
        return self._sum.hexdigest()


class Watch:
    """Looks at the nodes again and again; `seen` are those that ever were not alive."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.looks = 0
        self.seen: set[str] = set()

    def __enter__(self) -> Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _look(self) -> None:
        caller = Caller(self._cluster.port)
        while not self._ended.wait(0.005):
            nodes = caller.call("GET", "/nodes").json["nodes"]
            assert isinstance(nodes, list)
            self.seen |= {node["node_id"] for node in nodes if not node["alive"]}
            self.looks += 1
        caller.close()


def test_half_a_minute_without_metadata_loses_nothing_and_ends_by_itself(setting: Setting) -> None:
    cluster = setting.cluster
    content = seeded("outage").randbytes(CHUNK * CHUNKS)
    caller = cluster.caller()
    assert caller.file("PUT", "large", content, X_Chunk_Size=str(CHUNK)).status == 201
    with Load(cluster, client="raw", timeout=90, names=40) as load, Watch(cluster) as watch:
        load.fill()
        load.start()
        for _ in range(OUTAGES):
            load.wait_for(60)
            ends = outage(setting, load)
            assert ends == {hashlib.sha256(content).hexdigest()}, "a read that had begun"
            assert not watch.seen, "a node counted as dead because metadata was away"
            eventually(lambda: caller.call("GET", "/readyz").status == 200, "the server says that it is ready")
        load.stop()
        print(f"{watch.looks} looks at the nodes")
        assert load.refusals and not any("no answer" in what for what in load.refusals | load.unsure)
        load.assert_no_errors()
        load.verify()
    assert all(node.running for node in cluster.nodes)
    said = cluster.apis[0].log.read_text()
    assert "repair.node_absent" not in said, "a node counted as absent because metadata was away"
    caller.close()


def outage(setting: Setting, load: Load) -> set[str]:
    """One outage; returns the checksums of what the readers read that had begun before."""
    port = setting.cluster.port
    with ThreadPoolExecutor(6) as pool:
        readers = [Reader(port, "large", first) for first in (CHUNK, 40 * CHUNK, 100 * CHUNK)]
        with setting.outage():
            began = time.monotonic()
            load.mark()
            finishing = [pool.submit(readers[0].finish)]
            wait_until(began + OUTAGE_SECONDS / 3)
            finishing.append(pool.submit(readers[1].finish))
            new = [pool.submit(check, setting) for check in (put_is_refused, delete_is_refused, get_is_refused)]
            wait_until(began + OUTAGE_SECONDS)
            during = load.summary()
        over = time.monotonic()
        finishing.append(pool.submit(readers[2].finish))
        load.wait_for(20, "put", seconds=60)
        print(f"back after {time.monotonic() - over:.1f} s; during the outage: {during}")
        for check in new:
            check.result()
        return {each.result() for each in finishing}


def put_is_refused(setting: Setting) -> None:
    """A new client is told that the store is not to be had now, and when to come again."""
    refused(setting.cluster.caller(), lambda caller: caller.file("PUT", "new", b"new"))


def delete_is_refused(setting: Setting) -> None:
    refused(setting.cluster.caller(), lambda caller: caller.file("DELETE", "large"))


def get_is_refused(setting: Setting) -> None:
    """Unless metadata can still be read."""
    if setting.reads_too:
        refused(setting.cluster.caller(), lambda caller: caller.file("GET", "large"))
    caller = setting.cluster.caller()
    assert caller.call("GET", "/healthz").status == 200
    caller.close()


def refused(caller: Caller, call: Callable[[Caller], Answer]) -> None:
    answer = call(caller)
    assert answer.status == 503 and int(answer.headers["retry-after"]) > 0, answer
    caller.close()


def wait_until(moment: float) -> None:
    """The outage itself takes its time."""
    threading.Event().wait(max(0.0, moment - time.monotonic()))
