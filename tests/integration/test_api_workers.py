"""Several API worker processes on one socket: started, balanced, killed, hung, stopped."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_start_errors import refused, run
from tests.support.cluster import ROOT, Cluster, eventually
from tests.support.embedded import Up, alive

CLIENTS = 8
TWO = {"DFS_API_WORKERS": "2", "DFS_DRAIN_TIMEOUT": "5"}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """One node, an API server of two workers."""
    with Cluster(tmp_path / "cluster", nodes=1, factor=1, environ=TWO) as running:
        yield running


class Client:
    """One connection, never made anew."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._connection.connect()
        self.closing = False

    def worker(self, target: str = "/healthz") -> str:
        """Which process answers: the beginning of its request ids. Raises OSError when it is gone."""
        self._connection.request("GET", target)
        answer = self._connection.getresponse()
        answer.read()
        assert answer.status == 200
        self.closing = answer.getheader("Connection") == "close"
        return str(answer.getheader("X-Request-Id"))[:8]

    def close(self) -> None:
        self._connection.close()


def clients_of(port: int, count: int = CLIENTS) -> list[Client]:
    return [Client(port) for _ in range(count)]


def close(clients: list[Client]) -> None:
    for client in clients:
        client.close()


def gone(pids: list[int]) -> None:
    eventually(lambda: not any(alive(pid) for pid in pids), f"{pids} are gone")


def sockets_of(pid: int) -> int:
    """How many sockets a process has open; -1 where there is no /proc."""
    if not Path("/proc/self/fd").exists():
        return -1
    kinds = []
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            kinds.append(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            pass  # closed since
    return sum(kind.startswith("socket:") for kind in kinds)


def test_both_serve_and_have_the_same_number_of_connections(cluster: Cluster) -> None:
    workers = cluster.apis[0].workers()
    assert len(workers) == 2
    before = {pid: sockets_of(pid) for pid in workers}
    splits: Counter[tuple[int, ...]] = Counter()
    for _ in range(10 if min(before.values()) >= 0 else 1):
        clients = clients_of(cluster.port)
        splits[tuple(sorted(Counter(client.worker() for client in clients).values()))] += 1
        close(clients)
        eventually(lambda: all(sockets_of(pid) <= before[pid] for pid in workers), "they noticed the end of all")
    print(splits)
    # Where a machine is so busy that a worker does not run for a tenth of a second, the other helps out.
    assert splits.most_common(1)[0][0] in ((4, 4), (3, 5))


def test_what_one_worker_stored_another_reads_and_changes(cluster: Cluster) -> None:
    clients = {client.worker(): client for client in clients_of(cluster.port)}
    assert len(clients) == 2
    one, two = (client._connection for client in clients.values())
    for number, (writer, reader) in enumerate([(one, two), (two, one)] * 5):
        writer.request("PUT", "/files/shared", body=b"content %d" % number)
        answer = writer.getresponse()
        assert (answer.status, bool(answer.read())) == (201, True)
        reader.request("GET", "/files/shared")
        assert reader.getresponse().read() == b"content %d" % number
        reader.request("DELETE", "/files/shared")
        answer = reader.getresponse()
        assert (answer.status, answer.read()) == (204, b"")
        writer.request("GET", "/files/shared")
        answer = writer.getresponse()
        assert (answer.status, bool(answer.read())) == (404, True)


def test_a_killed_worker_breaks_its_own_connections_alone_and_is_replaced(cluster: Cluster) -> None:
    server = cluster.apis[0]
    before = server.workers()
    clients = clients_of(cluster.port)
    worker_of = {client: client.worker() for client in clients}
    os.kill(before[0], signal.SIGKILL)
    gone(before[:1])
    broken = set()
    for client, worker in worker_of.items():
        try:
            assert client.worker() == worker
        except (OSError, http.client.HTTPException):
            broken.add(worker)
    assert len(broken) == 1
    survivors = [worker for worker in worker_of.values() if worker not in broken]
    assert 3 <= len(survivors) <= 5
    eventually(lambda: len(server.workers()) == 2, "a new worker")
    eventually(lambda: server.said().count("worker.ready") == 3, "it serves")
    assert server.workers() != before
    more = clients_of(cluster.port, 2 * CLIENTS)
    found = Counter(client.worker() for client in more)
    assert len(found) == 2 and not broken & set(found), "the new one takes its share"
    close(more + clients)
    assert server.stop() == 0
    assert "worker.lost" in server.said()


def state_of(pid: int) -> str:
    return subprocess.run(["ps", "-o", "state=", "-p", str(pid)], capture_output=True, text=True, check=True).stdout


def test_a_hung_worker_holds_up_nobody_else(cluster: Cluster) -> None:
    server = cluster.apis[0]
    hung = server.workers()[0]
    first = clients_of(cluster.port)
    workers = Counter(client.worker() for client in first)
    os.kill(hung, signal.SIGSTOP)
    eventually(lambda: "T" in state_of(hung), "it is stopped")
    try:
        found = {client.worker() for client in clients_of(cluster.port, 4 * CLIENTS)}
        assert len(found) == 1 and found <= set(workers)
    finally:
        os.kill(hung, signal.SIGCONT)
    close(first)
    eventually(lambda: {client.worker() for client in clients_of(cluster.port)} == set(workers), "it takes part again")


def test_a_worker_that_hangs_does_not_outlive_a_stop(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1, factor=1, environ=TWO | {"DFS_DRAIN_TIMEOUT": "0"}) as cluster:
        server = cluster.apis[0]
        workers = server.workers()
        os.kill(workers[0], signal.SIGSTOP)
        assert server.stop() == 1
        gone(workers)
        assert "did not stop within" in server.said()


def test_sigterm_answers_every_request_and_leaves_no_process(cluster: Cluster) -> None:
    server = cluster.apis[0]
    pids = [server.pid, *server.workers()]
    answered: Counter[str] = Counter()
    failed: list[str] = []
    begun = threading.Barrier(CLIENTS + 1)

    def load() -> None:
        begun.wait()
        while True:
            try:
                client = Client(cluster.port)
            except OSError:
                return  # it listens no longer
            try:
                while not client.closing:
                    answered[client.worker("/nodes")] += 1
            except (OSError, http.client.HTTPException, AssertionError) as error:
                failed.append(repr(error))
                return
            finally:
                client.close()

    threads = [threading.Thread(target=load) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    begun.wait()
    eventually(lambda: answered.total() > 100, "requests are answered")
    assert server.stop() == 0
    for thread in threads:
        thread.join()
    assert not failed
    gone(pids)


def test_workers_whose_keeper_is_killed_go_too_and_free_the_port(cluster: Cluster) -> None:
    server = cluster.apis[0]
    workers, port = server.workers(), cluster.port
    os.kill(server.pid, signal.SIGKILL)
    server._process.wait()  # type: ignore[union-attr]
    server.start(DFS_API_PORT=str(port))
    assert cluster.port == port
    gone(workers)


def test_the_end_of_the_parents_pipe_stops_all(cluster: Cluster) -> None:
    server = cluster.apis[0]
    pids = [server.pid, *server.workers()]
    server._forget()
    assert server._process is not None
    assert server._process.wait(30) == 0
    gone(pids)


def test_a_stop_while_workers_still_start(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=1, factor=1, environ=TWO) as cluster:
        server = cluster.apis[0]
        server.stop()
        server.spawn()
        eventually(lambda: len(server.workers()) == 2, "workers start")
        pids = [server.pid, *server.workers()]
        assert server.stop() == 0
        os.close(server._ready)
        gone(pids)


def test_a_failed_start_is_told_once(tmp_path: Path) -> None:
    database = {"DFS_METADATA_URL": f"sqlite:///{tmp_path / 'none.sqlite'}", "DFS_API_PORT": "0"}
    done = run("dfs.api", **TWO, **database)
    refused(done, 1, "create-tables")
    assert sum("create-tables" in line for line in done.stderr.splitlines()) == 1


def test_too_little_memory_for_so_many(tmp_path: Path) -> None:
    database = {"DFS_METADATA_URL": f"sqlite:///{tmp_path / 'none.sqlite'}"}
    refused(run("dfs.api", DFS_API_WORKERS="64", **database), 2, "DFS_BUFFER_BYTES", "DFS_API_WORKERS=64")


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused(run("dfs.api", **TWO, DFS_API_PORT=port), 1, f"DFS_API_PORT={port}", "in use")


def test_a_socket_from_systemd(cluster: Cluster) -> None:
    server = cluster.apis[0]
    with socket.create_server(("127.0.0.1", 0)) as listener:
        code = (
            "import os, sys\n"
            f"os.dup2({listener.fileno()}, 3)\n"
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\n"
            "from dfs.api.__main__ import main\n"
            "sys.exit(main([]))"
        )
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT, env=os.environ | server.environ, pass_fds=[listener.fileno()], stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        port = listener.getsockname()[1]
        # Who waited before they started may all be with the first that was ready.
        eventually(lambda: len({client.worker() for client in clients_of(port)}) == 2, "both serve")
        process.terminate()
        _, said = process.communicate(timeout=60)
        assert process.returncode == 0, said


def test_the_embedded_cluster_passes_it_on_and_leaves_nothing(tmp_path: Path) -> None:
    with Up(tmp_path / "data", "--nodes", "1", "--replication-factor", "1", environ=TWO) as up:
        assert len({client.worker() for client in clients_of(up.port)}) == 2
        pids = [*up.pids().values()]
        up.process.send_signal(signal.SIGKILL)
        up.finish()
    gone(pids)
