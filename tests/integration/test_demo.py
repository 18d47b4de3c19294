"""`python -m dfs demo`: the first thing anybody runs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cluster import ROOT, eventually


def demo(tmp_path: Path, *arguments: str) -> subprocess.Popen[str]:
    """Start the demo on a Python without any installed package, with `tmp_path` for temporary files."""
    return subprocess.Popen(
        [sys.executable, "-S", "-m", "dfs", "demo", *arguments],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def mine(tmp_path: Path) -> list[str]:
    """Command lines of processes that have to do with the demo in `tmp_path`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            environ, line = (process / "environ").read_bytes(), (process / "cmdline").read_bytes()
        except OSError:
            continue
        if f"TMPDIR={tmp_path}\0".encode() in environ and b"dfs" in line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


@pytest.mark.parametrize("given", [False, True], ids=["generated", "own file"])
def test_it_ends_well_and_leaves_nothing_behind(tmp_path: Path, given: bool) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    file = tmp_path / "mine.bin"
    file.write_bytes(b"my own bytes" * 1000)
    process = demo(folder, *([str(file)] if given else []))
    said, errors = process.communicate(timeout=120)
    assert process.returncode == 0, said + errors
    assert errors == ""
    assert "Killing node" in said
    assert "every byte is the same" in said
    assert "All is well" in said
    assert list(folder.iterdir()) == []
    assert mine(folder) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("moment", ["1.", "2."])
def test_interrupted_it_leaves_nothing_behind(tmp_path: Path, number: int, moment: str) -> None:
    process = demo(tmp_path)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(moment):
            break
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []
    eventually(lambda: mine(tmp_path) == [], "all its processes are gone")


def test_a_file_that_is_none(tmp_path: Path) -> None:
    process = demo(tmp_path, str(tmp_path / "missing"))
    said, errors = process.communicate(timeout=60)
    assert (process.returncode, said) == (2, "")
    assert "missing: not a file that can be read" in errors
