"""`python -m dfs up` as a test sees it: a command that prints a line and then serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.support.caller import Caller
from tests.support.cluster import ROOT, eventually


def alive(pid: int) -> bool:
    """Whether a process with this id exists and is no zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return not Path("/proc/self").exists()


class Up:
    """The command, running. As a context manager it ends with everything that it started."""

    def __init__(self, data: Path, *arguments: str, environ: Mapping[str, str] | None = None, bare: bool = False) -> None:
        self.data = data
        flags = ["-S"] if bare else []
        self.process = subprocess.Popen(
            [sys.executable, *flags, "-m", "dfs", "up", "--data", str(data), "--api-port", "0", *arguments],
            cwd=ROOT,
            env=os.environ | {"DFS_API_WORKERS": "1"} | dict(environ or {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.first_line = self.process.stdout.readline()

    def __enter__(self) -> Up:
        assert self.first_line.startswith("ready http://127.0.0.1:"), self.first_line + self.finish()[1]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self.process.poll() is None:
            self.process.terminate()
        self.finish()

    @property
    def port(self) -> int:
        return int(self.first_line.rsplit(":", 1)[1])

    def caller(self) -> Caller:
        return Caller(self.port)

    def pids(self) -> dict[str, int]:
        """By name (`api`, node ids), what the pid files say."""
        return {file.stem: int(file.read_text()) for file in (self.data / "run").glob("*.pid")}

    def kill(self, name: str) -> int:
        """`kill -9` of one server; returns its process id."""
        pid = self.pids()[name]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not alive(pid), f"{name} is gone")
        return pid

    def finish(self) -> tuple[int, str]:
        """Wait for the end; the exit code and what it said on stderr."""
        try:
            _, said = self.process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return self.process.returncode, said
