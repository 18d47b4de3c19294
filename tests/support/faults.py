"""Faults at a named step of an operation, injected through seams: the metadata store and its disk, and the
requests of nodes. See `site` for the cluster that they befall.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Sequence
from typing import Any

from dfs.errors import DfsError, Unavailable
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.sqlite_file import SqliteFile
from dfs.metadata.steps import (
    ChangeFile,
    PutFile,
    PutHead,
    PutReplica,
    RemoveFile,
    RemoveHead,
    RemoveReplica,
    RemoveShort,
    Step,
)
from dfs.model import FileState, Head
from dfs.wire.message import Request
from tests.support.fakes.chaos_sqlite import Faults

READS = frozenset({"get_file", "get_head", "operation", "replica", "replicas", "scan_heads"})


def step_of(method: str, arguments: Sequence[Any]) -> str:
    """What a call on the metadata store does, in a word."""
    if method in READS:
        return "read"
    if method == "add_replicas":
        return "rows"
    return step_of_transaction(arguments[0]) if method == "transact" else method


def step_of_transaction(steps: Sequence[Step]) -> str:
    kinds = {type(step) for step in steps}
    if RemoveHead in kinds:
        return "move" if PutHead in kinds else "delete"
    for kind, name in (
        (PutHead, "commit"),
        (RemoveReplica, "rows out"),
        (RemoveFile, "record out"),
        (RemoveShort, "mark out"),
        (PutReplica, "row"),
        (PutFile, "begin"),
        (ChangeFile, "change"),
    ):
        if kind in kinds:
            first = next(step for step in steps if isinstance(step, kind))
            leaving = isinstance(first, PutFile) and first.record.state is FileState.DELETING
            return "discard" if leaving else name
    return "other"


class Gate:
    """A metadata store that fails as it is told, once `arm`ed, at the first call of a step:

    - `away`: from this call on it cannot be reached; nothing of the call was done;
    - `lost`, `dropped`: the call is applied, or not, and its answer lost (of a read: it fails);
    - `lost and away`, `dropped and away`: and from then on it cannot be reached;
    - `slow`: the call waits for `go`;
    - `full`, `broken`, `unreadable`: from this call on the disk takes no writes, or cannot be read; `broken after`: the disk fails once, in
      the commit, which is there all the same;
    - `killed before`, `killed after`: this process dies of SIGKILL just before or after the call.

    `lift` ends what lasts.
    """

    def __init__(self, path: str) -> None:
        self._disk_fault: dict[str, str] = {}
        disk = Faults(self._failing)
        self.store = SqliteStore(path, file=SqliteFile(path, connect=disk.connect))
        self._armed: tuple[str, str] | None = None
        self._away = False
        self.reached = threading.Event()
        self.go = threading.Event()

    def arm(self, step: str, act: str) -> None:
        """See the class."""
        self.reached.clear()
        self.go.clear()
        self._armed = step, act

    def lift(self) -> None:
        """Everything works again."""
        self._armed, self._away, self._disk_fault = None, False, {}
        self.go.set()

    def _failing(self, kind: str) -> str | None:
        fault = self._disk_fault.get(kind)
        if fault == "lost":
            del self._disk_fault[kind]
        return fault

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.store, name)
        if name.startswith("_") or name == "close" or not callable(found):
            return found

        def call(*arguments: Any, **named: Any) -> Any:
            return self._pass(step_of(name, arguments), lambda: found(*arguments, **named))

        return call

    def transact_on(self, bucket: str, path: str, build: Callable[[Head | None], Sequence[Step]]) -> None:
        self.transact(build(self.get_head(bucket, path)))

    def _pass(self, step: str, call: Callable[[], Any]) -> Any:
        if self._away:
            raise Unavailable("metadata is away")
        if self._armed is None or self._armed[0] != step:
            return call()
        (_, act), self._armed = self._armed, None
        self.reached.set()
        if act == "slow":
            assert self.go.wait(60)
        elif act in ("full", "broken", "broken after", "unreadable"):
            self._disk_fault = {
                "unreadable": {"read": "io"},
                "full": {"write": "full"},
                "broken": {"write": "io"},
                "broken after": {"commit": "lost"},
            }[act]
        elif act.startswith("killed"):
            if act == "killed after":
                call()
            os.kill(os.getpid(), signal.SIGKILL)
        elif act == "away" or step == "read":
            self._away = act.endswith("away")
            raise Unavailable("metadata is away")
        else:
            done = call() if act.startswith("lost") else None
            self._away = act.endswith("away")
            raise OutcomeUnknown(f"the answer was lost ({done})")
        return call()


def cut_off(request: Request) -> None:
    """Break the connection of a request that a node is working on: no answer will arrive."""
    request.body._link.cut_off()


def refuse(error: DfsError, path: str = "/store-chunk") -> Callable[[Request], None]:
    """A node's `before`: refuse requests to `path` with `error`."""

    def before(request: Request) -> None:
        if request.path.startswith(path):
            raise error

    return before


def lose_answers(path: str = "/store-chunk") -> Callable[[Request], None]:
    """A node's `before` or `after`: break the connection."""

    def hook(request: Request) -> None:
        if request.path.startswith(path):
            cut_off(request)

    return hook
