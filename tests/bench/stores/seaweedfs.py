"""SeaweedFS: a master, three volume servers and a filer, two copies of everything.

As its wiki advises for a small cluster: single master without peers, replication 001 (one more copy in
the same rack), the default in-memory index and the filer's embedded LevelDB. Measured with and
without `?fsync=true`, which the filer's API offers.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from tests.bench import load, machine
from tests.bench.stores.server import (
    HOST,
    Line,
    Program,
    Server,
    connects,
    free_ports,
    version_of,
    wait_until,
)

VOLUME_SERVERS = 3
PLAIN = Line(
    "seaweedfs",
    "SeaweedFS",
    "two copies in the page caches of two volume servers and an entry in the filer's LevelDB: nothing synced",
    "CRC-32C of each blob, on the volume server",
    "/{prefix}/{n}",
)
SYNCED = dataclasses.replace(
    PLAIN,
    key="seaweedfs-fsync",
    title="SeaweedFS, ?fsync=true",
    promise="two copies on two volume servers, both volume files synced; their indices and the filer's entry not",
    put_suffix="?fsync=true",
    measures=frozenset({"PUT"}),
)


class SeaweedFS(Server):
    """A SeaweedFS cluster in `directory`, run by the program `weed`."""

    name = "seaweedfs"
    lines = (PLAIN, SYNCED)

    def __init__(self, directory: Path, weed: Path) -> None:
        self._directory = directory
        self._weed = str(weed)
        self._programs: list[Program] = []
        self._commands: list[list[str]] = []
        self.port = 0

    def start(self) -> None:
        ports = iter(free_ports(2 * (VOLUME_SERVERS + 2)))
        master, master_grpc = next(ports), next(ports)
        address = f"{HOST}:{master}.{master_grpc}"
        for name in ("master", "filer", *(f"volume{number}" for number in range(VOLUME_SERVERS))):
            (self._directory / name).mkdir(parents=True)
        self._run("master", ["master", f"-port={master}", f"-port.grpc={master_grpc}", "-peers=none",
                             f"-mdir={self._directory / 'master'}", "-defaultReplication=001", "-telemetry=false"])  # fmt: skip
        wait_until("weed master", lambda: connects(master), self._programs)
        for number in range(VOLUME_SERVERS):
            self._run("volume", ["volume", f"-port={next(ports)}", f"-port.grpc={next(ports)}", f"-master={address}",
                                 f"-dir={self._directory / f'volume{number}'}", "-max=100", "-preStopSeconds=0"])  # fmt: skip
        wait_until("the volume servers", lambda: self._volume_servers(master) == VOLUME_SERVERS, self._programs)
        self.port = next(ports)
        self._run("filer", ["filer", f"-port={self.port}", f"-port.grpc={next(ports)}", f"-master={address}",
                            f"-defaultStoreDir={self._directory / 'filer'}",
                            f"-localSocket={self._directory / 'filer.sock'}"])  # fmt: skip
        wait_until("weed filer", self._stores, self._programs)

    def _run(self, role: str, arguments: list[str]) -> None:
        command = [self._weed, "-logtostderr=true", *arguments, f"-ip={HOST}"]
        self._commands.append(command)
        self._programs.append(Program(command, self._directory / f"{role}.log", cwd=self._directory))

    @staticmethod
    def _volume_servers(master: int) -> int:
        status: Any = load.call_json(master, "GET", "/dir/status")
        centers = status["Topology"].get("DataCenters") or []
        return sum(len(rack.get("DataNodes") or []) for center in centers for rack in center.get("Racks") or [])

    def _stores(self) -> bool:
        """Whether a file can be stored: the filer learns of the volume servers a moment after it listens."""
        try:
            load.call_json(self.port, "PUT", "/first", {})
        except (load.LoadFailed, ValueError):
            return False
        return True

    def stop(self) -> None:
        for program in reversed(self._programs):
            program.stop()

    def roots(self) -> list[int]:
        return [program.pid for program in self._programs]

    def role(self, process: machine.Process) -> str:
        return next((role for role in ("master", "volume", "filer") if f" {role} -port" in process.command), "other")

    @property
    def settings(self) -> dict[str, object]:
        return {"version": version_of([self._weed, "version"]), "commands": [" ".join(c) for c in self._commands]}
