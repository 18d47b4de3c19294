"""Storing a large file over several connections: its chunks go up side by side.

The same as `put`, but for two things: the servers never see the file in one piece, so they record
no SHA-256 of the whole (each chunk has one), and conditions are decided at the end (a look at the
start spares an upload in vain).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

from dfs import errors
from dfs.client.chunks import begin, status
from dfs.client.content import Locator, look
from dfs.client.endpoint import Endpoint
from dfs.client.results import StoredFile, UploadStatus
from dfs.client.resume import Resumable, UploadState
from dfs.client.session import Call, Session
from dfs.client.source import Progress
from dfs.client.transport import target
from dfs.errors import DfsError

FROM = 32 << 20
"""Smaller files go up in one request, whatever is asked for."""


@dataclass(frozen=True, slots=True)
class OneUpload:
    """What is known of an upload whose id the caller has chosen: maybe it was begun before."""

    known: UploadState | None

    def load(self, _key: str) -> UploadState | None:
        """The caller's own id."""
        return self.known

    def save(self, _key: str, _state: UploadState) -> None:
        """Nothing outlives the call."""

    def forget(self, _key: str) -> None:
        """Nothing outlives the call."""


def put_in_chunks(
    session: Session,
    source: Path,
    bucket: str,
    path: str,
    *,
    content_type: str | None,
    chunk_size: int,
    if_match: str | None,
    if_none_match: str | None,
    op_id: str,
    jobs: int,
    progress: Progress,
) -> StoredFile:
    """Store the file `source` at `path` over `jobs` connections; raises what `put` raises.

    What an earlier call began under `op_id` is gone on with, and what it finished is told again:
    ConditionFailed when the id belongs to another file's upload. An upload that was begun here and
    fails for good is given up; one whose outcome is unknown, or that a repeat may finish, stays.
    """
    earlier = _begun_before(session, op_id)
    fresh = earlier is None
    if earlier is None:
        # Only of a new upload: what an earlier call stored is what the path shows by now.
        if if_match is not None or if_none_match is not None:
            _look_first(session, Locator(bucket, path), if_match, if_none_match)
    elif (earlier.bucket, earlier.path) != (bucket, path):
        # Moved since, or of another path: the servers know, and refuse the latter.
        begin(
            session,
            source.name,
            earlier.size,
            earlier.chunk_size,
            bucket=bucket,
            path=path,
            content_type=content_type,
            op_id=op_id,
        )
    upload = Resumable(
        session,
        OneUpload(None if fresh else UploadState(op_id, chunk_size)),
        source,
        bucket,
        path,
        content_type=content_type,
        chunk_size=chunk_size,
        if_match=if_match,
        if_none_match=if_none_match,
        workers=jobs,
        op_id=op_id,
    )
    try:
        return upload.run(progress)
    except BaseException as error:
        if fresh and not (isinstance(error, DfsError) and error.retryable):
            _give_up(session, op_id, once=not isinstance(error, Exception))
        raise


def _begun_before(session: Session, op_id: str) -> UploadStatus | None:
    try:
        return status(session, op_id)
    except errors.NotFound:
        return None


def _look_first(session: Session, locator: Locator, if_match: str | None, if_none_match: str | None) -> None:
    try:
        look(session, locator, if_match=if_match, if_none_match=if_none_match)
    except errors.NotFound:
        if if_match is not None:
            raise errors.ConditionFailed(f"{locator.what}: there is no file to replace") from None


def _give_up(session: Session, file_id: str, *, once: bool) -> None:
    """Say so to the servers; `once`: try one of them once, because whoever interrupts waits for nothing."""
    call = Call("DELETE", target(f"/uploads/{file_id}"), file_id, writes=True)

    def attempt(endpoint: Endpoint) -> None:
        session.send(endpoint, call).close()

    with contextlib.suppress(DfsError):  # what is left is removed after DFS_UPLOAD_TTL
        session.run(attempt, writes=True, may_repeat=lambda: not once)
