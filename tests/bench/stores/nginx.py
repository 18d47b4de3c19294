"""nginx with its DAV module: files on the same disk, by a program that does nothing else. A yardstick."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.bench.stores.server import (
    Line,
    Missing,
    Program,
    Server,
    connects,
    free_ports,
    version_of,
    wait_until,
)

INSTALL = "apt-get install nginx-extras (Debian, Ubuntu; as root)"
PLACES = ("/usr/sbin/nginx", "/usr/local/sbin/nginx", "/opt/homebrew/bin/nginx")

# What Debian's own file sets (sendfile, tcp_nopush) is kept; keep-alive never ends a connection; an
# upload is written beside its place, so that finishing it is a rename.
CONFIGURATION = """\
{user}daemon off;
worker_processes auto;
pid {directory}/nginx.pid;
error_log {directory}/error.log warn;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    tcp_nodelay on;
    keepalive_timeout 3600;
    keepalive_requests 1000000000;
    client_max_body_size 0;
    default_type application/octet-stream;
    client_body_temp_path {directory}/incoming;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            root {directory}/files;
            dav_methods PUT DELETE;
            create_full_put_path on;
        }}
    }}
}}
"""


def find_nginx(path: str | None = None) -> str:
    """Where nginx is. Raises Missing when it is not there or was built without DAV."""
    found = shutil.which("nginx", path=path) or next((p for p in PLACES if path is None and Path(p).is_file()), None)
    if found is None:
        raise Missing(f"nginx is not installed here; {INSTALL} would bring it")
    built = subprocess.run([found, "-V"], capture_output=True, text=True)
    if "http_dav_module" not in built.stderr + built.stdout:
        raise Missing(f"{found} was built without its DAV module; {INSTALL} brings one that has it")
    return found


class Nginx(Server):
    """nginx with DAV in `directory`."""

    name = "nginx"
    lines = (
        Line(
            "nginx",
            "nginx (DAV)",
            "one copy in the page cache: nothing synced, no second copy, no checksum",
            "nothing",
            "/{prefix}/{n}",
        ),
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._program: Program | None = None
        self._binary = ""
        self.port = 0

    def start(self) -> None:
        self._binary = find_nginx()
        (self._directory / "files").mkdir(parents=True)
        self.port = free_ports(1)[0]
        (self._directory / "nginx.conf").write_text(self._configuration())
        command = [self._binary, "-p", str(self._directory), "-c", str(self._directory / "nginx.conf")]
        self._program = Program(command, self._directory / "said.log")
        wait_until("nginx", lambda: connects(self.port), [self._program])

    def _configuration(self) -> str:
        # As root its workers would be www-data, who may not enter the directory.
        user = "user root;\n" if os.geteuid() == 0 else ""
        return CONFIGURATION.format(user=user, directory=self._directory, port=self.port)

    def stop(self) -> None:
        if self._program is not None:
            self._program.stop()

    def forget(self, prefix: str) -> None:
        shutil.rmtree(self._directory / "files" / prefix)

    def roots(self) -> list[int]:
        return [self._program.pid] if self._program is not None else []

    @property
    def settings(self) -> dict[str, object]:
        return {"version": version_of([self._binary, "-v"]), "nginx.conf": self._configuration()}
