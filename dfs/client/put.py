"""Storing a file with one request: streamed, hashed on the way, repeated under one operation id."""

from __future__ import annotations

import mimetypes

from dfs.client.endpoint import Endpoint
from dfs.client.failures import VerifyFailed, printable
from dfs.client.results import StoredFile, stored_file
from dfs.client.session import Call, Session
from dfs.client.source import Progress, Source
from dfs.client.transport import Body, file_target, header, read_json
from dfs.errors import Unavailable

_SMALL = 256 << 10
"""Up to this size the body is sent from memory, without asking for `100 Continue` first."""

_PASSES = 5
"""How often a large body is sent from its start before giving up."""

_PACKED = {"gzip": "application/gzip", "bzip2": "application/x-bzip2", "xz": "application/x-xz"}


def guess_type(path: str) -> str | None:
    """The media type that the name of `path` suggests, None when it suggests none.

    A packed file is what its packing says: `a.tar.gz` is gzip, not tar.
    """
    kind, packing = mimetypes.guess_type(path.rpartition("/")[2], strict=True)
    return kind if packing is None else _PACKED.get(packing)


def put(
    session: Session,
    source: Source,
    bucket: str,
    path: str,
    *,
    content_type: str | None,
    chunk_size: int | None,
    preconditions: tuple[tuple[str, str], ...],
    sha256: str | None,
    op_id: str,
    progress: Progress,
) -> StoredFile:
    """Store `source` at `path`. Raises VerifyFailed when the servers stored something else.

    A large body waits for `100 Continue`, so that a refusal (a condition, no space) costs nothing
    and a dead connection is noticed while a pipe is still unread.
    """
    optional = (
        ("Content-Type", content_type),
        ("X-Chunk-Size", None if chunk_size is None else str(chunk_size)),
        ("X-File-SHA256", sha256),
    )
    headers = (("X-Dfs-Op", op_id), *preconditions, *(header(name, value) for name, value in optional if value))
    small = source.size is not None and source.size <= _SMALL
    passes = 0

    def attempt(endpoint: Endpoint) -> StoredFile:
        nonlocal passes
        passes += 1
        body: Body = source.read_all() if small else source.pieces(progress)
        call = Call(
            "PUT",
            file_target(path, bucket=bucket),
            printable(path),
            headers=headers,
            body=body,
            length=None if small else source.size,
            writes=True,
            streams=True,
            expect_continue=not small,
        )
        return stored_file(read_json(session.send(endpoint, call)), bucket)

    def may_repeat() -> bool:
        return source.can_restart and (small or passes < _PASSES)

    try:
        stored = session.run(attempt, writes=True, streams=True, may_repeat=may_repeat)
    except Unavailable as error:
        if source.can_restart:
            raise
        raise type(error)(
            f"{error.message}; {printable(source.name)} cannot be read again, so it was not repeated",
            retry_after=error.retry_after,
        ) from error
    _compare(stored, source, path)
    source.check_unchanged()
    return stored


def _compare(stored: StoredFile, source: Source, path: str) -> None:
    # A server that knew the operation already may have answered without reading the body.
    if not source.complete and not source.can_restart:
        raise VerifyFailed(f"{printable(path)}: the server answered before it had everything: put it again")
    found = source.sha256()
    if stored.sha256 is not None and stored.sha256 != found:
        raise VerifyFailed(
            f"{printable(path)}: what is stored (SHA-256 {stored.sha256[:12]}…) is not what was read from "
            f"{printable(source.name)} (SHA-256 {found[:12]}…): put it again"
        )
