"""One child process of the embedded cluster: started, watched, restarted, stopped."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dfs import logs
from dfs.errors import StartError

MOST_DEATHS = 5
DEATH_WINDOW = 60.0
START_SECONDS = 60.0
LOG_BYTES = 8 << 20


@dataclass(frozen=True)
class Launch:
    """How to run the process once: settled anew before every start (a port may have been taken)."""

    arguments: list[str]
    environment: dict[str, str]


class Child:
    """A process that is kept running until `stop`.

    `launch` says how to run it. It reports readiness on a pipe of its own; `on_ready` gets its port.
    `kept_fds` stay open in it; `parent_fd` is the one whose end of file makes it stop. With
    `supervise` it is started again whenever it dies, until it has died 5 times within a minute.
    """

    def __init__(
        self,
        name: str,
        launch: Callable[[], Launch],
        *,
        log_file: Path,
        pid_file: Path,
        parent_fd: int,
        kept_fds: tuple[int, ...],
        on_ready: Callable[[str, int], None],
        supervise: bool,
    ) -> None:
        self.name = name
        self._launch = launch
        self._log_file = log_file
        self._pid_file = pid_file
        self._parent_fd = parent_fd
        self._kept_fds = kept_fds
        self._on_ready = on_ready
        self._supervise = supervise
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_fd = -1
        self._log_start = 0
        self._deaths: deque[float] = deque()
        self._watcher = threading.Thread(target=self._watch, name=f"watch-{name}", daemon=True)

    @property
    def pid(self) -> int | None:
        """The process id; None before the first start."""
        return self._process.pid if self._process else None

    def spawn(self) -> bool:
        """Start the process without waiting for it; False once `stop` was called."""
        with self._lock:
            if self._stopping.is_set():
                return False
            launch = self._launch()
            _turn_over(self._log_file)
            self._ready_fd, ready_write = os.pipe()
            try:
                with open(self._log_file, "ab") as log:
                    self._log_start = log.tell()
                    self._process = subprocess.Popen(
                        [*launch.arguments, "--ready-fd", str(ready_write), "--parent-fd", str(self._parent_fd)],
                        env=launch.environment,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        pass_fds=(ready_write, self._parent_fd, *self._kept_fds),
                        # Ctrl-C in the terminal reaches `up` alone: it stops the API before the nodes.
                        process_group=0,
                    )
            finally:
                os.close(ready_write)
            self._pid_file.write_text(f"{self._process.pid}\n", encoding="ascii")
            return True

    def wait_ready(self) -> None:
        """Wait until the started process serves. Raises StartError with what it said."""
        line = _read_line(self._ready_fd, START_SECONDS)
        os.close(self._ready_fd)
        if not line:
            raise StartError(f"{self.name} did not start: {self._last_words()}")
        self._on_ready(self.name, int(json.loads(line)["port"]))

    def watch(self) -> None:
        """From now on, notice when the process dies."""
        self._watcher.start()

    def signal(self, number: int) -> None:
        """Send the running process a signal."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(number)

    def kill(self) -> None:
        """Kill the process as a crash would, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait()

    def stop(self, patience: float) -> None:
        """End the process: politely, and after `patience` seconds by force. Idempotent."""
        self._stopping.set()
        with self._lock:
            process = self._process
        if process is None:
            return
        self.signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            logs.warning("child.killed", child=self.name, reason=f"still there after {patience:g} s")
            process.kill()
            process.wait()
        if self._watcher.is_alive():
            self._watcher.join()
        self._pid_file.unlink(missing_ok=True)

    def _watch(self) -> None:
        while self._process is not None:
            code = self._process.wait()
            if self._stopping.is_set():
                return
            self._pid_file.unlink(missing_ok=True)
            self._deaths.append(time.monotonic())
            while self._deaths[-1] - self._deaths[0] > DEATH_WINDOW:
                self._deaths.popleft()
            logs.warning("child.died", child=self.name, exit=code, said=self._last_words())
            if not self._supervise or len(self._deaths) >= MOST_DEATHS:
                reason = f"{len(self._deaths)} deaths in a minute" if self._supervise else "not supervised"
                logs.error("child.left_down", child=self.name, reason=reason, log=self._log_file)
                return
            if self._stopping.wait(0.2 * (len(self._deaths) - 1)):
                return
            try:
                if not self.spawn():
                    return
                self.wait_ready()
            except (StartError, OSError) as error:
                self.signal(signal.SIGKILL)  # it may hang instead of being dead
                logs.warning("child.restart_failed", child=self.name, reason=error)
            else:
                logs.event("child.restarted", child=self.name, pid=self.pid)

    def _last_words(self) -> str:
        with open(self._log_file, "rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - 4096))
            lines = log.read().decode("utf-8", "replace").splitlines()
        return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


def _read_line(fd: int, seconds: float) -> bytes:
    """What is written to `fd` up to its end or a newline; empty when that takes too long."""
    end = time.monotonic() + seconds
    received = b""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while not received.endswith(b"\n"):
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            return b""
        piece = os.read(fd, 4096)
        if not piece:
            return b""
        received += piece
    return received


def _turn_over(log_file: Path) -> None:
    """Keep a log's size in bounds: one old generation beside the current one."""
    if log_file.exists() and log_file.stat().st_size > LOG_BYTES:
        os.replace(log_file, log_file.with_name(log_file.name + ".1"))
