"""Skips for what a machine may lack, each with the command that would make the test run."""

from __future__ import annotations

import shutil
import sys

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
    """Skips the test where there is no Linux `/proc`."""
    if sys.platform != "linux":
        pytest.skip("needs the /proc of Linux; to run: make test on Linux")
