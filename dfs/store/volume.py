"""Volume files: their names, their header record, and the open files that readers share."""

from __future__ import annotations

import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from dfs.store.disk import Disk, DiskFile, close_quietly
from dfs.store.identity import DiskIdentity
from dfs.store.record import NO_FILE, Kind, Record, encode_header

VOLUMES = "volumes"
SET_ASIDE = "set-aside"
TEMPORARY = ".tmp"
_NAME = re.compile(r"([0-9]{10})\.vol\Z")
_EMPTY_SHA256 = bytes.fromhex("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")


def volume_name(number: int) -> str:
    """File name of volume `number`; names sort like numbers."""
    return f"{number:010d}.vol"


def volume_number(name: str) -> int | None:
    """The number of the volume file `name`; None when it is no volume's name."""
    match = _NAME.match(name)
    return int(match[1]) if match else None


@dataclass(slots=True)
class Volume:
    """What is known of one volume file.

    Bytes from `end` on are not part of it. `compacted`: made by compaction, complete from its first
    moment; the others were appended to.
    """

    number: int
    volume_id: bytes
    end: int
    compacted: bool = False


@dataclass(frozen=True, slots=True)
class Ending:
    """Where an appended volume ends, for certain: written into the header of the next one."""

    number: int
    volume_id: bytes
    length: int


def make_header(
    identity: DiskIdentity,
    number: int,
    volume_id: bytes,
    sequence: int,
    created: int,
    previous: Ending | None,
    compacted: bool,
) -> bytes:
    """The VOLUME record that begins a volume file."""
    attributes: dict[str, object] = {
        "format": identity.format,
        "node_id": identity.node_id,
        "disk_id": identity.disk_id,
        "cluster_id": identity.cluster_id,
        "volume": number,
        "origin": "compaction" if compacted else "append",
    }
    if previous is not None:
        attributes["previous"] = {
            "volume": previous.number, "id": previous.volume_id.hex(), "length": previous.length,
        }  # fmt: skip
    return encode_mark(Kind.VOLUME, volume_id, 0, sequence, 0, created, json.dumps(attributes).encode())


def encode_mark(
    kind: Kind,
    volume_id: bytes,
    offset: int,
    sequence: int,
    durable_upto: int,
    created: int,
    attributes: bytes = b"{}",
) -> bytes:
    """A record about no file and without a body: MARK or VOLUME."""
    return encode_header(
        kind,
        volume_id=volume_id,
        offset=offset,
        sequence=sequence,
        durable_upto=durable_upto,
        created=created,
        file_id=NO_FILE,
        chunk_index=0,
        length=0,
        sha256=_EMPTY_SHA256,
        attributes=attributes,
        crcs=(),
    )


def previous_of(header: Record) -> Ending | None:
    """What a VOLUME record says of the appended volume before it."""
    previous = header.attributes.get("previous")
    if not isinstance(previous, dict):
        return None
    return Ending(previous["volume"], bytes.fromhex(previous["id"]), previous["length"])


def is_compacted(header: Record | None) -> bool:
    """Whether a VOLUME record begins a volume that compaction made, complete from the first moment."""
    return header is not None and header.attributes.get("origin") == "compaction"


class _Shared:
    __slots__ = ("doomed", "file", "users")

    def __init__(self, file: DiskFile) -> None:
        self.file = file
        self.users = 0
        self.doomed = False


class VolumeFiles:
    """Volume files open for reading, shared by their readers; at most `limit` stay open unused.

    A file that was unlinked stays readable for those who hold it.
    """

    def __init__(self, disk: Disk, directory: str, limit: int = 64) -> None:
        self._disk = disk
        self._directory = directory
        self._limit = limit
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Shared] = OrderedDict()

    def path(self, number: int) -> str:
        """Where volume `number` lies."""
        return os.path.join(self._directory, volume_name(number))

    def acquire(self, number: int) -> _Shared:
        """The file of volume `number`, to be given back with `release`. Raises OSError;
        FileNotFoundError when compaction has removed the volume."""
        with self._lock:
            shared = self._open.get(number)
            if shared is not None:
                shared.users += 1
                self._open.move_to_end(number)
                return shared
        file = self._disk.open(self.path(number))
        with self._lock:
            shared = self._open.get(number)
            if shared is None:
                shared = self._open[number] = _Shared(file)
                spare: DiskFile | None = None
            else:
                spare = file
            shared.users += 1
            idle = self._take_idle()
        for unused in [spare, *idle]:
            if unused is not None:
                close_quietly(unused, "a volume")
        return shared

    def _take_idle(self) -> list[DiskFile]:
        taken = []
        for number in list(self._open):
            if len(self._open) <= self._limit:
                break
            if self._open[number].users == 0:
                taken.append(self._open.pop(number).file)
        return taken

    def release(self, shared: _Shared) -> None:
        """Give back what `acquire` gave."""
        with self._lock:
            shared.users -= 1
            close = shared.doomed and shared.users == 0
        if close:
            close_quietly(shared.file, "a volume")

    @contextmanager
    def reading(self, number: int) -> Iterator[DiskFile]:
        """The file of volume `number` for the length of a block. Raises OSError."""
        shared = self.acquire(number)
        try:
            yield shared.file
        finally:
            self.release(shared)

    def forget(self, number: int) -> None:
        """Volume `number` is gone: its file closes with its last reader."""
        with self._lock:
            shared = self._open.pop(number, None)
            if shared is None:
                return
            shared.doomed = True
            close = shared.users == 0
        if close:
            close_quietly(shared.file, "a volume")

    def close(self) -> None:
        """Forget every file."""
        for number in list(self._open):
            self.forget(number)
