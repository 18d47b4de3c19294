"""A file's content on its way here: verified, and gone on with elsewhere when a connection breaks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from dfs import errors
from dfs.client.chunkplan import read_plan
from dfs.client.endpoint import Endpoint
from dfs.client.failures import LocalFailure, Replaced, printable
from dfs.client.results import StoredFile, file_from_headers
from dfs.client.session import Call, Session
from dfs.client.transport import Answer, file_target, header, target, translate
from dfs.client.verify import ChunkVerifier, Verifier, WholeVerifier
from dfs.errors import DfsError
from dfs.wire.client import TransportError

PIECE = 256 << 10

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19})")


@dataclass(frozen=True, slots=True)
class Locator:
    """What to read: a path of a bucket, or a file by its id (`path` is None)."""

    bucket: str
    path: str | None = None
    file_id: str | None = None

    @property
    def what(self) -> str:
        """The name for messages."""
        return printable(self.path if self.path is not None else self.file_id or "")

    @property
    def target(self) -> str:
        """The request target of its content."""
        if self.path is not None:
            return file_target(self.path, bucket=self.bucket)
        return target(f"/content/{self.file_id}")


def etag_list(etags: str) -> str:
    """A condition's value as the header wants it: `*`, or each etag in quotes."""
    parts = [part.strip() for part in etags.split(",")]
    return ", ".join(part if part == "*" or part.startswith(("\"", "W/")) else f'"{part}"' for part in parts if part)


def conditions(if_match: str | None, if_none_match: str | None) -> tuple[tuple[str, str], ...]:
    """The headers of two preconditions; None means none."""
    wanted = (("If-Match", if_match), ("If-None-Match", if_none_match))
    return tuple(header(name, etag_list(value)) for name, value in wanted if value is not None)


class Download:
    """One file's content from `offset` on (then `etag` says of which file). Not thread-safe.

    When a connection breaks the rest is asked of the next server, if the file is still the same:
    `Replaced` when it is not.
    """

    def __init__(
        self,
        session: Session,
        locator: Locator,
        *,
        if_match: str | None = None,
        if_none_match: str | None = None,
        offset: int = 0,
        etag: str | None = None,
    ) -> None:
        self._session = session
        self._locator = locator
        self._conditions = conditions(if_match, if_none_match)
        self._patience = session.patience()
        self._answer: Answer | None = None
        self._endpoint: Endpoint | None = None
        self._etag = etag
        self._at = offset
        self._size = 0

    def open(self) -> StoredFile:
        """Ask for the content; nothing of it has been read when this returns.

        Raises NotFound, ConditionFailed (also when `if_none_match` holds: not modified), Replaced.
        """
        try:
            info = self._session.run(self._attempt, writes=False, streams=True, patience=self._patience)
        except (errors.ConditionFailed, errors.RangeNotSatisfiable) as error:
            if self._etag is None:
                raise
            raise Replaced(f"{self._locator.what} was replaced while it was being read") from error
        self._etag, self._size = info.etag, info.size
        return info

    def pieces(self) -> Iterator[bytes]:
        """The content from the offset to the end, exactly; at most 256 KiB a piece."""
        try:
            while self._at < self._size:
                piece = self._next()
                if piece:
                    self._at += len(piece)
                    self._patience.progress()
                    yield piece
        finally:
            self.close()

    def close(self) -> None:
        """Give up the connection."""
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _attempt(self, endpoint: Endpoint) -> StoredFile:
        headers = self._conditions
        if self._etag is not None:
            headers = (("If-Match", f'"{self._etag}"'),)
        if self._at:
            headers = (*headers, ("Range", f"bytes={self._at}-"))
        call = Call("GET", self._locator.target, self._locator.what, headers=headers, streams=True)
        answer = self._session.send(endpoint, call)
        try:
            info = self._head(answer)
        except DfsError:
            answer.close()
            raise
        self._answer, self._endpoint = answer, endpoint
        return info

    def _head(self, answer: Answer) -> StoredFile:
        size = answer.length
        if self._at:
            match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range") or "")
            size = int(match[3]) if match else None
            if answer.status != 206 or not match or int(match[1]) != self._at or answer.length != (size or 0) - self._at:
                raise LocalFailure(f"{self._locator.what}: the server does not answer ranges, so it cannot be resumed")
        if size is None:
            raise LocalFailure(f"{self._locator.what}: the server does not say how long the content is")
        return file_from_headers(answer.headers, size, self._locator.bucket, self._locator.path)

    def _next(self) -> bytes:
        """The next piece, or nothing after a new connection was made."""
        assert self._answer is not None and self._endpoint is not None  # open() came first
        try:
            piece = self._answer.read(min(PIECE, self._size - self._at))
            if piece:
                return piece
            failure: DfsError = errors.Unavailable(
                f"{self._locator.what}: the content ended too early", retry_after=0
            )
        except TransportError as error:
            failure = translate(error, self._endpoint, writes=False)
        self.close()
        self._session.turn_away(self._endpoint)
        if not self._session.wait(failure, self._patience):
            raise failure
        self.open()
        return b""


def look(session: Session, locator: Locator, *, if_match: str | None = None) -> StoredFile:
    """What is known of a file without its content (HEAD); raises NotFound, ConditionFailed."""
    call = Call("HEAD", locator.target, locator.what, headers=conditions(if_match, None))

    def attempt(endpoint: Endpoint) -> StoredFile:
        answer = session.send(endpoint, call)
        answer.close()
        return file_from_headers(answer.headers, _declared(answer), locator.bucket, locator.path)

    return session.run(attempt, writes=False)


def _declared(answer: Answer) -> int:
    length = answer.headers.get("Content-Length") or ""
    if not (length.isascii() and length.isdigit() and len(length) < 20):
        raise LocalFailure("the server does not say how long the content is")
    return int(length)


def verifier_for(session: Session, locator: Locator, info: StoredFile) -> Verifier:
    """What to hold the content of `info` against: its SHA-256, or its chunks' where it has none.

    Raises Replaced when the file went away meanwhile.
    """
    if info.sha256 is not None:
        return WholeVerifier(info.sha256, locator.what)
    if info.size == 0:
        return ChunkVerifier(b"", 1, 0, locator.what)
    try:
        plan = read_plan(session, info.file_id)
    except (errors.NotFound, errors.Gone, errors.NotFinalized) as error:
        raise Replaced(f"{locator.what} was replaced while it was being read") from error
    return ChunkVerifier(plan.digests, plan.chunk_size, info.size, locator.what)
