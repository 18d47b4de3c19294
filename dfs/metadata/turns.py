"""Whose turn it is to write: a queue of processes, kept by the kernel, that no crash can block.

A lock on a side file (`flock`), taken around each transaction. SQLite's own lock is what protects the
data; but whoever finds that one taken can only sleep and try again, and the process that writes most
often wins again and again. Here a waiter sleeps in the kernel and is woken when its turn has come. The
kernel drops the lock of a process that dies. A turn is never waited for longer than asked: then the
caller goes on without it, and SQLite's lock decides.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def _open(path: str) -> int:
    # Read-only is enough for a lock, and works for whom the file does not belong to.
    return os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)


@contextmanager
def a_turn(path: str) -> Iterator[None]:
    """Wait for one turn, however long that takes, and hold it. Raises OSError."""
    fd = _open(path)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(fd, fcntl.LOCK_UN)  # closing would not do while a process forked meanwhile has it too
    finally:
        os.close(fd)


class Turns:
    """The turns of one process, taken by one thread at a time. Made after any fork.

    Waiting for a turn is done by a thread of its own, because `flock` knows no time limit; it is
    started when a turn is first found taken, and ends with `close`.
    """

    def __init__(self, path: str) -> None:
        """`path` of the side file, made when missing. Raises OSError."""
        self._fd = _open(path)
        self._guard = threading.Condition()
        self._waiter: threading.Thread | None = None
        self._wanted = False
        self._waiting = False
        self._granted = False
        self._closed = False

    def take(self, seconds: float) -> bool:
        """Whether the turn came within `seconds`; then `give` must follow. False at once where no turn
        can be waited for."""
        with self._guard:
            if not self._waiting and self._try():
                return True
            self._wanted = True
            self._waiting = True
            if self._waiter is None and not self._start_waiter():
                self._waiting = self._wanted = False
                return False
            self._guard.notify_all()
            self._guard.wait_for(lambda: self._granted or not self._waiting, seconds)
            self._wanted = False
            came, self._granted = self._granted, False
            return came

    def give(self) -> None:
        """Pass the turn on."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def close(self) -> None:
        """End the waiting thread, or leave that to the turn it waits for, and let go of the file."""
        with self._guard:
            self._closed = True
            self._guard.notify_all()
            if not self._waiting:
                os.close(self._fd)

    def forget(self) -> None:
        """After a fork: let go of the file, which is the parent's to lock, and of nothing else."""
        os.close(self._fd)

    def _start_waiter(self) -> bool:
        waiter = threading.Thread(target=self._wait, name="metadata-turns", daemon=True)
        try:
            waiter.start()
        except RuntimeError:  # no more threads
            return False
        self._waiter = waiter
        return True

    def _try(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # taken; or a file system without locks, which the waiting finds too
            return False
        return True

    def _wait(self) -> None:
        """Wait for one turn after the other, as they are wanted."""
        while True:
            with self._guard:
                self._guard.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
            try:
                fcntl.flock(self._fd, fcntl.LOCK_EX)
                locked = True
            except OSError:
                locked = False
            with self._guard:
                self._waiting = False
                self._granted = locked and self._wanted
                if locked and not self._wanted:
                    self.give()  # nobody waited that long
                if self._closed:
                    os.close(self._fd)
                    return
                self._guard.notify_all()
