"""dfs as `python -m dfs up` runs it: an API server and nodes on this machine, over SQLite."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from tests.bench import load, machine
from tests.bench.stores.server import Line, NotStarted, Program, Server, wait_until

ROOT = Path(__file__).resolve().parents[3]
PROMISE = (
    "two copies on two nodes, each covered by an fdatasync, and the path committed durably "
    "(SQLite, synchronous=FULL)"
)
READS = "every byte against its checksum before it is sent"


@functools.cache
def known_settings() -> frozenset[str]:
    """The names that this release's API server and nodes take: an unknown one stops the start."""
    names: set[str] = set()
    for module in ("dfs.api", "dfs.node"):
        done = subprocess.run(
            [sys.executable, "-m", module, "--show-settings"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        names |= {line.partition("=")[0] for line in done.stdout.splitlines() if "=" in line}
    return frozenset(names)


class Dfs(Server):
    """A cluster in `directory`, which may hold one already.

    `settings` are environment variables for all its processes. With `supervise` off, a process that
    dies stays dead.
    """

    name = "dfs"

    def __init__(
        self, directory: Path, *, nodes: int = 3, factor: int = 2, given: Mapping[str, str] | None = None,
        key: str = "dfs", title: str = "dfs", supervise: bool = True,
    ) -> None:  # fmt: skip
        self.directory = directory
        self.nodes = nodes
        self._factor = factor
        self._given = dict(given or {})
        self._supervise = supervise
        self._program: Program | None = None
        self.port = 0
        self.lines = (Line(key, title, PROMISE, READS, "/files/{prefix}/{n}"),)

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "dfs", "up", "--data", str(self.directory / "cluster"), "--api-port", "0",
                   "--nodes", str(self.nodes), "--replication-factor", str(self._factor),
                   "--strategy", "sync"]  # fmt: skip
        if not self._supervise:
            command.append("--no-supervise")
        self._program = Program(command, self.directory / "up.log", environ=os.environ | self._given, cwd=ROOT,
                                stdout=subprocess.PIPE)  # fmt: skip
        assert self._program.process.stdout is not None
        line = self._program.process.stdout.readline().decode()
        if not line.startswith("ready "):
            raise NotStarted(f"the cluster did not start: {self._program.last_words()}")
        self.port = int(line.rsplit(":", 1)[1])

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()
            self._program = None

    def roots(self) -> list[int]:
        return [self._program.pid] if self._program is not None else []

    def role(self, process: machine.Process) -> str:
        return next((role for role in ("api", "node") if f"-m dfs.{role}" in process.command), "supervisor")

    @property
    def settings(self) -> dict[str, object]:
        environment = {name: os.environ[name] for name in sorted(known_settings() & set(os.environ)) if name != "HOME"}
        return {"nodes": self.nodes, "replication_factor": self._factor, "strategy": "sync",
                "environment": environment | self._given}  # fmt: skip

    # --- single processes -----------------------------------------------------------------------

    def node_ids(self) -> list[str]:
        """The nodes, in order."""
        layout = json.loads((self.directory / "cluster" / "cluster.json").read_text())
        return [slot["node_id"] for slot in layout["nodes"]]

    def pid_of(self, name: str) -> int:
        """The process of a node, or of `api`."""
        return int((self.directory / "cluster" / "run" / f"{name}.pid").read_text())

    def pids(self, role: str) -> list[int]:
        """The processes of a role."""
        return [process.pid for process in machine.family(self.roots()) if self.role(process) == role]

    def rss(self, role: str) -> list[int]:
        """Resident bytes of each process of a role."""
        return machine.resident(self.pids(role))

    def kill(self, node_id: str) -> None:
        """End a node as a crash would, and wait until the API counts it among the dead."""
        os.kill(self.pid_of(node_id), signal.SIGKILL)
        assert self._program is not None
        wait_until(f"the end of {node_id}", lambda: not self._alive(node_id), [self._program])

    def _alive(self, node_id: str) -> bool:
        nodes = load.call_json(self.port, "GET", "/nodes")["nodes"]
        return any(node["node_id"] == node_id and node["alive"] for node in nodes)

    def restart(self, node_id: str, number: int) -> float:
        """Send a supervised node signal `number`; seconds from its end until its successor is ready."""
        nodes = load.call_json(self.port, "GET", "/nodes")["nodes"]
        port = next(node["port"] for node in nodes if node["node_id"] == node_id)
        pid = self.pid_of(node_id)
        os.kill(pid, number)
        assert self._program is not None
        while True:  # not through `wait_until`, whose steps are as long as what is measured
            process = machine.processes().get(pid)
            if process is None or not process.command:  # gone, or its parent has not noticed yet
                break
            time.sleep(0.002)
        ended = time.monotonic()
        while True:
            try:
                if load.call_json(port, "GET", "/readyz")["ready"]:
                    return time.monotonic() - ended
            except (OSError, load.LoadFailed, KeyError):
                pass
            if time.monotonic() - ended > 120:
                raise NotStarted(f"{node_id} did not come back within two minutes")
            time.sleep(0.005)
