"""Uploads and downloads in separate chunks: the seed protocol."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

from dfs import errors
from dfs.client.chunkplan import Plan, node_of
from dfs.client.endpoint import Endpoint
from dfs.client.failures import DamagedOnTheWay, LocalFailure
from dfs.client.jsonstream import ArrayReader
from dfs.client.localfile import AtomicFile
from dfs.client.parallel import run_parallel
from dfs.client.results import StoredFile, UploadStatus, members, need, stored_file, upload_status
from dfs.client.session import Call, Session
from dfs.client.source import Progress, Source, no_progress
from dfs.client.transport import target
from dfs.client.verify import DIGEST
from dfs.model import chunk_count, chunk_length

WORKERS = 4
"""Chunks on their way at once."""

_JSON = (("Content-Type", "application/json"),)
_LARGEST_CHUNK = 64 << 20
_DAMAGED_TRIES = 4
_FINALIZE_TRIES = 3


@dataclass(frozen=True, slots=True)
class Begun:
    """An upload that a server has agreed to. `nodes` are its hints, one a chunk, or none at all."""

    file_id: str
    size: int
    chunk_size: int
    nodes: tuple[str, ...] = ()

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return chunk_count(self.size, self.chunk_size)


def begin(session: Session, filename: str, size: int, chunk_size: int | None, **optional: str | None) -> Begun:
    """Announce an upload; `optional` are our servers' own members (bucket, path, op_id, …)."""
    request: dict[str, Any] = {"filename": filename, "size": size}
    if chunk_size is not None:
        request["chunk_size"] = chunk_size
    request |= {name: value for name, value in optional.items() if value is not None}
    call = Call("POST", "/init-upload", filename, headers=_JSON, body=_body(request), writes=True)

    def attempt(endpoint: Endpoint) -> Begun:
        answer = session.send(endpoint, call)
        nodes: list[str] = []
        try:
            reader = ArrayReader(answer.read, "upload_targets")
            for item in reader:
                fields = members(item, "an upload target")
                if need(fields, "chunk_index", int) != len(nodes):
                    raise LocalFailure("the server's upload targets are not in order: nothing was sent")
                nodes.append(node_of(need(fields, "url", str)))
        finally:
            answer.close()
        file_id, length = need(reader.others, "file_id", str), need(reader.others, "chunk_size", int)
        if length < 1 or chunk_count(size, length) != len(nodes):
            raise LocalFailure("the server's upload targets do not cover the file: nothing was sent")
        return Begun(file_id, size, length, tuple(nodes))

    return session.run(attempt, writes=True)


class ChunkSender:
    """Sends chunks of one source, a few at a time. Memory: a chunk for each of the workers."""

    def __init__(
        self,
        session: Session,
        upload: Begun,
        source: Source,
        *,
        progress: Progress = no_progress,
        already: int = 0,
        workers: int = WORKERS,
    ) -> None:
        self._session = session
        self._upload = upload
        self._source = source
        self._progress = progress
        self._done = already
        self._lock = threading.Lock()
        self._workers = workers
        self.digests: dict[int, bytes] = {}

    def send(self, indices: Iterable[int]) -> None:
        """Store these chunks; when it returns every one is durable on its nodes."""
        self._progress(self._done, self._upload.size)
        run_parallel(indices, self._send_one, self._workers)

    def _send_one(self, index: int) -> None:
        upload = self._upload
        length = chunk_length(upload.size, upload.chunk_size, index)
        data = self._source.read_at(index * upload.chunk_size, length)
        digest = hashlib.sha256(data).digest()
        node = upload.nodes[index] if upload.nodes else ""
        call = Call(
            "PUT",
            target("/proxy-chunk-upload", file_id=upload.file_id, chunk_index=index, node_id=node or None),
            f"{self._source.name}, chunk {index}",
            headers=(("X-Chunk-Checksum", digest.hex()),),
            body=data,
            writes=True,
            streams=True,
        )

        def attempt(endpoint: Endpoint) -> None:
            answer = self._session.send(endpoint, call)
            while answer.read(1 << 16):
                pass
            answer.close()

        self._session.run(attempt, writes=True, streams=True)
        with self._lock:
            self.digests[index] = digest
            self._done += length
            self._progress(self._done, upload.size)


def finalize(
    session: Session, sender: ChunkSender, upload: Begun, bucket: str, conditions: Sequence[tuple[str, str]] = ()
) -> StoredFile:
    """Make the upload visible. Chunks that the servers miss meanwhile are sent again."""
    call = Call(
        "POST",
        "/finalize-upload",
        upload.file_id,
        headers=(*_JSON, *conditions),
        body=_body({"file_id": upload.file_id}),
        writes=True,
    )
    for _ in range(_FINALIZE_TRIES - 1):
        try:
            return stored_file(session.json(call), bucket)
        except errors.Incomplete:
            sender.send(indices(status(session, upload.file_id).missing))
    return stored_file(session.json(call), bucket)


def status(session: Session, file_id: str) -> UploadStatus:
    """How far an upload has come; raises NotFound, Gone."""
    return upload_status(session.json(Call("GET", target(f"/uploads/{file_id}"), file_id)))


def indices(ranges: Iterable[tuple[int, int]]) -> Iterator[int]:
    """The numbers that `ranges` (first and last included) hold."""
    return chain.from_iterable(range(first, last + 1) for first, last in ranges)


class ChunkFetcher:
    """Fetches the chunks of a plan into a file, each verified before it is written.

    The seed protocol does not tell the chunk size: it is the length of chunk 0.
    """

    def __init__(self, session: Session, plan: Plan, out: AtomicFile, progress: Progress, workers: int = WORKERS) -> None:
        self._session = session
        self._plan = plan
        self._out = out
        self._progress = progress
        self._workers = workers
        self._lock = threading.Lock()
        self._chunk_size = 0
        self._done = 0

    def fetch(self) -> int:
        """All chunks; returns the file's size. Raises VerifyFailed, NoReplica."""
        count = len(self._plan.nodes)
        if count:
            first = self._chunk(0)
            self._chunk_size = len(first)
            self._write(0, first)
            run_parallel(range(1, count), self._fetch_one, self._workers)
        return self._done

    def _fetch_one(self, index: int) -> None:
        data = self._chunk(index)
        last = index == len(self._plan.nodes) - 1
        if not data or len(data) > self._chunk_size or (len(data) < self._chunk_size and not last):
            raise LocalFailure(f"{self._plan.file_id}: chunk {index} has a length that does not fit the others")
        self._write(index, data)

    def _write(self, index: int, data: bytes) -> None:
        self._out.write_at(data, index * self._chunk_size)
        with self._lock:
            self._done += len(data)
            self._progress(self._done, None)

    def _chunk(self, index: int) -> bytes:
        plan = self._plan
        call = Call(
            "GET",
            target(
                "/proxy-chunk-download", file_id=plan.file_id, chunk_index=index, node_id=plan.nodes[index] or None
            ),
            f"{plan.file_id}, chunk {index}",
            streams=True,
        )
        expected = plan.digests[index * DIGEST : (index + 1) * DIGEST]
        damaged = 0

        def attempt(endpoint: Endpoint) -> bytes:
            nonlocal damaged
            answer = self._session.send(endpoint, call)
            try:
                data = _read_chunk(answer.read)
            finally:
                answer.close()
            if hashlib.sha256(data).digest() != expected:
                damaged += 1
                raise DamagedOnTheWay(f"{plan.file_id}: chunk {index} does not verify")
            return data

        return self._session.run(
            attempt, writes=False, streams=True, may_repeat=lambda: damaged < _DAMAGED_TRIES
        )


def _read_chunk(read: Any) -> bytes:
    data = bytearray()
    while piece := read(256 << 10):
        data += piece
        if len(data) > _LARGEST_CHUNK:
            raise LocalFailure("the server's chunk is larger than any chunk can be")
    return bytes(data)


def _body(value: dict[str, Any]) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise errors.BadPath("a name must be valid UTF-8") from None
