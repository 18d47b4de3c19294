"""Holding the lease of repair: a thread of its own renews it, so that nothing slow can lose it.

All calls to the lease are made by that thread. Others read `fence`, which costs nothing, before every
step: once it is None the work of this server is over.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from dfs import errors, logs
from dfs.model import Lease


class Held(Protocol):
    """What is used of `metadata.lease.LeaseHolder`."""

    @property
    def fence(self) -> int | None:
        """The fencing number while the lease is held; may be read by any thread."""

    def try_acquire(self) -> Lease | None:
        """The lease, if it is or becomes ours."""

    def renew(self) -> bool:
        """Keep it; False when it is lost."""

    def release(self) -> None:
        """Give it up."""


class Hold:
    """The lease, wanted until `stop`. `every`: seconds between renewals and between tries; `rest`: seconds
    without trying after `resign`. `changed` is called when the lease has come or gone."""

    def __init__(
        self, lease: Held, *, every: float, rest: float, changed: Callable[[], None] = lambda: None
    ) -> None:
        self._lease = lease
        self._every = every
        self._rest = rest
        self._changed = changed
        self._stopping = False
        self._resigned = False
        self._nudge = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def fence(self) -> int | None:
        """The fencing number while the lease is held and wanted, else None."""
        return None if self._stopping or self._resigned else self._lease.fence

    def start(self) -> None:
        """Try to get the lease from now on."""
        self._thread = threading.Thread(target=self._run, name="dfs-repair-lease", daemon=True)
        self._thread.start()

    def resign(self) -> None:
        """Give the lease up for now: somebody else works under it, whatever our clock says."""
        self._resigned = True
        self._nudge.set()

    def stop(self, seconds: float) -> None:
        """Give the lease up for good; waits at most `seconds` for that."""
        self._stopping = True
        self._nudge.set()
        if self._thread is not None:
            self._thread.join(seconds)

    def _run(self) -> None:
        told = False
        while not self._stopping:
            before = self._lease.fence
            resigned = self._resigned
            try:
                if resigned:
                    self._lease.release()
                elif before is not None:
                    self._lease.renew()
                else:
                    self._lease.try_acquire()
                told = False
            except errors.DfsError as error:  # tried again; meanwhile it runs out by itself
                if not told:
                    logs.warning("repair.lease_unanswered", reason=error.message)
                told = True
            except Exception as error:  # a bug must not end the thread
                logs.error("repair.lease_failed", exc=error)
            if self._lease.fence != before:
                self._changed()
            self._nudge.wait(self._rest if resigned else self._every)
            if resigned:
                self._resigned = False
            self._nudge.clear()
        try:
            self._lease.release()
        except errors.DfsError as error:  # it runs out by itself
            logs.warning("repair.lease_kept", reason=error.message)
