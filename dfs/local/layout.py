"""The data directory of an embedded cluster.

    DIR/cluster.json     what the cluster consists of (written whole, renamed into place)
    DIR/lock             flock, held by `up` and its children; names the process that runs the cluster
    DIR/metadata.sqlite  metadata, unless it is in DynamoDB
    DIR/nodes/<node_id>/ a node's data directory
    DIR/run/<name>.pid   the running processes: api and every node id
    DIR/log/<name>.log   what they say
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfs.errors import StartError
from dfs.model import is_node_id

FORMAT = 1
MAX_NODES = 64
METADATA = ("sqlite", "dynamodb")


@dataclass(frozen=True, slots=True)
class NodeSlot:
    """A node of the cluster; `port` 0 until it has run once."""

    node_id: str
    port: int


@dataclass(frozen=True, slots=True)
class Layout:
    """What `cluster.json` holds."""

    metadata: str
    replication_factor: int
    api_port: int
    nodes: tuple[NodeSlot, ...]

    def with_nodes(self, count: int) -> Layout:
        """This layout grown to `count` nodes; raises StartError when it has more."""
        if count < len(self.nodes):
            raise StartError(
                f"--nodes {count}: the cluster has {len(self.nodes)} nodes, and each holds data; "
                f"start it with --nodes {len(self.nodes)} or more"
            )
        added = tuple(NodeSlot(f"node{number}", 0) for number in range(len(self.nodes) + 1, count + 1))
        return dataclasses.replace(self, nodes=self.nodes + added)

    def with_port(self, name: str, port: int) -> Layout:
        """This layout with the port of the API (`api`) or of the node `name` changed."""
        if name == "api":
            return dataclasses.replace(self, api_port=port)
        nodes = tuple(NodeSlot(slot.node_id, port) if slot.node_id == name else slot for slot in self.nodes)
        return dataclasses.replace(self, nodes=nodes)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **dataclasses.asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Layout:
        """Raises ValueError (KeyError and TypeError too) for anything `to_json` would not write."""
        value: dict[str, Any] = json.loads(text)
        if value["format"] != FORMAT:
            raise ValueError(f"its format is {value['format']!r}, this release reads {FORMAT}")
        nodes = tuple(NodeSlot(str(slot["node_id"]), int(slot["port"])) for slot in value["nodes"])
        if not all(is_node_id(slot.node_id) for slot in nodes) or value["metadata"] not in METADATA:
            raise ValueError("a node id or the kind of metadata is not one")
        return cls(value["metadata"], int(value["replication_factor"]), int(value["api_port"]), nodes)


class ClusterDirectory:
    """One data directory, locked by this process from `open` until `close`."""

    def __init__(self, path: Path, lock_fd: int) -> None:
        self.path = path
        self.lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path, *, patience: float = 20.0) -> ClusterDirectory:
        """Create the directory where it is missing and lock it.

        When the process that ran the cluster is gone and only its children still hold the lock,
        waits up to `patience` seconds for them. Raises StartError.
        """
        path = path.absolute()
        try:
            for folder in (path, path / "run", path / "log", path / "nodes"):
                folder.mkdir(parents=True, exist_ok=True)
            lock_fd = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartError(f"--data {path}: cannot be written: {error.strerror}") from None
        try:
            _lock(path, lock_fd, patience)
            os.ftruncate(lock_fd, 0)
            with contextlib.suppress(OSError):  # a full disk: the process id only makes a message better
                os.pwrite(lock_fd, f"{os.getpid()}\n".encode(), 0)
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(path, lock_fd)

    def close(self) -> None:
        """Let go of the directory (children that still run keep it locked)."""
        os.close(self.lock_fd)

    def read(self) -> Layout | None:
        """The layout; None before the first start. Raises StartError when it is damaged.

        A start that failed before it made metadata or a node's disk binds nobody: that is None too.
        """
        file = self.path / "cluster.json"
        try:
            layout = Layout.from_json(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise StartError(f"{file} cannot be used: {error}") from None
        begun = (self.path / "metadata.sqlite").exists() or any(self.path.glob("nodes/*/node.json"))
        return layout if begun else None

    def write(self, layout: Layout) -> None:
        """Keep `layout`; it survives a crash once this returns."""
        write_whole(self.path / "cluster.json", layout.to_json())

    def pid_file(self, name: str) -> Path:
        return self.path / "run" / f"{name}.pid"

    def log_file(self, name: str) -> Path:
        return self.path / "log" / f"{name}.log"


def write_whole(file: Path, text: str) -> None:
    """Replace `file` so that a reader, and a machine that loses power, see the old text or the new."""
    temporary = file.with_name(file.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock(path: Path, lock_fd: int, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = os.pread(lock_fd, 32, 0).decode("ascii", "replace").strip()
        if _runs(holder) or time.monotonic() >= end:
            who = f"process {holder}" if _runs(holder) else "processes that an earlier cluster left"
            raise StartError(f"--data {path}: the directory is in use by {who}; stop it or choose another")
        time.sleep(0.05)


def _runs(pid: str) -> bool:
    if not pid.isdigit() or len(pid) > 9:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
