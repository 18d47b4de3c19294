"""The seed protocol as a client uses it: a file is sent and fetched chunk by chunk, and known by its id."""

from __future__ import annotations

import os
from pathlib import Path

from dfs.client.chunkplan import fetch_plan
from dfs.client.chunks import ChunkFetcher, ChunkSender, begin, finalize
from dfs.client.failures import LocalFailure
from dfs.client.localfile import AtomicFile, open_sink
from dfs.client.results import Uploaded
from dfs.client.session import Session
from dfs.client.source import Progress, Source
from dfs.model import UPLOADS_BUCKET


def upload(
    session: Session, body: Source, filename: str | None, chunk_size: int | None, jobs: int, progress: Progress
) -> Uploaded:
    """Store `body` over `jobs` connections, each chunk with its checksum. Raises LocalFailure for a
    source of unknown size, or one that changed under way."""
    if body.size is None:
        raise LocalFailure(f"{body.name} cannot be sent in chunks: that needs a file")
    agreed = begin(session, filename or os.path.basename(body.name), body.size, chunk_size)
    sender = ChunkSender(session, agreed, body, progress=progress, workers=jobs)
    sender.send(range(agreed.chunks))
    body.check_unchanged()
    finalize(session, sender, agreed, UPLOADS_BUCKET)
    return Uploaded(agreed.file_id, agreed.size, agreed.chunk_size, agreed.chunks)


def download(session: Session, file_id: str, out: Path, jobs: int, progress: Progress) -> int:
    """Fetch the file into `out` over `jobs` connections, whole and verified, or not at all; its size.

    Raises LocalFailure when `out` is not a regular file."""
    plan = fetch_plan(session, file_id)
    file = open_sink(out)
    try:
        if not isinstance(file, AtomicFile):
            raise LocalFailure(f"{out} is not a regular file: chunks arrive in any order")
        size = ChunkFetcher(session, plan, file, progress, jobs).fetch()
        file.commit()
        return size
    finally:
        file.abort()
