"""What both kinds of server do as processes: arguments, signals, sockets, exit codes.

A server is one call:

    def main(argv=None) -> int:
        return process.run("dfs-api", ApiSettings, serve, argv, description="…")

    def serve(settings: ApiSettings, lifetime: process.Lifetime) -> None:
        listener = process.inherited_listener() or process.listen(
            settings.api_bind, settings.api_port, port_setting="DFS_API_PORT", bind_setting="DFS_API_BIND"
        )
        …                                   # StartError here: exit 1 with its sentence
        lifetime.ready(port=server.port)    # --ready-fd; from here on signals end wait(), not the start
        lifetime.wait()
        server.drain(settings.drain_timeout)

Exit codes: 0 clean stop (SIGTERM, SIGINT, the parent's pipe closed), 1 could not start or had to
stop, 2 bad settings or usage. Codes 1 and 2 come with one sentence on stderr.
"""

from __future__ import annotations

import argparse
import errno
import gc
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Self, TypeVar

from dfs import __version__, logs
from dfs.errors import DfsError, SettingsError, StartError
from dfs.settings import CommonSettings, load, show, take_listen_fds

BACKLOG = 1024
FIRST_INHERITED_FD = 3
GC_YOUNG = 10_000
"""Objects made, net, between two looks at the youngest for cycles (Python's own figure: 700)."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PARENT_GONE = "the parent process is gone"


class Interrupted(BaseException):
    """A stop was asked for while the process was still starting; `run` turns it into exit code 0.

    Not an Exception: start-up code that catches its own failures must not swallow it.
    """


class PortInUse(StartError):
    """Another process listens on that port."""


class Lifetime:
    """When a process stops, and why.

    Before `ready` a stop signal raises Interrupted in the main thread wherever it is (a start must
    be safe to cut at any point, as `kill -9` cuts it too); afterwards it only ends `wait`.
    """

    def __init__(
        self, *, ready_fd: int | None = None, parent_fd: int | None = None, threads: bool = True
    ) -> None:
        """`threads` False, in a process that is going to fork: no thread is started, and the parent's
        pipe is watched by `wait` alone."""
        self._threads = threads
        self._ready_fd = ready_fd
        self._parent_fd = parent_fd
        self._interruptible = True
        self._signal_means: str | None = None
        # Appended to by the signal handler and by threads. A list, for append takes no lock: a
        # handler that waits for a lock which the interrupted code holds would wait for ever.
        self._requests: list[tuple[str, int]] = []
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)

    def __enter__(self) -> Self:
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        # Wakes the poll in `wait` even when the kernel gives the signal to another thread.
        signal.set_wakeup_fd(self._wake_write, warn_on_full_buffer=False)
        if self._parent_fd is not None and self._threads:
            threading.Thread(target=self._watch_parent, name="parent-watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        # The process ends now: a second signal must not turn a clean stop into a death by signal.
        for number in STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)

    @property
    def stopping(self) -> bool:
        """Whether a stop was asked for."""
        return bool(self._requests)

    @property
    def reason(self) -> str:
        """Why the process stops (or had to): a failure if there was one, else the first request."""
        failures = [reason for reason, code in self._requests if code]
        return (failures or [reason for reason, _ in self._requests] or [""])[0]

    @property
    def exit_code(self) -> int:
        """0 unless some `stop` said otherwise."""
        return next((code for _, code in self._requests if code), 0)

    def ready(self, **facts: object) -> None:
        """The process serves: write `facts` as one JSON line to `--ready-fd` and close it."""
        self._interruptible = False
        settle()
        if self._ready_fd is None:
            return
        fd, self._ready_fd = self._ready_fd, None
        try:
            with open(fd, "w", encoding="utf-8") as stream:
                stream.write(json.dumps(facts) + "\n")
        except OSError as error:
            # Whoever wanted to know is gone; --parent-fd decides whether this process goes too.
            logs.warning("ready.unheard", error=error)

    def stop(self, reason: str, exit_code: int = 0) -> None:
        """Ask for a stop, from any thread. With an `exit_code`, `reason` goes to stderr at the end."""
        self._requests.append((reason, exit_code))
        try:
            os.write(self._wake_write, b"\0")
        except BlockingIOError:
            pass  # full of wake-ups already

    def hold_signals(self) -> None:
        """From here on a stop signal only ends `wait`, as after `ready`: what follows must not be cut."""
        self._interruptible = False

    def wait(self, seconds: float | None = None, fds: Sequence[int] = ()) -> bool:
        """Wait until a stop is asked for, at most `seconds` and at most until one of `fds` can be read;
        True when a stop was asked for. Main thread only."""
        end = None if seconds is None else time.monotonic() + seconds
        parent = None if self._threads else self._parent_fd
        poll = select.poll()
        for fd in (self._wake_read, *fds, *(() if parent is None else (parent,))):
            poll.register(fd, select.POLLIN)
        while not self._requests:
            left = None if end is None else max(0.0, end - time.monotonic())
            found = {fd for fd, _ in poll.poll(None if left is None else left * 1000)}
            if found.intersection(fds) or (left == 0 and not found):
                break
            if self._wake_read in found:
                self._empty_pipe()
            if parent in found and self._parent_is_gone():
                self.stop(_PARENT_GONE)
        return bool(self._requests)

    def forked(self) -> None:
        """In a child process: let go of what is the parent's. A Lifetime of its own follows."""
        signal.set_wakeup_fd(-1)
        os.close(self._wake_read)
        os.close(self._wake_write)
        if self._ready_fd is not None:
            os.close(self._ready_fd)

    def _parent_is_gone(self) -> bool:
        """Whether the parent's pipe, which can be read, has reached its end."""
        assert self._parent_fd is not None
        try:
            return not os.read(self._parent_fd, 4096)
        except OSError as error:
            logs.warning("parent.unreadable", error=error)
            return True

    def _empty_pipe(self) -> None:
        try:
            os.read(self._wake_read, 4096)
        except BlockingIOError:
            pass  # another signal's handler woke us and took the byte

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self.stop(self._signal_means or signal.Signals(number).name)
        if self._interruptible:
            self._interruptible = False  # once: a second signal must not cut the cleaning up
            raise Interrupted(self.reason)

    def _watch_parent(self) -> None:
        assert self._parent_fd is not None
        poll = select.poll()
        poll.register(self._parent_fd, select.POLLIN)
        poll.poll()
        while not self._parent_is_gone():
            poll.poll()
        if self._interruptible:
            # A start does not wait for anything: only a signal gets it out of wherever it is.
            self._signal_means = _PARENT_GONE
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            self.stop(_PARENT_GONE)


def settle() -> None:
    """What was made up to now stays: the cyclic garbage collector need not look at it again.

    Modules, classes and parts of a server are some 22,000 objects; each full collection would walk
    them, for 5 to 10 ms in which no other thread runs. Requests make few cycles, so the youngest are
    looked at less often too.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_YOUNG, 10, 10)


S = TypeVar("S", bound=CommonSettings)


def run(
    program: str,
    settings_type: type[S],
    serve: Callable[[S, Lifetime], None],
    argv: Sequence[str] | None = None,
    *,
    description: str,
    forks: Callable[[S], bool] = lambda _settings: False,
) -> int:
    """Run a server process to its end; returns its exit code (see the module's text).

    `forks` says whether `serve` forks with these settings: it then finds no thread running.
    """
    options = _parse(program, description, argv)
    try:
        settings = load(settings_type, config=options.config)
    except SettingsError as error:
        return _refuse(program, str(error), 2)
    if options.show_settings:
        print(show(settings))
        return 0
    logs.configure(settings.role, settings.log_format, settings.log_level)
    lifetime = Lifetime(ready_fd=options.ready_fd, parent_fd=options.parent_fd, threads=not forks(settings))
    code, sentence = outcome(lifetime, lambda: serve(settings, lifetime))
    return _refuse(program, sentence, code) if code else 0


def outcome(lifetime: Lifetime, serve: Callable[[], None]) -> tuple[int, str]:
    """Run `serve` within `lifetime`: the exit code, and the sentence that goes with one that is not 0."""
    try:
        with lifetime:
            serve()
    except SettingsError as error:
        return 2, str(error)
    except (StartError, DfsError) as error:
        return 1, str(error)
    except Interrupted as cause:
        logs.event("start.interrupted", cause=cause)
    return lifetime.exit_code, lifetime.reason


def _refuse(program: str, sentence: str, code: int) -> int:
    print(f"{program}: {sentence}", file=sys.stderr, flush=True)
    return code


def _parse(program: str, description: str, argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=program, description=description, allow_abbrev=False)
    parser.add_argument("--config", type=Path, metavar="FILE", help="KEY=value settings; the environment beats them")
    parser.add_argument("--show-settings", action="store_true", help="print the effective settings and exit")
    parser.add_argument(
        "--ready-fd", type=int, metavar="N", help="write one JSON line to this descriptor when serving, and close it"
    )
    parser.add_argument("--parent-fd", type=int, metavar="N", help="stop cleanly when this descriptor reaches its end")
    parser.add_argument("--version", action="version", version=f"{program} {__version__}")
    options = parser.parse_args(argv)
    for name, lowest in (("ready_fd", 3), ("parent_fd", 0)):
        number = getattr(options, name)
        if number is not None and not (number >= lowest and _is_open(number)):
            parser.error(f"--{name.replace('_', '-')} {number}: not an open descriptor from {lowest} on")
    return options


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except (OSError, OverflowError):
        return False
    return True


def inherited_listener(first_fd: int = FIRST_INHERITED_FD) -> socket.socket | None:
    """The listening socket that systemd passed to this process, if it did.

    Raises StartError when it passed several or something that is not a listening TCP socket.
    """
    count = take_listen_fds()
    if count == 0:
        return None
    if count > 1:
        raise StartError(f"LISTEN_FDS={count}: one listening socket is expected; give the socket unit one ListenStream=")
    try:
        listener = socket.socket(fileno=first_fd)
        listening = (
            listener.family in (socket.AF_INET, socket.AF_INET6)
            and listener.type == socket.SOCK_STREAM
            and listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
        )
    except OSError as error:
        raise StartError(f"LISTEN_FDS=1: descriptor {first_fd} is not a socket: {error.strerror}") from None
    if not listening:
        listener.detach()
        raise StartError(f"LISTEN_FDS=1: descriptor {first_fd} is not a listening TCP socket")
    listener.set_inheritable(False)
    return listener


def bind(host: str, port: int, *, port_setting: str, bind_setting: str) -> socket.socket:
    """A TCP socket bound to `host`:`port` that does not listen yet: connecting to it is refused.

    Raises StartError naming the setting that is to be changed; PortInUse is one.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
    except OSError as error:
        bound.close()
        raise _bind_error(error, host, port, port_setting, bind_setting) from error
    return bound


def listen(host: str, port: int, *, port_setting: str, bind_setting: str) -> socket.socket:
    """A TCP socket listening on `host`:`port` (0: any free port). Raises StartError, as `bind` does."""
    bound = bind(host, port, port_setting=port_setting, bind_setting=bind_setting)
    try:
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        raise _bind_error(error, host, port, port_setting, bind_setting) from error
    return bound


def _bind_error(error: OSError, host: str, port: int, port_setting: str, bind_setting: str) -> StartError:
    if error.errno == errno.EADDRINUSE:
        return PortInUse(
            f"{port_setting}={port}: the port is in use on {host}; stop the process that holds it or choose another port"
        )
    if error.errno == errno.EACCES:
        return StartError(f"{port_setting}={port}: this user may not listen on that port; choose one above 1023")
    if error.errno == errno.EADDRNOTAVAIL:
        return StartError(f"{bind_setting}={host}: this machine does not have that address")
    return StartError(f"{bind_setting}={host}, {port_setting}={port}: cannot listen there: {error.strerror}")
