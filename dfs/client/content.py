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
    """One file's content from `offset` on (then `etag` says of which file, and `size`, where it is known,
    how long that is), to its end or to `end`. Not thread-safe.

    When a connection breaks the rest is asked of the next server, if the file is still the same:
    `Replaced` when it is not. `server` is the one to begin with, of several downloads at once; each
    then goes its own way round the servers.
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
        size: int | None = None,
        end: int | None = None,
        server: int | None = None,
    ) -> None:
        self._session = session
        self._locator = locator
        self._conditions = conditions(if_match, if_none_match)
        self._patience = session.patience()
        self._answer: Answer | None = None
        self._endpoint: Endpoint | None = None
        self._etag = etag
        self._at = offset
        self._limit = end
        self._known_size = size
        self._size = 0
        self.server = server
        """The server to ask first, None: the one that the session used last."""

    @property
    def offset(self) -> int:
        """Where the next piece begins."""
        return self._at

    @property
    def end(self) -> int:
        """Where the last piece ends, once it is open."""
        return self._size if self._limit is None else min(self._limit, self._size)

    def open(self) -> StoredFile:
        """Ask for the content; nothing of it has been read when this returns.

        Raises NotFound, ConditionFailed (also when `if_none_match` holds: not modified), Replaced.
        """
        try:
            info = self._session.run(
                self._attempt, writes=False, streams=True, patience=self._patience, server=self.server
            )
        except (errors.ConditionFailed, errors.RangeNotSatisfiable) as error:
            if self._etag is None:
                raise
            raise self._replaced() from error
        if self._etag not in (None, info.etag) or self._known_size not in (None, info.size):
            # What stands between here and the servers may answer by itself, whatever was asked for.
            self.close()
            raise self._replaced()
        self._etag, self._known_size, self._size = info.etag, info.size, info.size
        return info

    def pieces(self) -> Iterator[bytes]:
        """The content from the offset to the end, exactly; at most 256 KiB a piece."""
        try:
            while self._at < self.end:
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

    def _replaced(self) -> Replaced:
        return Replaced(f"{self._locator.what} was replaced while it was being read")

    def _attempt(self, endpoint: Endpoint) -> StoredFile:
        try:
            answer = self._ask(endpoint)
        except errors.RangeNotSatisfiable:
            if self._at:
                raise
            self._limit = None  # an empty file has no range
            answer = self._ask(endpoint)
        try:
            info = self._head(answer)
        except DfsError:
            answer.close()
            raise
        self._answer, self._endpoint = answer, endpoint
        if self.server is not None:  # the ones before it did not answer: not to be waited for each time
            self.server = self._session.number_of(endpoint)
        return info

    def _ask(self, endpoint: Endpoint) -> Answer:
        headers = self._conditions
        if self._etag is not None:
            headers = (("If-Match", f'"{self._etag}"'),)
        if self._at or self._limit is not None:
            last = "" if self._limit is None else self._limit - 1
            headers = (*headers, ("Range", f"bytes={self._at}-{last}"))
        call = Call("GET", self._locator.target, self._locator.what, headers=headers, streams=True)
        return self._session.send(endpoint, call)

    def _head(self, answer: Answer) -> StoredFile:
        size = answer.length
        if not self._at and answer.status != 206:
            self._limit = None  # all of it comes, whatever was asked for
        if self._at or self._limit is not None:
            size = self._ranged_size(answer)
        if size is None:
            raise LocalFailure(f"{self._locator.what}: the server does not say how long the content is")
        return file_from_headers(answer.headers, size, self._locator.bucket, self._locator.path)

    def _ranged_size(self, answer: Answer) -> int:
        """The size of the file, told by an answer with the range that was asked for."""
        match = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range") or "")
        if match and answer.status == 206:
            first, last, size = (int(number) for number in match.groups())
            end = size if self._limit is None else min(self._limit, size)
            if (first, last + 1, answer.length) == (self._at, end, end - self._at):
                return size
        raise LocalFailure(f"{self._locator.what}: the server does not answer ranges, so it cannot be resumed")

    def _next(self) -> bytes:
        """The next piece, or nothing after a new connection was made."""
        assert self._answer is not None and self._endpoint is not None  # open() came first
        try:
            piece = self._answer.read(min(PIECE, self.end - self._at))
            if piece:
                return piece
            failure: DfsError = errors.Unavailable(
                f"{self._locator.what}: the content ended too early", retry_after=0
            )
        except TransportError as error:
            failure = translate(error, self._endpoint, writes=False)
        self.close()
        if self.server is None:
            self._session.turn_away(self._endpoint)
        else:
            self.server = self._session.after(self._endpoint)
        if not self._session.wait(failure, self._patience):
            raise failure
        self.open()
        return b""


def look(
    session: Session, locator: Locator, *, if_match: str | None = None, if_none_match: str | None = None
) -> StoredFile:
    """What is known of a file without its content (HEAD); raises NotFound, ConditionFailed."""
    call = Call("HEAD", locator.target, locator.what, headers=conditions(if_match, if_none_match))

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
