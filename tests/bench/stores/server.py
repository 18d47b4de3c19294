"""What the bench needs of a store: start, ports, targets of requests, what it promises, stop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.bench import machine

HOST = "127.0.0.1"


class Missing(Exception):
    """The store cannot be measured here; the message is a sentence and names what would help."""


class NotStarted(Exception):
    """The store is there and did not start; the message has what it said."""


@dataclass(frozen=True)
class Line:
    """One way of using a store: a line of the tables.

    `target` is the path of an object, `{prefix}` and `{n}` to be filled in; `put_suffix` is added to it
    for a PUT. `promise` is what had been done when a PUT was answered, `reads` what a GET checks;
    `measures` says which of the two are measured.
    """

    key: str
    title: str
    promise: str
    reads: str
    target: str
    put_suffix: str = ""
    measures: frozenset[str] = frozenset({"PUT", "GET"})

    def put_target(self, prefix: str) -> str:
        return self.get_target(prefix) + self.put_suffix

    def get_target(self, prefix: str) -> str:
        return self.target.replace("{prefix}", prefix)


class Program:
    """A child process in a group of its own, so that Ctrl-C reaches the bench alone."""

    def __init__(
        self, command: Sequence[str], log: Path, *, environ: Mapping[str, str] | None = None, cwd: Path | None = None,
        stdout: int | None = None,
    ) -> None:  # fmt: skip
        """Start `command`; what it says goes to `log`. Raises NotStarted when it cannot be run."""
        self.log = log
        try:
            with log.open("ab") as file:
                self.process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=file if stdout is None else stdout, stderr=file,
                    env=None if environ is None else dict(environ), cwd=cwd, process_group=0,
                )  # fmt: skip
        except OSError as error:
            raise NotStarted(f"{command[0]}: {error.strerror}") from None

    @property
    def pid(self) -> int:
        return self.process.pid

    def last_words(self) -> str:
        """The end of what it said."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").split("\n")
        return "\n".join(lines[-20:]).strip() or "it said nothing"

    def stop(self, patience: float = 30.0) -> None:
        """End it, politely at first, and whatever it has left behind. Idempotent."""
        left = [process.pid for process in machine.family([self.pid]) if process.pid != self.pid]
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        table = machine.processes()
        for pid in left:
            # Only what was this program's child and stayed in its group: ids are used again.
            with contextlib.suppress(ProcessLookupError):
                if pid in table and os.getpgid(pid) == self.pid:
                    os.kill(pid, signal.SIGKILL)


class Server(ABC):
    """A store that runs. `lines` are the ways it is measured."""

    name: str
    lines: tuple[Line, ...]
    port: int

    @abstractmethod
    def start(self) -> None:
        """Start it and return when it serves. Raises Missing or NotStarted; `stop` is called in either case."""

    @abstractmethod
    def stop(self) -> None:
        """End every process. Idempotent."""

    def prepare(self, prefix: str) -> None:  # noqa: B027 - most stores need nothing
        """Whatever must be there before objects of `prefix` can be stored."""

    def forget(self, prefix: str) -> None:  # noqa: B027 - most stores cannot
        """Give back the disk space of the objects of `prefix`, where that takes no time."""

    @abstractmethod
    def roots(self) -> list[int]:
        """The processes that were started."""

    @property
    @abstractmethod
    def settings(self) -> dict[str, object]:
        """Version and configuration, for the report."""

    def role(self, process: machine.Process) -> str:
        """Which part of the store a process is."""
        return self.name

    def usage(self) -> dict[str, tuple[float, int]]:
        """(processor seconds so far, resident bytes) by role, summed over the role's processes."""
        sums: dict[str, tuple[float, int]] = {}
        for process in machine.family(self.roots()):
            cpu, rss = sums.get(self.role(process), (0.0, 0))
            sums[self.role(process)] = (cpu + process.cpu, rss + process.rss)
        return sums


def free_ports(count: int) -> list[int]:
    """Ports that nobody has now, all different.

    They come from below the range that the kernel gives to outgoing connections, so that none of
    those takes one before the store does.
    """
    held: list[socket.socket] = []
    try:
        number = 10_000 + os.getpid() * 37 % 15_000
        while len(held) < count:
            number = number + 1 if number < 32_000 else 10_000
            candidate = socket.socket()
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                candidate.bind((HOST, number))
                held.append(candidate)
            except OSError:
                candidate.close()
        return [item.getsockname()[1] for item in held]
    finally:
        for item in held:
            item.close()


def wait_until(what: str, ready: Callable[[], bool], programs: Sequence[Program], seconds: float = 60.0) -> None:
    """Poll until `ready` (which may raise OSError meanwhile). Raises NotStarted when it takes too long or
    one of `programs` ends."""
    end = time.monotonic() + seconds
    while True:
        try:
            if ready():
                return
        except OSError:
            pass
        for program in programs:
            if program.process.poll() is not None:
                raise NotStarted(f"{what} ended at its start: {program.last_words()}")
        if time.monotonic() > end:
            said = "\n".join(program.last_words() for program in programs)
            raise NotStarted(f"{what} did not serve within {seconds:g} s: {said}")
        time.sleep(0.05)


def connects(port: int) -> bool:
    """Whether something listens on `port`."""
    with socket.create_connection((HOST, port), timeout=1):
        return True


def version_of(command: Sequence[str]) -> str:
    """The first line that a program says of its version."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return ((done.stdout or done.stderr).strip().splitlines() or ["unknown"])[0]
