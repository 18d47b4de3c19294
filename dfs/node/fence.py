"""Fences: work under a lease that somebody else has taken since is refused.

Per lease name the highest (generation, number) that a call carried is remembered, durably, in the file
`fences.json` of the data directory. What is at stake is double work only: correctness rests on conditional
writes of metadata. So a disk that cannot keep a new fence (full, say) refuses nothing: the fence holds in
memory, and keeping it is tried again with every call that carries it; and a file that cannot be read
counts for nothing.
"""

from __future__ import annotations

import json
import os
import re
import threading
import zlib

from dfs import logs
from dfs.errors import BadRequest, Fenced
from dfs.node import parameters
from dfs.store.disk import Disk, opened, read_fully, write_small
from dfs.wire.message import Headers

FENCE_HEADER = "X-Dfs-Fence"
FENCES_FILE = "fences.json"
MOST_NAMES = 64
_MOST_BYTES = 64 * 1024
_VALUE = re.compile(r"([a-z][a-z0-9.-]{0,62}) ([0-9]{1,18}) ([0-9]{1,18})\Z")

Height = tuple[int, int]


def _crc(leases: object) -> str:
    """So that a flipped bit makes no number that no leader ever reaches."""
    return f"{zlib.crc32(json.dumps(leases, sort_keys=True).encode()):08x}"


class Fences:
    """The highest fence of each lease, for the node whose data directory this is."""

    def __init__(self, disk: Disk, directory: str) -> None:
        self._disk = disk
        self._directory = directory
        self._lock = threading.Lock()
        self._highest = self._load()
        self._kept = dict(self._highest)
        """What the file says."""

    def check(self, headers: Headers) -> None:
        """Return when the call may be carried out: it names no fence, or one not lower than the highest
        seen of its name. Raises Fenced, and BadRequest for a header that is none."""
        text = parameters.single_header(headers, FENCE_HEADER)
        if text is None:
            return
        match = _VALUE.match(text)
        if not match:
            raise BadRequest(f"{FENCE_HEADER} must be NAME GENERATION NUMBER, not {text[:80]!r}")
        name, given = match[1], (int(match[2]), int(match[3]))
        with self._lock:
            highest = self._highest.get(name)
            if highest is not None and given < highest:
                raise Fenced(
                    f"the lease {name} is with somebody else since: generation and number are {highest[0]} {highest[1]} "
                    f"by now, this call has {given[0]} {given[1]}"
                )
            if highest is None and len(self._highest) >= MOST_NAMES:
                raise BadRequest(f"{FENCE_HEADER} names more than {MOST_NAMES} leases")
            self._highest[name] = given
            if self._kept.get(name) != given:
                self._keep()

    def _keep(self) -> None:
        said = {"leases": {name: list(height) for name, height in self._highest.items()}}
        data = json.dumps(said | {"crc": _crc(said["leases"])}, indent=1, sort_keys=True)
        try:
            write_small(self._disk, self._directory, FENCES_FILE, data.encode() + b"\n")
        except OSError as error:
            logs.warning("fence.not_kept", error=error, consequence="it holds until this process ends")
        else:
            self._kept = dict(self._highest)

    def _load(self) -> dict[str, Height]:
        path = os.path.join(self._directory, FENCES_FILE)
        try:
            with opened(self._disk, path) as file:
                found = json.loads(read_fully(file, _MOST_BYTES, 0))
            leases = found["leases"]
            if found["crc"] != _crc(leases):
                raise ValueError("its checksum is wrong")
            return {str(name): (int(generation), int(number)) for name, (generation, number) in leases.items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logs.warning("fence.unreadable", path=path, error=error, consequence="every fence is taken for new")
            return {}
