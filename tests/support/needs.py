"""Skips for what a machine may lack, each with the command that would make the test run."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile

import pytest


def program(name: str, command: str) -> str:
    """The path of a program; skips the test where it is missing, naming `command` that installs it."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is missing; to run: {command}")
    return found


def curl() -> str:
    """The path of curl."""
    return program("curl", "make deps")


def linux() -> None:
    """Skips the test of what only Linux has: its `/proc`, `prlimit`, `O_DIRECT`."""
    if sys.platform != "linux":
        pytest.skip("needs Linux; to run: make test on Linux")


def ipv6() -> None:
    """Skips the test where nothing can listen on ::1."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("needs an IPv6 loopback; to run: make test where ::1 is an address")


def many_loopback_addresses() -> None:
    """Skips the test where only 127.0.0.1 is an address of this machine (macOS)."""
    if sys.platform != "linux":
        pytest.skip("needs a loopback with more than one address; to run: make test on Linux")


def mounts() -> None:
    """Skips the test where no file system can be mounted."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("needs to mount a small file system; to run: make test on Linux, as root")
    with tempfile.TemporaryDirectory() as directory:
        tried = ["unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "dfs-test", directory]
        if shutil.which("unshare") is None or subprocess.run(tried, capture_output=True).returncode:
            pytest.skip("needs to mount a small file system; to run: make test where mount is allowed")
