"""Settings: a closed, typed list per role, read once at start.

This module is the only reader of the environment. A setting comes from the environment, else from
the `--config` file (KEY=value lines), else its default. A `DFS_*` name that no role knows is an
error (a typo is not a default); another role's name is ignored. Every error names the variable,
its value and what is allowed.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from dfs.errors import SettingsError
from dfs.notation import (
    AUTO,
    GIB,
    KIB,
    MIB,
    Parser,
    choices,
    integers,
    integers_or_auto,
    parse_address,
    parse_metadata_url,
    parse_node_id,
    parse_path,
    parse_plain_http_url,
    parse_public_url,
    parse_switch,
    sizes,
    texts,
    times,
)


def setting(env: str, parse: Parser, default: Any, help: str) -> Any:
    """A dataclass field for the environment variable `env`. `default` None means 'not set'."""
    return dataclasses.field(default=default, metadata={"env": env, "parse": parse, "help": help})


MOST_AUTO_WORKERS = 4

_API: Any = setting(
    "DFS_API", str, "http://localhost:8080", "URL of the API server; several, comma-separated, are tried in turn"
)
_TABLE = texts(r"[A-Za-z0-9_.-]{3,255}", "a DynamoDB table name: 3 to 255 of A-Z a-z 0-9 _ . -")


@dataclass(frozen=True, kw_only=True)
class CommonSettings:
    """Settings of every server and of the admin commands."""

    role: ClassVar[str] = "admin"

    aws_region: str = setting(
        "AWS_REGION", texts(r"[a-z0-9-]{1,40}", "an AWS region such as us-east-1"), "us-east-1", "AWS region"
    )
    chunk_metadata_table: str = setting(
        "CHUNK_METADATA_TABLE", _TABLE, "dfs-chunk-metadata", "DynamoDB table of file records and replica rows"
    )
    node_registry_table: str = setting(
        "NODE_REGISTRY_TABLE", _TABLE, "dfs-node-registry", "DynamoDB table of nodes, leases and the cluster's identity"
    )
    paths_table: str = setting("DFS_PATHS_TABLE", _TABLE, "dfs-paths", "DynamoDB table of path heads")
    metadata_url: str = setting(
        "DFS_METADATA_URL", parse_metadata_url, "dynamodb://", "where metadata lives: dynamodb:// or sqlite:///PATH"
    )
    log_format: str = setting("DFS_LOG_FORMAT", choices("text", "json"), "text", "log lines as text or JSON")
    log_level: str = setting(
        "DFS_LOG_LEVEL", choices("debug", "info", "warning", "error"), "info", "least severe level that is logged"
    )


@dataclass(frozen=True, kw_only=True)
class ServerSettings(CommonSettings):
    """Settings of both kinds of server."""

    heartbeat_interval: float = setting(
        "NODE_HEARTBEAT_INTERVAL", times(0.1, 3600), 30.0, "time between a node's heartbeats"
    )
    heartbeat_timeout: float = setting(
        "NODE_HEARTBEAT_TIMEOUT", times(0.3, 86400), 60.0, "a node without a new heartbeat for this long is dead"
    )
    max_chunk_size: int = setting("DFS_MAX_CHUNK_SIZE", sizes(1, 64 * MIB), 16 * MIB, "largest chunk taken")
    buffer_bytes: int = setting(
        "DFS_BUFFER_BYTES", sizes(MIB, 64 * GIB), 96 * MIB, "memory for chunks on their way through; uploads wait for it"
    )
    max_connections: int = setting(
        "DFS_MAX_CONNECTIONS", integers(1, 1_000_000), 8192, "connections that a process holds; above it, it stops accepting"
    )
    max_workers: int = setting("DFS_MAX_WORKERS", integers(2, 1024), 256, "requests that a process handles at once")
    drain_timeout: float = setting(
        "DFS_DRAIN_TIMEOUT", times(0, 3600), 10.0, "on SIGTERM, time that running requests get to finish"
    )

    def check(self) -> None:
        """Raise SettingsError when settings contradict each other."""
        if self.heartbeat_timeout < 2 * self.heartbeat_interval:
            raise SettingsError(
                f"NODE_HEARTBEAT_TIMEOUT={self.heartbeat_timeout:g} must be at least twice "
                f"NODE_HEARTBEAT_INTERVAL={self.heartbeat_interval:g}, so that one late heartbeat kills no node"
            )
        if self.buffer_bytes < 2 * self.max_chunk_size:
            raise SettingsError(
                f"DFS_BUFFER_BYTES={self.buffer_bytes} must hold at least two chunks of "
                f"DFS_MAX_CHUNK_SIZE={self.max_chunk_size}"
            )


@dataclass(frozen=True, kw_only=True)
class ApiSettings(ServerSettings):
    """Settings of an API server."""

    role: ClassVar[str] = "api"

    replication_factor: int = setting("REPLICATION_FACTOR", integers(1, 16), 2, "replicas of every chunk")
    replication_strategy: str = setting(
        "REPLICATION_STRATEGY",
        choices("sync", "quorum", "async"),
        "sync",
        "a write is acknowledged when all (sync), a majority (quorum) or one (async) of its replicas are durable",
    )
    replication_timeout: float = setting(
        "REPLICATION_TIMEOUT", times(0.3, 3600), 30.0, "time for one chunk to reach its nodes, substitutions included"
    )
    node_timeout: float = setting(
        "DFS_NODE_TIMEOUT", times(0.1, 600), 5.0, "a node without progress for this long is replaced by the next"
    )
    api_bind: str = setting("DFS_API_BIND", parse_address, "127.0.0.1", "address the API listens on")
    api_port: int = setting("DFS_API_PORT", integers(0, 65535), 8080, "port the API listens on; 0: any free one")
    api_workers: int | str = setting(
        "DFS_API_WORKERS",
        integers_or_auto(1, 64),
        AUTO,
        "processes that serve the API on one socket; auto: one a usable CPU, at most 4 and as DFS_BUFFER_BYTES allows",
    )
    public_url: str | None = setting(
        "DFS_PUBLIC_URL", parse_public_url, None, "URL base given to clients; else the request's Host"
    )
    cache_bytes: int = setting(
        "DFS_CACHE_BYTES", sizes(0, 64 * GIB), 32 * MIB, "memory for small chunks (up to 64 KiB) read or written lately; 0: none"
    )
    chunk_size: int = setting("DFS_CHUNK_SIZE", sizes(1, 64 * MIB), 4 * MIB, "chunk size of files that name none")
    max_chunks_per_file: int = setting(
        "DFS_MAX_CHUNKS_PER_FILE", integers(1, 10_000_000), 131072, "most chunks of one file"
    )
    upload_ttl: float = setting(
        "DFS_UPLOAD_TTL", times(1, 365 * 86400), 86400.0, "an upload untouched for this long is abandoned and removed"
    )
    delete_grace: float = setting(
        "DFS_DELETE_GRACE", times(0, 86400), 900.0, "time between marking a file as deleting and erasing its bytes"
    )
    erase_interval: float = setting("DFS_ERASE_INTERVAL", times(0.05, 86400), 60.0, "time between runs of the eraser")
    trash_retention: float = setting(
        "DFS_TRASH_RETENTION", times(0, 3650 * 86400), 7 * 86400.0, "time that deleted files can be restored"
    )
    replaced_retention: float = setting(
        "DFS_REPLACED_RETENTION", times(0, 3650 * 86400), 3600.0, "time that overwritten content can be restored"
    )
    repair_delay: float = setting(
        "DFS_REPAIR_DELAY", times(0, 7 * 86400), 600.0, "a node absent for this long is replaced by copies on others"
    )
    repair_mbps: int = setting(
        "DFS_REPAIR_MBPS", integers(1, 100_000), 50, "megabytes a second that repair, drain and rebalancing copy, together"
    )
    repair_jobs: int = setting("DFS_REPAIR_JOBS", integers(1, 64), 4, "chunks that repair works on at once")
    repair_interval: float = setting(
        "DFS_REPAIR_INTERVAL", times(0.05, 3600), 5.0, "time between looks for something to repair"
    )

    def check(self) -> None:
        super().check()
        if self.node_timeout > self.replication_timeout / 3:
            raise SettingsError(
                f"DFS_NODE_TIMEOUT={self.node_timeout:g} must be at most a third of "
                f"REPLICATION_TIMEOUT={self.replication_timeout:g}, so that two failed nodes can be replaced in time"
            )
        if self.chunk_size > self.max_chunk_size:
            raise SettingsError(
                f"DFS_CHUNK_SIZE={self.chunk_size} must be at most DFS_MAX_CHUNK_SIZE={self.max_chunk_size}"
            )
        if self.buffer_bytes // self.workers < 2 * self.max_chunk_size:
            raise SettingsError(
                f"DFS_BUFFER_BYTES={self.buffer_bytes} is divided among DFS_API_WORKERS={self.workers} and must hold "
                f"two chunks of DFS_MAX_CHUNK_SIZE={self.max_chunk_size} for each"
            )

    @property
    def workers(self) -> int:
        """How many processes serve the API."""
        if self.api_workers != AUTO:
            return int(self.api_workers)
        affinity = getattr(os, "sched_getaffinity", None)
        # Without it this is no Linux; on macOS a fork is at the mercy of the system's libraries.
        cpus = len(affinity(0)) if affinity is not None else 1
        return max(1, min(cpus, MOST_AUTO_WORKERS, self.buffer_bytes // (2 * self.max_chunk_size)))

    def of_one_worker(self) -> Self:
        """The settings of one of the `workers`: memory is divided, all other limits are a process's own."""
        return dataclasses.replace(
            self, buffer_bytes=self.buffer_bytes // self.workers, cache_bytes=self.cache_bytes // self.workers
        )


@dataclass(frozen=True, kw_only=True)
class NodeSettings(ServerSettings):
    """Settings of a storage node."""

    role: ClassVar[str] = "node"

    node_id: str | None = setting(
        "NODE_ID", parse_node_id, None, "name of the node; else node.json, else the EC2 instance id, else node-HOSTNAME"
    )
    node_port: int | None = setting(
        "NODE_PORT", integers(0, 65535), None, "port; else the first free of 8081-8090, then 8080; 0: any free one"
    )
    node_private_ip: str | None = setting(
        "NODE_PRIVATE_IP", parse_address, None, "address registered for others; else from EC2 metadata, else 127.0.0.1"
    )
    zone: str | None = setting(
        "DFS_ZONE", texts(r"[A-Za-z0-9._-]{1,64}", "a zone name such as us-east-1a"), None, "availability zone"
    )
    node_bind: str | None = setting("DFS_NODE_BIND", parse_address, None, "address listened on; else the registered one")
    data_dir: Path | None = setting("DFS_DATA_DIR", parse_path, None, "data directory; else ./dfs-data/NODE_ID")
    volume_size: int = setting("DFS_VOLUME_SIZE", sizes(64 * KIB, 4 * GIB), 256 * MIB, "size at which a volume file is full")
    direct_writes: str = setting(
        "DFS_DIRECT_WRITES",
        choices("yes", "no"),
        "yes",
        "yes or no: large chunks are written past the page cache where the file system can",
    )
    scrub_mbps: int = setting(
        "DFS_SCRUB_MBPS", integers(1, 10_000), 20, "most megabytes a second that the scrubber reads"
    )
    scrub_period: float = setting(
        "DFS_SCRUB_PERIOD", times(1, 365 * 86400), 14 * 86400.0, "time in which the scrubber reads everything once"
    )
    imds_disabled: bool = setting(
        "AWS_EC2_METADATA_DISABLED", parse_switch, False, "true: never ask the EC2 metadata service"
    )
    imds_endpoint: str = setting(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT",
        parse_plain_http_url,
        "http://169.254.169.254",
        "where the EC2 metadata service answers",
    )

    def check(self) -> None:
        super().check()
        if self.volume_size < 2 * self.max_chunk_size:
            raise SettingsError(
                f"DFS_VOLUME_SIZE={self.volume_size} must be at least twice DFS_MAX_CHUNK_SIZE={self.max_chunk_size}"
            )


@dataclass(frozen=True, kw_only=True)
class AdminSettings(CommonSettings):
    """Settings of the operators' commands."""

    api: str = _API


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """Settings of the client."""

    role: ClassVar[str] = "client"

    api: str = _API
    state_home: Path | None = setting(
        "XDG_STATE_HOME", Path, None, "where `put --resume` remembers uploads; else HOME/.local/state"
    )
    home: Path | None = setting("HOME", Path, None, "the user's home directory")


ROLES: tuple[type[Any], ...] = (CommonSettings, ApiSettings, NodeSettings, ClientSettings, AdminSettings)

S = TypeVar("S")


def _known() -> set[str]:
    return {field.metadata["env"] for role in ROLES for field in dataclasses.fields(role)}


def read_config(path: Path) -> dict[str, str]:
    """KEY=value lines of a `--config` file; blank lines and lines beginning with # are skipped."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {path}: cannot be read: {error}") from None
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        name, equals, value = stripped.partition("=")
        if not equals or not re.fullmatch(r"[A-Z][A-Z0-9_]*", name.strip()):
            raise SettingsError(f"--config {path}, line {number}: expected KEY=value")
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        values[name.strip()] = value
    unknown = sorted(set(values) - _known())
    if unknown:
        raise SettingsError(f"--config {path}: {unknown[0]} is not a setting of any role")
    return values


def load(
    role: type[S], *, config: Path | None = None, environ: Mapping[str, str] | None = None, **given: Any
) -> S:
    """The settings of `role`; `given` (field=value, from the command line) beats everything.

    Empty values count as not set. Raises SettingsError.
    """
    environ = os.environ if environ is None else environ
    known = _known()
    for name in sorted(environ):
        if name.startswith("DFS_") and name not in known:
            raise SettingsError(f"{name} is not a setting of dfs (the README lists them all): misspelt?")
    values = (read_config(config) if config else {}) | {k: v for k, v in environ.items() if k in known and v}
    chosen: dict[str, Any] = {}
    for field in dataclasses.fields(role):  # type: ignore[arg-type]
        env, parse = field.metadata["env"], field.metadata["parse"]
        if field.name in given and given[field.name] is not None:
            chosen[field.name] = given[field.name]
        elif values.get(env):
            try:
                chosen[field.name] = parse(values[env])
            except ValueError as error:
                raise SettingsError(f"{env}={values[env]!r} is not allowed: it must be {error}") from None
    settings = role(**chosen)
    check = getattr(settings, "check", None)
    if check is not None:
        check()
    return settings


def child_environment(
    overrides: Mapping[str, str], *, defaults: Mapping[str, str], config: Path | None = None
) -> dict[str, str]:
    """The environment for a child process: this one's, with `overrides`, and with those of
    `defaults` that neither this environment nor the `config` file sets."""
    present = {name for name, value in os.environ.items() if value}
    if config is not None:
        present |= set(read_config(config))
    chosen = {name: value for name, value in defaults.items() if name not in present}
    return dict(os.environ) | chosen | dict(overrides)


def show(settings: object) -> str:
    """The effective values, one `NAME=value  # meaning` line each (`--show-settings`)."""
    lines = []
    for field in dataclasses.fields(settings):  # type: ignore[arg-type]
        value = getattr(settings, field.name)
        text = "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        lines.append(f"{field.metadata['env']}={text}  # {field.metadata['help']}")
    return "\n".join(lines)


def take_listen_fds(environ: MutableMapping[str, str] | None = None, pid: int | None = None) -> int:
    """How many listening sockets systemd passed to this very process (from descriptor 3 on).

    Forgets the variables, so that no child takes the sockets for its own. 0 when there are none or
    they are meant for another process. Raises SettingsError when LISTEN_FDS is not a number.
    """
    environ = os.environ if environ is None else environ
    names = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES")
    meant_for, count, _ = (environ.pop(name, "") for name in names)
    if meant_for != str(os.getpid() if pid is None else pid) or not count:
        return 0
    if not re.fullmatch(r"[0-9]{1,4}", count):
        raise SettingsError(f"LISTEN_FDS={count!r} is not allowed: it must be a whole number")
    return int(count)
