"""Uploads that go on after an interruption, and what is remembered of them on disk."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from dfs import errors
from dfs.client.chunkplan import fetch_plan
from dfs.client.chunks import WORKERS, Begun, ChunkSender, begin, finalize, indices, status
from dfs.client.content import conditions
from dfs.client.failures import LocalFailure, VerifyFailed, local_failure, printable
from dfs.client.results import StoredFile, UploadStatus
from dfs.client.session import Session
from dfs.client.source import Progress, Source
from dfs.model import FileState, chunk_length, is_file_id, new_file_id

DEFAULT_CHUNK = 4 << 20
LARGEST_CHUNK = 16 << 20
_MANY_CHUNKS = 65536
_FORGET_SECONDS = 7 * 86400


@dataclass(frozen=True, slots=True)
class UploadState:
    """What is remembered of an upload: under which id it goes on."""

    file_id: str
    chunk_size: int


class UploadStates:
    """Upload states in `directory`, one small file each.

    They are hints: one that is missing, damaged or stale only means beginning again.
    """

    def __init__(self, directory: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._clock = clock

    @staticmethod
    def key(urls: tuple[str, ...], bucket: str, path: str, source: Path) -> str:
        """The name for one source going to one path: another size or time is another source."""
        try:
            real = source.resolve(strict=True)
            found = real.stat()
        except OSError as error:
            raise local_failure("read", source, error) from None
        parts = (sorted(urls), bucket, path, os.fsencode(real).hex(), found.st_size, found.st_mtime_ns)
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:40]

    def load(self, key: str) -> UploadState | None:
        """The state under `key`, None when there is no usable one."""
        try:
            value = json.loads(self._file(key).read_bytes())
            state = UploadState(value["file_id"], value["chunk_size"])
        except (OSError, ValueError, RecursionError, KeyError, TypeError):
            return None
        good = isinstance(state.file_id, str) and is_file_id(state.file_id) and type(state.chunk_size) is int
        return state if good and state.chunk_size > 0 else None

    def save(self, key: str, state: UploadState) -> None:
        """Remember `state`; forgets those of a week ago. Raises LocalFailure."""
        file = self._file(key)
        try:
            self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            temporary = file.with_suffix(f".{os.getpid()}.tmp")
            temporary.write_text(json.dumps(asdict(state)), encoding="utf-8")
            os.replace(temporary, file)
        except OSError as error:
            raise local_failure("remember the upload in", self._directory, error) from None
        self._forget_old()

    def forget(self, key: str) -> None:
        """The upload is done or hopeless."""
        with contextlib.suppress(OSError):  # a stale state does no harm
            self._file(key).unlink()

    def _file(self, key: str) -> Path:
        return self._directory / f"{key}.json"

    def _forget_old(self) -> None:
        limit = self._clock() - _FORGET_SECONDS
        for file in self._directory.iterdir():
            with contextlib.suppress(OSError):  # another process was quicker
                if file.suffix in (".json", ".tmp") and file.stat().st_mtime < limit:
                    file.unlink()


def choose_chunk_size(size: int) -> int:
    """4 MiB, more for files that would have more than 65,536 chunks, at most 16 MiB."""
    chunk = DEFAULT_CHUNK
    while chunk < LARGEST_CHUNK and size > chunk * _MANY_CHUNKS:
        chunk *= 2
    return chunk


class Memory(Protocol):
    """Where it is remembered under which id an upload goes on."""

    def load(self, key: str) -> UploadState | None: ...
    def save(self, key: str, state: UploadState) -> None: ...
    def forget(self, key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Resumable:
    """A file on its way to a path, in chunks, so that an interruption costs no more than a few."""

    session: Session
    states: Memory
    source: Path
    bucket: str
    path: str
    content_type: str | None = None
    chunk_size: int | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    workers: int = WORKERS
    op_id: str | None = None
    """The id of a new upload; chosen here when there is none."""

    def run(self, progress: Progress) -> StoredFile:
        """Begin or go on, until the path shows the file.

        Chunks that an earlier run sent are compared with the source at the end: VerifyFailed when
        it changed without its size and time telling.
        """
        with Source.open(self.source) as source:
            if source.size is None:
                raise LocalFailure(f"{printable(source.name)} cannot be resumed: that needs a file")
            key = UploadStates.key(self.session.urls, self.bucket, self.path, self.source)
            upload, found = self._known(key, source.size) or self._new(key, source)
            missing = found.missing if found else ((0, upload.chunks - 1),) if upload.chunks else ()
            sent_before = source.size - _length(upload, missing)
            sender = ChunkSender(
                self.session, upload, source, progress=progress, already=sent_before, workers=self.workers
            )
            if found is None or found.state == FileState.UPLOADING:
                sender.send(indices(missing))
                source.check_unchanged()
            try:
                stored = finalize(
                    self.session, sender, upload, self.bucket, conditions(self.if_match, self.if_none_match)
                )
            except (errors.NotFound, errors.Gone):
                self.states.forget(key)
                raise
            self.states.forget(key)
            if sent_before:
                self._compare(upload, sender, source)
            return stored

    def _known(self, key: str, size: int) -> tuple[Begun, UploadStatus] | None:
        """The upload that an earlier run began, if the servers still know it."""
        state = self.states.load(key)
        if state is None or self.chunk_size not in (None, state.chunk_size):
            return None
        try:
            found = status(self.session, state.file_id)
        except (errors.NotFound, errors.Gone):
            return None
        usable = found.state in (FileState.UPLOADING, FileState.COMMITTED) and found.size == size
        if not usable or found.chunk_size != state.chunk_size:
            return None
        return Begun(state.file_id, size, state.chunk_size), found

    def _new(self, key: str, source: Source) -> tuple[Begun, None]:
        size = source.size or 0
        state = UploadState(self.op_id or new_file_id(), self.chunk_size or choose_chunk_size(size))
        self.states.save(key, state)
        upload = begin(
            self.session,
            self.source.name,
            size,
            state.chunk_size,
            bucket=self.bucket,
            path=self.path,
            content_type=self.content_type,
            op_id=state.file_id,
        )
        if (upload.file_id, upload.chunk_size) != (state.file_id, state.chunk_size):
            self.states.save(key, UploadState(upload.file_id, upload.chunk_size))
        return upload, None

    def _compare(self, upload: Begun, sender: ChunkSender, source: Source) -> None:
        plan = fetch_plan(self.session, upload.file_id)
        for index in range(upload.chunks):
            digest = sender.digests.get(index)
            if digest is None:
                length = chunk_length(upload.size, upload.chunk_size, index)
                digest = hashlib.sha256(source.read_at(index * upload.chunk_size, length)).digest()
            if digest.hex() != plan.checksum(index):
                raise VerifyFailed(
                    f"{printable(source.name)} changed between the runs of this upload, so what is stored "
                    "mixes old and new content: put it again without --resume"
                )


def _length(upload: Begun, ranges: tuple[tuple[int, int], ...]) -> int:
    return sum(chunk_length(upload.size, upload.chunk_size, index) for index in indices(ranges))
