"""OpenStack Swift: proxy, account, container and object servers, three devices, two replicas.

As its deployment guide and sample files advise: workers as many as cores, memcached beside the proxy,
rings by swift-ring-builder. The proxy's pipeline is the sample's without what a user may leave out
(authentication, quotas, rate limits, large-object manifests, access log): that is in Swift's favour.
"""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
from pathlib import Path

from tests.bench import load, machine
from tests.bench.stores.server import (
    HOST,
    Line,
    NotStarted,
    Program,
    Server,
    connects,
    free_ports,
    version_of,
    wait_until,
)

DEVICES = 3
REPLICAS = 2
PART_POWER = 8
ROLES = ("account", "container", "object")
TARGET = "/v1/AUTH_bench/{prefix}/{n}"
INSTALL_MEMCACHED = "apt-get install memcached (Debian, Ubuntu; as root)"

HASH = """\
[swift-hash]
swift_hash_path_prefix = bench
swift_hash_path_suffix = bench

[storage-policy:0]
name = two
default = yes
"""

PROXY = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {directory}
user = {user}
workers = auto
log_level = ERROR

[pipeline:main]
pipeline = catch_errors gatekeeper healthcheck {cache}listing_formats proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:gatekeeper]
use = egg:swift#gatekeeper

[filter:healthcheck]
use = egg:swift#healthcheck

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:cache]
use = egg:swift#memcache
memcache_servers = {host}:{memcached}
"""

STORAGE = """\
[DEFAULT]
bind_ip = {host}
bind_port = {port}
swift_dir = {directory}
devices = {directory}/devices
mount_check = false
user = {user}
workers = auto
log_level = ERROR

[pipeline:main]
pipeline = healthcheck {role}-server

[app:{role}-server]
use = egg:swift#{role}

[filter:healthcheck]
use = egg:swift#healthcheck
"""


class Swift(Server):
    """A Swift cluster in `directory`, by the programs in `binaries` (a virtual environment's bin)."""

    name = "swift"

    def __init__(self, directory: Path, binaries: Path) -> None:
        self._directory = directory
        self._binaries = binaries
        self._programs: list[Program] = []
        self._memcached = shutil.which("memcached")
        self.port = 0
        self.lines = (
            Line(
                "swift",
                "OpenStack Swift",
                "two object servers were sent the bytes; each that answered had synced the file and its directory "
                "(one answer is a quorum of two, the other is waited for half a second)",
                "size and timestamps; MD5 when the whole object is read",
                TARGET,
            ),
        )

    def start(self) -> None:
        self._directory.mkdir(parents=True)
        ports = dict(zip((*ROLES, "proxy", "memcached"), free_ports(len(ROLES) + 2), strict=True))
        (self._directory / "swift.conf").write_text(HASH)
        for number in range(DEVICES):
            (self._directory / "devices" / f"d{number}").mkdir(parents=True)
        self._check_attributes()
        for role in ROLES:
            self._build_ring(role, ports[role])
            self._write(role, STORAGE.format(role=role, port=ports[role], **self._common()))
        cache = "cache " if self._memcached else ""
        self._write("proxy", PROXY.format(port=ports["proxy"], memcached=ports["memcached"], cache=cache, **self._common()))
        if self._memcached:
            user = ["-u", "root"] if os.geteuid() == 0 else []
            self._run([self._memcached, "-l", HOST, "-p", str(ports["memcached"]), "-U", "0", *user], "memcached")
        for role in (*ROLES, "proxy"):
            program = str(self._binaries / f"swift-{role}-server")
            self._run([program, str(self._directory / f"{role}-server.conf")], role)
        for role, port in ports.items():
            if role != "memcached" or self._memcached:
                wait_until(f"Swift's {role}", lambda port=port: connects(port), self._programs)  # type: ignore[misc]
        self.port = ports["proxy"]
        wait_until("Swift", self._serves, self._programs)

    def prepare(self, prefix: str) -> None:
        """Make the container that objects of `prefix` go to."""
        load.call_json(self.port, "PUT", f"/v1/AUTH_bench/{prefix}")

    @property
    def has_cache(self) -> bool:
        """Whether memcached runs beside the proxy."""
        return self._memcached is not None

    def _common(self) -> dict[str, str]:
        return {"host": HOST, "directory": str(self._directory), "user": pwd.getpwuid(os.geteuid()).pw_name}

    def _write(self, role: str, text: str) -> None:
        (self._directory / f"{role}-server.conf").write_text(text)

    def _check_attributes(self) -> None:
        """Swift keeps its metadata in extended attributes. Raises NotStarted where the disk has none."""
        try:
            os.setxattr(self._directory / "devices", "user.bench", b"1")
        except (AttributeError, OSError) as error:
            raise NotStarted(f"the disk of {self._directory} has no extended attributes: {error}") from None

    def _build_ring(self, role: str, port: int) -> None:
        builder = str(self._binaries / "swift-ring-builder")
        file = f"{role}.builder"
        steps = [["create", str(PART_POWER), str(REPLICAS), "1"]]
        steps += [["add", f"r1z{number}-{HOST}:{port}/d{number}", "1"] for number in range(DEVICES)]
        for step in [*steps, ["rebalance"]]:
            done = subprocess.run([builder, file, *step], cwd=self._directory, capture_output=True, text=True)
            if done.returncode > 1:  # 1 is a warning
                raise NotStarted(f"swift-ring-builder {file} {step[0]}: {done.stdout}{done.stderr}")

    def _run(self, command: list[str], role: str) -> None:
        self._programs.append(Program(command, self._directory / f"{role}.log", cwd=self._directory))

    def _serves(self) -> bool:
        try:
            self.prepare("ready")
        except load.LoadFailed:
            return False
        return True

    def stop(self) -> None:
        for program in reversed(self._programs):
            program.stop()

    def roots(self) -> list[int]:
        return [program.pid for program in self._programs]

    def role(self, process: machine.Process) -> str:
        names = ("proxy", *ROLES)
        return next((role for role in names if f"swift-{role}-server" in process.command), "memcached")

    @property
    def settings(self) -> dict[str, object]:
        names = ("swift.conf", *(f"{role}-server.conf" for role in ("proxy", *ROLES)))
        python = str(self._binaries / "python")
        asked = "import importlib.metadata as m; print(m.version('swift'))"
        found: dict[str, object] = {
            "version": version_of([python, "-c", asked]),
            "memcached": version_of([self._memcached, "-V"]) if self._memcached else f"none; {INSTALL_MEMCACHED}",
            "rings": f"{DEVICES} devices, {REPLICAS} replicas, 2**{PART_POWER} partitions",
        }
        return found | {name: (self._directory / name).read_text() for name in names}
