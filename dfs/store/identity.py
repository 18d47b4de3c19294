"""Which disk this is: `node.json`, and the lock that keeps a directory to one process."""

from __future__ import annotations

import fcntl
import json
import os
import uuid
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

from dfs import DISK_FORMAT
from dfs.errors import StartError
from dfs.model import is_node_id
from dfs.store.disk import Disk, OsDisk, write_small

IDENTITY_FILE = "node.json"
LOCK_FILE = "lock"


@dataclass(frozen=True, slots=True)
class DiskIdentity:
    """Whose disk this is. `disk_id` is made once, with the directory; `format` is docs/format.md's."""

    node_id: str
    disk_id: str
    cluster_id: str
    format: int


def _crc(identity: DiskIdentity) -> str:
    """What `node.json` says of itself; left out by whoever restores the file by hand."""
    return f"{zlib.crc32(json.dumps(asdict(identity), sort_keys=True).encode()):08x}"


class DirectoryLock:
    """Held by the one process that uses a data directory; released by `release` or by its end."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another process have the directory. Harmless when repeated."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def load_identity(directory: Path) -> DiskIdentity | None:
    """What `node.json` says; None when there is none.

    Raises StartError when the file is damaged or of a format that this release cannot read: then
    nothing is known of the disk, and nothing may be written to it.
    """
    path = directory / IDENTITY_FILE
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StartError(
            f"{path} cannot be read: {error.strerror}; check the disk and its permissions"
        ) from error
    try:
        fields = json.loads(data)
        identity = DiskIdentity(
            node_id=fields["node_id"],
            disk_id=str(uuid.UUID(fields["disk_id"])),
            cluster_id=fields["cluster_id"],
            format=fields["format"],
        )
        if not (is_node_id(identity.node_id) and isinstance(identity.cluster_id, str)):
            raise ValueError("it names no node or no cluster")
        if fields.get("crc", _crc(identity)) != _crc(identity):
            raise ValueError("its checksum is wrong")
        if type(identity.format) is not int or identity.format < 1:
            raise ValueError("its format is not a number")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StartError(
            f"{path} is damaged ({error}); restore it from a backup or from the header of a volume file "
            "(`python -m dfs.node check` prints it), or give the node an empty directory under a new NODE_ID"
        ) from error
    if identity.format > DISK_FORMAT:
        raise StartError(
            f"the disk in {directory} has format {identity.format} and this release reads up to {DISK_FORMAT}: "
            "start a newer release"
        )
    return identity


def create_identity(directory: Path, node_id: str, cluster_id: str, disk: Disk | None = None) -> DiskIdentity:
    """Make an empty directory the disk of `node_id`; durable when this returns.

    Raises StartError when the directory already has an identity, holds volume files of a lost one,
    or cannot be written.
    """
    disk = disk or OsDisk()
    if load_identity(directory) is not None:
        raise StartError(f"{directory} already is the disk of a node: start it under that node's NODE_ID")
    volumes = directory / "volumes"
    if volumes.is_dir() and any(volumes.iterdir()):
        raise StartError(
            f"{directory} holds volume files but no {IDENTITY_FILE}, so whose they are is not known: restore "
            f"{IDENTITY_FILE} (`python -m dfs.node check` prints what the volumes say), or choose an empty directory"
        )
    identity = DiskIdentity(
        node_id=node_id, disk_id=str(uuid.uuid4()), cluster_id=cluster_id, format=DISK_FORMAT
    )
    text = json.dumps(asdict(identity) | {"crc": _crc(identity)}, indent=2) + "\n"
    try:
        write_small(disk, str(directory), IDENTITY_FILE, text.encode())
    except OSError as error:
        raise StartError(
            f"{directory} cannot be written: {error.strerror}; check the disk and its permissions"
        ) from error
    return identity


def lock_directory(directory: Path) -> DirectoryLock:
    """Take the directory for this process. Raises StartError when another process has it."""
    path = directory / LOCK_FILE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StartError(
            f"{path} cannot be opened: {error.strerror}; check the disk and its permissions"
        ) from error
    return _lock(directory, descriptor)


def lock_for_reading(directory: Path) -> DirectoryLock:
    """Keep a directory from being used while it is read, writing nothing to it.

    Raises StartError when a process has it."""
    try:
        descriptor = os.open(directory / LOCK_FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return DirectoryLock(None)  # no store ever ran here
    except OSError as error:
        raise StartError(f"{directory} cannot be read: {error.strerror}; check its permissions") from error
    return _lock(directory, descriptor)


def _lock(directory: Path, descriptor: int) -> DirectoryLock:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise StartError(
            f"{directory} is in use by another process: stop that one first, or choose another directory"
        ) from error
    return DirectoryLock(descriptor)
