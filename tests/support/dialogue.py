"""How a client of `tests.support.load` talks to the cluster: bare calls, or the client library.

Both end an operation in the same three ways beside success: `Refused`, `Unsure`, `Surprise`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Protocol, Self, TypeVar

from dfs import errors
from dfs.client import Client, StoredFile
from tests.support.caller import Answer, Caller, NoAnswer

_LONGEST_PAUSE = 0.5

T = TypeVar("T")


class Refused(Exception):
    """Nothing was done, for a reason that may pass. `what` is status and code."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.what = what


class Unsure(Exception):
    """Nobody said whether it was done."""

    def __init__(self, what: str, text: str) -> None:
        super().__init__(f"{what}: {text}")
        self.what = what


class Surprise(Exception):
    """An answer that must not be given."""


class Dialogue(Protocol):
    """The operations. Raise Refused, Unsure and Surprise. Use as a context manager; for one thread."""

    def put(self, path: str, data: bytes, operation: str, chunk_size: int) -> None:
        """Store `data`; the file's id is `operation`."""

    def get(self, path: str) -> bytes | None:
        """The content; None when there is no such file."""

    def delete(self, path: str, operation: str) -> bool:
        """Whether there was something to delete."""

    def list(self, prefix: str) -> Sequence[tuple[str, str]]:
        """Path and file id of everything under `prefix`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class RawDialogue:
    """Bare calls, each to the next server when the one before failed, for `patience` seconds in all."""

    def __init__(
        self,
        ports: Callable[[], list[int]],
        *,
        first: int,
        patience: float,
        timeout: float,
        stopping: threading.Event,
        on_setback: Callable[[str, float], None],
    ) -> None:
        """Begins with the server `first` of `ports`. `on_setback` hears of every attempt that failed, with its
        seconds; nothing is repeated any more once `stopping` is set."""
        self._ports = ports
        self._patience = patience
        self._timeout = timeout
        self._stopping = stopping
        self._on_setback = on_setback
        self._turn = first
        self._callers: dict[int, Caller] = {}

    def put(self, path: str, data: bytes, operation: str, chunk_size: int) -> None:
        headers = {"X_Chunk_Size": str(chunk_size), "X_Dfs_Op": operation}
        self._until_done(lambda caller: caller.file("PUT", path, data, **headers), (201,), writes=True)

    def get(self, path: str) -> bytes | None:
        answer = self._until_done(lambda caller: caller.file("GET", path), (200, 404), writes=False)
        return answer.body if answer.status == 200 else None

    def delete(self, path: str, operation: str) -> bool:
        headers = {"X_Dfs_Op": operation}
        answer = self._until_done(lambda caller: caller.file("DELETE", path, **headers), (204, 404), writes=True)
        return answer.status == 204

    def list(self, prefix: str) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        cursor = ""
        while True:
            target = f"/files?prefix={prefix}" + (f"&cursor={cursor}" if cursor else "")
            page = self._until_done(lambda caller, t=target: caller.call("GET", t), (200,), writes=False).json
            files = page["files"]
            assert isinstance(files, list)
            found += [(entry["path"], entry["file_id"]) for entry in files]
            if page["cursor"] is None:
                return found
            cursor = str(page["cursor"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for caller in self._callers.values():
            caller.close()

    def _caller(self) -> Caller:
        ports = self._ports()
        port = ports[self._turn % len(ports)]
        if port not in self._callers:
            self._callers[port] = Caller(port, timeout=self._timeout)
        return self._callers[port]

    def _until_done(self, call: Callable[[Caller], Answer], good: tuple[int, ...], *, writes: bool) -> Answer:
        end = time.monotonic() + self._patience
        unsure: Unsure | None = None
        while True:
            began = time.monotonic()
            try:
                return self._once(call, good, writes=writes)
            except Unsure as error:
                unsure = error
                failed: Refused | Unsure = error
            except Refused as error:
                failed = error
            self._on_setback(failed.what, time.monotonic() - began)
            self._turn += 1
            if time.monotonic() >= end or self._stopping.wait(min(_LONGEST_PAUSE, max(0.0, end - time.monotonic()))):
                raise unsure or failed

    def _once(self, call: Callable[[Caller], Answer], good: tuple[int, ...], *, writes: bool) -> Answer:
        try:
            answer = call(self._caller())
        except NoAnswer as error:
            if writes:
                raise Unsure("no answer", str(error))
            raise Refused("no answer", str(error))
        if answer.status in good:
            return answer
        if answer.status not in (503, 507):
            raise Surprise(f"{answer.status}: {answer.body[:300]!r}")
        if "retry-after" not in answer.headers:
            raise Surprise(f"{answer.status} without Retry-After: {answer.body[:300]!r}")
        what = f"{answer.status} {answer.code}"
        raise (Unsure if answer.code == "unknown" else Refused)(what, str(answer.json["error"]))


class ClientDialogue:
    """`dfs.client.Client`, which repeats by itself what may pass."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def put(self, path: str, data: bytes, operation: str, chunk_size: int) -> None:
        _said(lambda: self._client.put(data, path, op_id=operation, chunk_size=chunk_size))

    def get(self, path: str) -> bytes | None:
        try:
            return _said(lambda: self._client.read(path))
        except errors.NotFound:
            return None

    def delete(self, path: str, operation: str) -> bool:
        try:
            _said(lambda: self._client.delete(path, op_id=operation))
        except errors.NotFound:
            return False
        return True

    def list(self, prefix: str) -> list[tuple[str, str]]:
        listed = _said(lambda: list(self._client.list(prefix)))
        return [(entry.path or "", entry.file_id) for entry in listed if isinstance(entry, StoredFile)]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """The client is shared: whoever made it closes it."""


def _said(call: Callable[[], T]) -> T:
    """What `call` returns; its errors as those of a dialogue. NotFound passes."""
    try:
        return call()
    except errors.NotFound:
        raise
    except errors.Unknown as error:
        raise Unsure(f"{error.status} {error.code}", error.message)
    except (errors.Unavailable, errors.ClusterFull) as error:
        raise Refused(f"{error.status} {error.code}", error.message)
    except errors.DfsError as error:
        raise Surprise(f"{type(error).__name__}: {error.message}")
