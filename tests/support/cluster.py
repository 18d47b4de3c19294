"""A real cluster for tests: every server a process of its own, started and broken at will.

`python -m dfs up` runs the same processes; here the test is the supervisor, so that it can start a
node on another port, or none at all.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.support.caller import Caller, NoAnswer

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
SETTLE_SECONDS = 60.0

RUNNING: list[Cluster] = []
"""Clusters of this test process, so that a failing test can show their logs."""


class DidNotStart(Exception):
    """A server ended instead of serving; the text is what it said, `code` how it exited."""

    def __init__(self, text: str, code: int | None) -> None:
        super().__init__(text)
        self.code = code


class Server:
    """One server process (`python -m MODULE`) with its own log."""

    def __init__(self, name: str, module: str, environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.environ = dict(environ)
        self.log = log
        self.port = 0
        self._module = module
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = -1
        self._alive_pipe = (-1, -1)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def spawn(self, **changes: str) -> None:
        """Start the process, with its environment changed for good; `wait_ready` follows."""
        assert not self.running
        self.environ.update(changes)
        self._ready, write = os.pipe()
        self._alive_pipe = os.pipe()
        with open(self.log, "ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", self._module, "--ready-fd", str(write), "--parent-fd", str(self._alive_pipe[0])],
                cwd=ROOT,
                env=os.environ | self.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(write, self._alive_pipe[0]),
            )
        os.close(write)
        os.close(self._alive_pipe[0])

    def wait_ready(self) -> None:
        """Wait until it serves; raises DidNotStart."""
        poll = select.poll()
        poll.register(self._ready, select.POLLIN)
        answered = poll.poll(START_SECONDS * 1000)
        line = os.read(self._ready, 65536) if answered else b""
        os.close(self._ready)
        if not line:
            assert self._process is not None
            if not answered:
                self._process.kill()
            code = self._process.wait()
            self._forget()
            raise DidNotStart(self.said(), code)
        self.port = int(json.loads(line)["port"])

    def start(self, **changes: str) -> None:
        self.spawn(**changes)
        self.wait_ready()

    def workers(self) -> list[int]:
        """Process ids of its worker processes, if it has any."""
        listed = subprocess.run(["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        pairs = (line.split() for line in listed.stdout.splitlines())
        return sorted(int(pid) for pid, parent in pairs if int(parent) == self.pid)

    def kill(self) -> None:
        """`kill -9` of it and its workers; returns when the process is gone."""
        if self.running:
            assert self._process is not None
            workers = self.workers()
            self._process.kill()
            self._process.wait()
            for pid in workers:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it noticed that its keeper was gone
        self._forget()

    def stop(self, seconds: float = 30) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(seconds)
        self._forget()
        return code

    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-20_000:] if self.log.exists() else ""

    def _forget(self) -> None:
        if self._alive_pipe[1] >= 0:
            os.close(self._alive_pipe[1])
            self._alive_pipe = (-1, -1)


class Cluster:
    """Nodes and API servers over one metadata store. Use as a context manager.

    `environ` holds settings for all processes (metadata among them, see `MotoServer.environment`).
    """

    def __init__(
        self, directory: Path, *, nodes: int = 3, factor: int = 2, environ: Mapping[str, str] | None = None
    ) -> None:
        self.directory = directory
        self.directory.mkdir(parents=True, exist_ok=True)
        base = {
            "DFS_METADATA_URL": f"sqlite:///{directory / 'metadata.sqlite'}",
            "REPLICATION_FACTOR": str(factor),
            "NODE_HEARTBEAT_INTERVAL": "0.5",
            "NODE_HEARTBEAT_TIMEOUT": "3",
            "NODE_PRIVATE_IP": "127.0.0.1",
            "NODE_PORT": "0",
            "DFS_ZONE": "local",
            "DFS_API_PORT": "0",
            "DFS_API_WORKERS": "1",
        }
        self.environ = base | dict(environ or {})
        self.nodes = [self._node(number) for number in range(1, nodes + 1)]
        self.apis: list[Server] = []

    def __enter__(self) -> Cluster:
        RUNNING.append(self)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.close()

    def start(self) -> None:
        """Make the metadata where missing; start all nodes, then one API server."""
        made = subprocess.run(
            [sys.executable, "-m", "dfs.admin", "create-tables"],
            cwd=ROOT,
            env=os.environ | self.environ,
            capture_output=True,
            text=True,
        )
        assert made.returncode == 0, made.stderr
        for node in self.nodes:
            node.spawn()
        for node in self.nodes:
            node.wait_ready()
        self.add_api()
        self.wait_alive({node.name for node in self.nodes})

    def close(self) -> None:
        """Kill whatever runs."""
        for server in [*self.apis, *self.nodes]:
            server.kill()
        if self in RUNNING:
            RUNNING.remove(self)

    def add_api(self, **changes: str) -> Server:
        """Start one more API server."""
        name = f"api{len(self.apis) + 1}"
        server = Server(name, "dfs.api", self.environ | changes, self.directory / f"{name}.log")
        self.apis.append(server)
        server.start()
        return server

    def add_node(self) -> Server:
        """Start one more node."""
        node = self._node(len(self.nodes) + 1)
        self.nodes.append(node)
        node.start()
        return node

    def keep_ports(self) -> None:
        """Have every server come back on the port it has now, so that clients find it again."""
        for server in [*self.apis, *self.nodes]:
            server.environ["DFS_API_PORT" if server in self.apis else "NODE_PORT"] = str(server.port)

    def node(self, node_id: str) -> Server:
        return next(node for node in self.nodes if node.name == node_id)

    @property
    def port(self) -> int:
        """The port of the first API server."""
        return self.apis[0].port

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def caller(self, api: int = 0) -> Caller:
        return Caller(self.apis[api].port)

    def nodes_seen(self, api: int = 0) -> list[dict[str, Any]]:
        """What `GET /nodes` says."""
        caller = self.caller(api)
        try:
            nodes = caller.call("GET", "/nodes").json["nodes"]
            assert isinstance(nodes, list)
            return nodes
        finally:
            caller.close()

    def wait_alive(self, node_ids: set[str], api: int = 0) -> None:
        """Wait until exactly these nodes count as alive."""
        eventually(
            lambda: {node["node_id"] for node in self.nodes_seen(api) if node["alive"]} == node_ids,
            f"{sorted(node_ids)} alive",
        )

    def logs(self) -> dict[str, str]:
        return {server.name: server.said() for server in [*self.apis, *self.nodes]}

    def _node(self, number: int) -> Server:
        name = f"node{number}"
        environ = self.environ | {"NODE_ID": name, "DFS_DATA_DIR": str(self.directory / name)}
        return Server(name, "dfs.node", environ, self.directory / f"{name}.log")


def eventually(condition: Callable[[], bool], what: str, seconds: float = SETTLE_SECONDS) -> None:
    """Wait until `condition` holds, asking it again and again; fails the test naming `what`."""
    pause = 0.01
    end = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except NoAnswer:
            pass  # a server that is being restarted
        assert time.monotonic() < end, f"not within {seconds:g} s: {what}"
        time.sleep(pause)
        pause = min(0.2, pause * 1.5)
