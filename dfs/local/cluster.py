"""The embedded cluster as one object: `start`, `stop`, and the processes in between."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dfs
from dfs import process
from dfs.errors import StartError
from dfs.local.layout import ClusterDirectory, Layout
from dfs.local.supervise import Child, Launch
from dfs.metadata import open_metadata
from dfs.settings import ApiSettings, NodeSettings, child_environment, load
from dfs.wire.client import HttpClient, TransportError
from dfs.wire.deadline import Deadline

LOOPBACK = "127.0.0.1"
GATHER_SECONDS = 30.0

# On one machine a dead process is noticed by its refused connections; the seed's half minute
# between heartbeats would only make a restarted node wait. The environment beats these.
HEARTBEATS = {"NODE_HEARTBEAT_INTERVAL": "1", "NODE_HEARTBEAT_TIMEOUT": "5"}


@dataclass(frozen=True)
class Options:
    """What is not kept in `cluster.json`."""

    config: Path | None = None
    strategy: str | None = None
    supervise: bool = True
    defaults: Mapping[str, str] = field(default_factory=dict)
    """Settings for those that neither the environment nor the config file sets."""


class EmbeddedCluster:
    """API server and nodes as child processes, on a directory that the caller has opened."""

    def __init__(self, directory: ClusterDirectory, layout: Layout, options: Options) -> None:
        self.directory = directory
        self.layout = layout
        self._options = options
        self._layout_lock = threading.Lock()
        # Every child holds the reading end; it reaches its end when this process is gone, however.
        self._pipe_read, self._pipe_write = os.pipe()
        self.nodes = {slot.node_id: self._child(slot.node_id, self._launch_node) for slot in layout.nodes}
        self.api = self._child("api", self._launch_api)
        # Read once here, so that a bad setting is one sentence and not the end of four logs.
        self.settings = load(ApiSettings, config=options.config, environ=self._api_environment())
        load(NodeSettings, config=options.config, environ=self._node_environment(layout.nodes[0].node_id, 0))

    @property
    def url(self) -> str:
        """The API's address as seen from this machine."""
        bind = self.settings.api_bind
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(bind, bind)
        return f"http://[{host}]:{self.layout.api_port}" if ":" in host else f"http://{host}:{self.layout.api_port}"

    def start(self) -> None:
        """Start everything and return when the API sees every node alive. Raises StartError.

        The caller calls `stop` in either case.
        """
        metadata = open_metadata(self.settings)  # for DynamoDB too: boto3 may be missing
        try:
            if self.layout.metadata == "sqlite":
                metadata.create()
        finally:
            metadata.close()
        for child in self.nodes.values():
            child.spawn()
        for child in self.nodes.values():
            child.wait_ready()
        self.api.spawn()
        self.api.wait_ready()
        self._gather()
        for child in self._children():
            child.watch()

    def stop(self) -> None:
        """Stop the API, then the nodes; returns when all are gone. Idempotent."""
        patience = self.settings.drain_timeout + 5
        self.api.stop(patience)
        stoppers = [threading.Thread(target=child.stop, args=(patience,)) for child in self.nodes.values()]
        for stopper in stoppers:
            stopper.start()
        for stopper in stoppers:
            stopper.join()
        for fd in (self._pipe_read, self._pipe_write):
            if fd >= 0:
                os.close(fd)
        self._pipe_read = self._pipe_write = -1

    def _children(self) -> list[Child]:
        return [*self.nodes.values(), self.api]

    def _child(self, name: str, launch: Callable[[str], Launch]) -> Child:
        return Child(
            name,
            lambda: launch(name),
            log_file=self.directory.log_file(name),
            pid_file=self.directory.pid_file(name),
            parent_fd=self._pipe_read,
            kept_fds=(self.directory.lock_fd,),
            on_ready=self._keep_port,
            supervise=self._options.supervise,
        )

    def _keep_port(self, name: str, port: int) -> None:
        with self._layout_lock:
            layout = self.layout.with_port(name, port)
            if layout != self.layout:
                self.directory.write(layout)
                self.layout = layout

    def _launch_node(self, node_id: str) -> Launch:
        port = next(slot.port for slot in self.layout.nodes if slot.node_id == node_id)
        return self._launch("dfs.node", self._node_environment(node_id, port if _is_free(port) else 0))

    def _launch_api(self, _name: str) -> Launch:
        return self._launch("dfs.api", self._api_environment())

    def _launch(self, module: str, environment: dict[str, str]) -> Launch:
        flags = [flag for flag, on in (("-I", sys.flags.isolated), ("-S", sys.flags.no_site)) if on]
        config = ["--config", str(self._options.config.absolute())] if self._options.config else []
        return Launch([sys.executable, *flags, "-m", module, *config], environment)

    def _api_environment(self) -> dict[str, str]:
        values = {
            "DFS_API_PORT": str(self.layout.api_port),
            "REPLICATION_FACTOR": str(self.layout.replication_factor),
        }
        if self._options.strategy is not None:
            values["REPLICATION_STRATEGY"] = self._options.strategy
        return self._environment(values)

    def _node_environment(self, node_id: str, port: int) -> dict[str, str]:
        return self._environment(
            {
                "NODE_ID": node_id,
                "NODE_PORT": str(port),
                "NODE_PRIVATE_IP": LOOPBACK,
                "DFS_NODE_BIND": LOOPBACK,
                "DFS_ZONE": "local",
                "DFS_DATA_DIR": str(self.directory.path / "nodes" / node_id),
            }
        )

    def _environment(self, values: dict[str, str]) -> dict[str, str]:
        database = self.directory.path / "metadata.sqlite"
        values["DFS_METADATA_URL"] = f"sqlite:///{database}" if self.layout.metadata == "sqlite" else "dynamodb://"
        environment = child_environment(values, defaults=HEARTBEATS | dict(self._options.defaults), config=self._options.config)
        # The children import the package that this process imported, wherever they are started.
        package = str(Path(dfs.__file__).resolve().parents[1])
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [package, environment.get("PYTHONPATH")]))
        return environment

    def _gather(self) -> None:
        """Wait until the API counts every node among the living."""
        deadline = Deadline(GATHER_SECONDS)
        wanted = set(self.nodes)
        host, port = self.url.removeprefix("http://").rsplit(":", 1)
        client = HttpClient()
        try:
            while True:
                alive = _alive(client, host.strip("[]"), int(port), deadline)
                if wanted <= alive:
                    return
                if deadline.expired():
                    missing = ", ".join(sorted(wanted - alive))
                    raise StartError(f"the API server does not see {missing}; see {self.directory.path / 'log'}")
                time.sleep(0.05)
        finally:
            client.close()


def _alive(client: HttpClient, host: str, port: int, deadline: Deadline) -> set[str]:
    try:
        with client.request(host, port, "GET", "/nodes", deadline=deadline, stall=5.0) as answer:
            nodes = answer.read_json()["nodes"] if answer.status == 200 else []
    except TransportError as error:
        raise StartError(f"the API server stopped answering while it started: {error}") from None
    return {node["node_id"] for node in nodes if node["alive"]}


def _is_free(port: int) -> bool:
    """Whether the port that a node had can be had again (0: it has had none)."""
    if port == 0:
        return True
    try:
        process.bind(LOOPBACK, port, port_setting="NODE_PORT", bind_setting="DFS_NODE_BIND").close()
    except StartError:
        return False
    return True
