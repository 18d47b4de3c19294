"""The library: `Client`, every call of dfs as a method."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dfs.client import seed
from dfs.client.catalog import Catalog
from dfs.client.chunkput import FROM as CHUNKED_FROM
from dfs.client.chunkput import put_in_chunks
from dfs.client.chunks import WORKERS
from dfs.client.content import Download, Locator, conditions, look, verifier_for
from dfs.client.endpoint import parse_endpoints
from dfs.client.failures import LocalFailure
from dfs.client.fetch import fetch, fetch_on
from dfs.client.localfile import Sink, StreamSink, open_sink
from dfs.client.partfile import PartFile
from dfs.client.put import guess_type, put
from dfs.client.results import StoredFile, Uploaded
from dfs.client.resume import Resumable, UploadStates, choose_chunk_size
from dfs.client.retry import RetryPolicy
from dfs.client.session import RetryHook, Session
from dfs.client.source import Progress, Source, no_progress
from dfs.client.transport import Transport
from dfs.model import DEFAULT_BUCKET, check_bucket, check_path, new_file_id, parse_file_id
from dfs.wire.client import HttpClient

MOST_JOBS = 64
"""Most connections of one transfer."""

SourceLike = str | os.PathLike[str] | bytes | BinaryIO
OutLike = str | os.PathLike[str] | BinaryIO


class Client(Catalog):
    """A dfs client: thread-safe, with pooled connections; close it, or use it in a `with`.

    `api` is a URL or several, comma-separated, tried in turn. `timeout` (seconds) bounds a short
    call, and how long a transfer may stand still. `jobs` is over how many connections `get` fetches a
    large file, and chunks are sent and fetched. Every method repeats what failed for a passing
    reason (`retry`) under one operation id, so that a repeat never does a thing twice; what it
    raises in the end is a `dfs.errors.DfsError`. ETags are given and returned without quotes.
    """

    def __init__(
        self,
        api: str = "http://localhost:8080",
        *,
        bucket: str = DEFAULT_BUCKET,
        timeout: float = 60.0,
        jobs: int = WORKERS,
        retry: RetryPolicy | None = None,
        on_retry: RetryHook | None = None,
        transport: Transport | None = None,
    ) -> None:
        session = Session(
            parse_endpoints(api),
            transport or HttpClient(user_agent="dfs-client"),
            timeout=timeout,
            policy=retry,
            on_retry=on_retry,
        )
        super().__init__(session, check_bucket(bucket))
        self._jobs = check_jobs(jobs)

    def close(self) -> None:
        """Drop the connections; calls that wait to try again end."""
        self._session.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    # Files

    def put(
        self,
        source: SourceLike,
        path: str,
        *,
        bucket: str | None = None,
        content_type: str | None = None,
        chunk_size: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        sha256: str | None = None,
        op_id: str | None = None,
        jobs: int = 1,
        progress: Progress = no_progress,
    ) -> StoredFile:
        """Store `source` (a path, bytes or a binary file object) at `path`.

        When it returns the file is durable and has been compared by SHA-256 with what was read.
        `if_none_match="*"` creates only, `if_match=ETAG` replaces only that file: ConditionFailed.
        `op_id` (a UUID4) becomes the file id; repeating with the same one never stores twice. A
        source that cannot be read again (a pipe) is not repeated once some of it was read. Without
        `content_type` it is guessed from the path. With `jobs` over 1 a large file on disk goes up in
        chunks over so many connections; then each chunk has a SHA-256, and the whole has none.
        """
        check_jobs(jobs)
        with Source.open(source) as body:
            in_chunks = jobs > 1 and sha256 is None and (body.size or 0) >= CHUNKED_FROM
            if in_chunks and isinstance(source, (str, os.PathLike)):
                return put_in_chunks(
                    self._session,
                    Path(source),
                    self._bucket_of(bucket),
                    check_path(path),
                    content_type=content_type or guess_type(path),
                    chunk_size=chunk_size or choose_chunk_size(body.size or 0),
                    if_match=if_match,
                    if_none_match=if_none_match,
                    op_id=parse_file_id(op_id) if op_id else new_file_id(),
                    jobs=jobs,
                    progress=progress,
                )
            return put(
                self._session,
                body,
                self._bucket_of(bucket),
                check_path(path),
                content_type=content_type or guess_type(path),
                chunk_size=chunk_size,
                preconditions=conditions(if_match, if_none_match),
                sha256=sha256,
                op_id=parse_file_id(op_id) if op_id else new_file_id(),
                progress=progress,
            )

    def put_resumable(
        self,
        source: str | os.PathLike[str],
        path: str,
        *,
        state_dir: str | os.PathLike[str],
        bucket: str | None = None,
        content_type: str | None = None,
        chunk_size: int | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        progress: Progress = no_progress,
    ) -> StoredFile:
        """`put` for a file on disk, in chunks, going on where an earlier call was interrupted.

        What is needed for that is kept in `state_dir` until the path shows the file.
        """
        return Resumable(
            self._session,
            UploadStates(Path(state_dir)),
            Path(source),
            self._bucket_of(bucket),
            check_path(path),
            content_type=content_type or guess_type(path),
            chunk_size=chunk_size,
            if_match=if_match,
            if_none_match=if_none_match,
            workers=self._jobs,
        ).run(progress)

    def get(
        self,
        path: str | None = None,
        out: OutLike | None = None,
        *,
        file_id: str | None = None,
        bucket: str | None = None,
        if_match: str | None = None,
        if_none_match: str | None = None,
        replace: bool = True,
        resume: bool = False,
        progress: Progress = no_progress,
    ) -> StoredFile:
        """The file at `path`, or with `file_id`, into `out`: a path or a binary file object.

        A path appears whole, verified and durable, or stays as it was; a large file comes over several
        connections, spread over the servers. `replace` False refuses an
        existing one. `resume` keeps an interrupted download in `OUT.part` and goes on with it. A
        file object gets the bytes as they come, and an exception when they turn out wrong.
        """
        if out is None:
            raise TypeError("get() needs `out`; iter_content() gives the content itself")
        locator = self._locator(path, file_id, bucket)
        sink: Sink
        if not isinstance(out, (str, os.PathLike)):
            sink = StreamSink(out, str(getattr(out, "name", "the stream given")))
        elif resume:
            part = PartFile(Path(out), replace=replace)
            return fetch_on(self._session, locator, part, if_match=if_match, progress=progress, jobs=self._jobs)
        else:
            sink = open_sink(Path(out), replace=replace)
        return fetch(
            self._session,
            locator,
            sink,
            if_match=if_match,
            if_none_match=if_none_match,
            progress=progress,
            jobs=self._jobs,
        )

    def iter_content(
        self,
        path: str | None = None,
        *,
        file_id: str | None = None,
        bucket: str | None = None,
        if_match: str | None = None,
    ) -> Iterator[bytes]:
        """The content in pieces of at most 256 KiB.

        Only when the iterator ends without an exception was it all there and verified.
        """
        locator = self._locator(path, file_id, bucket)
        download = Download(self._session, locator, if_match=if_match)
        try:
            info = download.open()
            verifier = verifier_for(self._session, locator, info)
            for piece in download.pieces():
                verifier.feed(piece)
                yield piece
            verifier.finish()
        finally:
            download.close()

    def read(
        self, path: str | None = None, *, file_id: str | None = None, bucket: str | None = None, limit: int = 64 << 20
    ) -> bytes:
        """The content of a small file, verified; LocalFailure when it is longer than `limit`."""
        data = bytearray()
        for piece in self.iter_content(path, file_id=file_id, bucket=bucket):
            data += piece
            if len(data) > limit:
                raise LocalFailure(f"the file is longer than {limit} bytes: use get() or iter_content()")
        return bytes(data)

    def stat(self, path: str | None = None, *, file_id: str | None = None, bucket: str | None = None) -> StoredFile:
        """What is known of a file, without its content. Raises NotFound."""
        return look(self._session, self._locator(path, file_id, bucket))

    # The seed protocol

    def upload(
        self,
        source: SourceLike,
        *,
        filename: str | None = None,
        chunk_size: int | None = None,
        progress: Progress = no_progress,
    ) -> Uploaded:
        """Store `source` by the seed protocol, each chunk with its checksum; it gets no path but its id.

        Without `chunk_size` the servers' default counts (1 KiB). The source must be seekable.
        """
        with Source.open(source) as body:
            return seed.upload(self._session, body, filename, chunk_size, self._jobs, progress)

    def download(self, file_id: str, out: str | os.PathLike[str], *, progress: Progress = no_progress) -> int:
        """Fetch a file by the seed protocol into the path `out`, whole and verified, or not at all.

        Returns its size.
        """
        return seed.download(self._session, parse_file_id(file_id), Path(out), self._jobs, progress)

    def _locator(self, path: str | None, file_id: str | None, bucket: str | None) -> Locator:
        if (path is None) == (file_id is None):
            raise TypeError("give either a path or a file_id")
        where = self._bucket_of(bucket)
        if file_id is not None:
            return Locator(where, file_id=parse_file_id(file_id))
        return Locator(where, path=check_path(path or ""))


def check_jobs(jobs: int) -> int:
    """`jobs`, if it is a number of connections to have; raises ValueError."""
    if not 1 <= jobs <= MOST_JOBS:
        raise ValueError(f"jobs must be 1 to {MOST_JOBS}, not {jobs}")
    return jobs
