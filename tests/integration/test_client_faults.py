"""The client when connections break, hang, and when it is killed itself."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from dfs.client import Client
from dfs.model import new_file_id
from tests.support.cluster import ROOT, Cluster, eventually

MIB = 1 << 20


class Proxy:
    """A TCP proxy that cuts or holds connections after so many bytes of one direction.

    `limit` counts the bytes towards the client (`down`) or the server (`up`), of all connections.
    At the limit they are cut, or with `hold` stand still until `lift`.
    """

    def __init__(self, port: int, *, limit: int, direction: str = "down", hold: bool = False) -> None:
        self._target = port
        self._left = limit
        self._direction = direction
        self._hold = hold
        self._lifted = threading.Event()
        self._lock = threading.Lock()
        self.reached = threading.Event()
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def lift(self) -> None:
        """No limit any more."""
        self._lifted.set()

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._lifted.set()
        for each in self._sockets:
            end(each)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
            except OSError:
                return
            self._sockets += [client, server]
            for source, goal, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(target=self._pump, args=(source, goal, direction), daemon=True).start()

    def _pump(self, source: socket.socket, goal: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(65536):
                if direction == self._direction and not self._lifted.is_set():
                    with self._lock:
                        data, rest = data[: self._left], data[self._left :]
                        self._left -= len(data)
                    goal.sendall(data)
                    if not self._left:
                        self.reached.set()
                        if not self._hold:
                            break
                        self._lifted.wait()
                    data = rest
                with self._lock:
                    self.passed += len(data) if direction == self._direction else 0
                goal.sendall(data)
        except OSError:
            pass
        end(source)
        end(goal)


def end(each: socket.socket) -> None:
    try:
        each.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass
    each.close()


@pytest.fixture
def content() -> bytes:
    return os.urandom(12 * MIB + 5)


@pytest.fixture
def stored(cluster: Cluster, content: bytes) -> str:
    path = f"{new_file_id()}/f"
    with Client(cluster.url) as client:
        client.put(content, path)
    return path


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path / "state")}


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "here").mkdir()
    yield tmp_path / "here"


def start(here: Path, environ: dict[str, str], *argv: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "dfs.client", *argv], cwd=here, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(here: Path, environ: dict[str, str], *argv: str) -> None:
    process = start(here, environ, *argv)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said


def test_a_get_cut_in_the_middle_goes_on_at_the_next_server(
    cluster: Cluster, stored: str, content: bytes, tmp_path: Path
) -> None:
    with Proxy(cluster.port, limit=5 * MIB) as proxy, Client(f"{proxy.url},{cluster.url}") as client:
        client.get(stored, tmp_path / "out")
        assert proxy.reached.is_set() and (tmp_path / "out").read_bytes() == content
    with Proxy(cluster.port, limit=5 * MIB) as proxy, Client(f"{proxy.url},{cluster.url}") as client:
        assert b"".join(client.iter_content(stored)) == content


def test_a_put_cut_in_the_middle_is_sent_again_and_stored_once(
    cluster: Cluster, content: bytes, tmp_path: Path
) -> None:
    path = f"{new_file_id()}/f"
    (tmp_path / "f").write_bytes(content)
    with Proxy(cluster.port, limit=7 * MIB, direction="up") as proxy:
        with Client(f"{proxy.url},{cluster.url}") as client:
            put = client.put(tmp_path / "f", path, if_none_match="*")
        assert proxy.reached.is_set()
    with Client(cluster.url) as client:
        assert client.stat(path).file_id == put.file_id and client.read(path) == content


def test_a_put_whose_answer_is_lost_is_found_done(cluster: Cluster) -> None:
    path = f"{new_file_id()}/f"
    with Proxy(cluster.port, limit=1) as proxy, Client(f"{proxy.url},{cluster.url}") as client:
        put = client.put(b"small", path, if_none_match="*")
        assert proxy.reached.is_set() and client.stat(path).file_id == put.file_id


def test_a_move_and_a_delete_whose_answers_are_lost_are_found_done(cluster: Cluster, stored: str) -> None:
    with Proxy(cluster.port, limit=1) as proxy, Client(f"{proxy.url},{cluster.url}") as client:
        assert client.move(stored, stored + "2").path == stored + "2"
    with Proxy(cluster.port, limit=1) as proxy, Client(f"{proxy.url},{cluster.url}") as client:
        client.delete(stored + "2")
        assert not list(client.list(stored))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_an_interrupted_get_leaves_nothing_behind(
    cluster: Cluster, stored: str, here: Path, environ: dict[str, str], number: int, code: int
) -> None:
    (here / "out").write_bytes(b"old")
    with Proxy(cluster.port, limit=5 * MIB, hold=True) as proxy:
        process = start(here, environ, "--api", proxy.url, "get", stored, "out")
        assert proxy.reached.wait(60)
        eventually(lambda: len(list(here.iterdir())) == 2, "the temporary file is there")
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
        assert process.returncode == code and b"Traceback" not in said and out == b""
    assert (here / "out").read_bytes() == b"old" and len(list(here.iterdir())) == 1


def test_a_killed_get_goes_on_where_it_was(
    cluster: Cluster, stored: str, content: bytes, here: Path, environ: dict[str, str]
) -> None:
    with Proxy(cluster.port, limit=6 * MIB, hold=True) as proxy:
        process = start(here, environ, "--api", proxy.url, "get", "--resume", stored, "out")
        eventually(lambda: (here / "out.part").exists() and (here / "out.part").stat().st_size > 5 * MIB, "a part")
        process.kill()
        process.communicate(timeout=60)
    assert not (here / "out").exists()
    with Proxy(cluster.port, limit=8 * MIB) as proxy:
        run(here, environ, "--api", proxy.url, "--retry-for", "0", "get", "--resume", stored, "out")
        assert not proxy.reached.is_set()  # only the rest came
    assert (here / "out").read_bytes() == content and len(list(here.iterdir())) == 1


def test_a_killed_put_goes_on_where_it_was(
    cluster: Cluster, content: bytes, here: Path, environ: dict[str, str]
) -> None:
    path = f"{new_file_id()}/f"
    (here / "f").write_bytes(content)
    with Proxy(cluster.port, limit=8 * MIB, direction="up", hold=True) as proxy:
        argv = ["--api", proxy.url, "put", "--resume", "--chunk-size", "1MiB", "f", path]
        process = start(here, environ, *argv)
        assert proxy.reached.wait(60)
        process.kill()
        process.communicate(timeout=60)
        proxy.lift()
        before = proxy.passed
        run(here, environ, *argv)
        assert proxy.passed - before < 10 * MIB
    with Client(cluster.url) as client:
        assert client.read(path) == content


def test_a_server_that_hangs_is_left_after_the_timeout(cluster: Cluster, stored: str, content: bytes) -> None:
    with Proxy(cluster.port, limit=3 * MIB, hold=True) as proxy:
        with Client(f"{proxy.url},{cluster.url}", timeout=1.0) as client:
            assert client.read(stored) == content
        assert proxy.reached.is_set()
