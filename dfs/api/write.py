"""Storing one file's content: receive a chunk, hash it, replicate it, while the next one comes in.

Memory: a chunk's whole buffer is reserved before its first byte is read (see `inflow`).

Visibility: a file of one chunk has no record before its commit; a longer one has an `uploading`
record from before its first chunk on. Whatever goes wrong, the record (made for the purpose if
needed) leads the eraser to the bytes: see `give_up`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

from dfs import logs
from dfs.api.inflow import Inflow
from dfs.api.intake import Hash, Intake, take_in
from dfs.api.rows import add_rows
from dfs.api.service import Service
from dfs.api.tally import count_copies
from dfs.cluster.chunkcache import LARGEST
from dfs.cluster.replicate import Written, may_hold
from dfs.errors import (
    Busy,
    ChecksumMismatch,
    ChunkConflict,
    ConditionFailed,
    DfsError,
    Gone,
    Incomplete,
    LengthMismatch,
    PayloadTooLarge,
    TooManyChunks,
    Unknown,
)
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.operations import (
    Committed,
    Precondition,
    begin_upload,
    commit_file,
    discard_upload,
    touch_upload,
)
from dfs.metadata.steps import PutShort
from dfs.model import ChunkReplica, FileRecord
from dfs.wire.body import Body
from dfs.wire.buffers import Buffer

TOUCH_EVERY_MS = 600_000
ROWS_AT_ONCE = 500

_REFUSED = (
    ChecksumMismatch,
    ChunkConflict,
    ConditionFailed,
    Incomplete,
    LengthMismatch,
    PayloadTooLarge,
    TooManyChunks,
)
"""Refusals that the same request would meet again: nobody will come back for what was stored."""


@dataclass(frozen=True, slots=True)
class Content:
    """What was received and is durable on the nodes."""

    size: int
    sha256: str
    chunk_count: int
    fewest_copies: int


class FileWriter:
    """One file on its way in. Use as a context manager: leaving it, by whatever way, no buffer and
    no running call is left behind, and what is not committed is given up.

    `record` is what the file is to be (its size, checksum and chunk count are learnt from the
    body). `begun`: an earlier attempt of the same operation has made the record. `resumable`: the
    client chose the operation id and may come back with it.
    """

    def __init__(
        self, service: Service, record: FileRecord, *, length: int | None, begun: bool, resumable: bool
    ) -> None:
        self._service = service
        self._record = record
        self._length = length
        self._begun = begun
        self._retried = begun
        self._resumable = resumable
        self._stored = False
        self._touched = record.touched_at
        size = record.chunk_size if length is None else max(1, min(record.chunk_size, length))
        self._inflow = Inflow(service.buffers, size, self._take)
        self._rows: list[ChunkReplica] = []
        self._short: list[PutShort] = []
        self._late: list[Callable[[], None]] = []
        self._fewest: int | None = None
        self._whole: bytes | None = None
        self.first_nodes: tuple[str, ...] | None = None
        """The nodes that hold chunk 0, once they do: they get the notes about the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._inflow.close()
        if error is not None:
            self.give_up(error)

    # --- receiving ---------------------------------------------------------------------------

    def receive(self, body: Body) -> Content:
        """Store everything in `body`; when this returns it is durable, and not yet visible."""
        chunk_size = self._record.chunk_size
        file_hash: Hash = hashlib.sha256()
        total = index = 0
        while True:
            buffer = self._inflow.buffer()
            try:
                room = chunk_size if self._length is None else min(chunk_size, self._length - total)
                taken = take_in(body, buffer.view[:room], file_hash if index else None)
                length = taken.length
                if length:
                    self._check_count(index)
            except BaseException:
                buffer.release()
                raise
            if index == 0:
                file_hash = taken.sha256.copy()
            total += length
            ended = length < chunk_size or total == self._length
            if length or index == 0:
                self._send(index, buffer, taken, alone=ended and index == 0)
                index += 1
            else:
                self._inflow.give_back(buffer)
            if ended:
                break
        self._inflow.finish()
        return Content(total, file_hash.hexdigest(), index if total else 0, self._fewest or 0)

    def _check_count(self, index: int) -> None:
        most = self._service.settings.max_chunks_per_file
        if index >= most:
            raise TooManyChunks(
                f"the file has more than {most} chunks of {self._record.chunk_size} bytes; "
                "send X-Chunk-Size with a larger one"
            )

    def _send(self, index: int, buffer: Buffer, taken: Intake, *, alone: bool) -> None:
        data = buffer.view[: taken.length]
        if alone:
            # Nothing else is coming in meanwhile: done in this thread.
            self._inflow.give_back(buffer)
            self._stored = True
            if taken.length <= LARGEST:
                self._whole = bytes(data)
            try:
                written = self._replicate(index, data if self._whole is None else self._whole, taken)
            except DfsError as error:
                self._stored = bool(may_hold(error))
                raise
            self._take(written)
            return
        try:
            self._begin_or_touch()
            self._stored = True
            future = self._service.chunk_calls.submit(self._replicate, index, data, taken)
        except BaseException:
            buffer.release()
            raise
        self._inflow.start(buffer, future)

    def _replicate(self, index: int, data: bytes | memoryview, taken: Intake) -> Written:
        return self._service.replicator.write(
            self._record.file_id,
            index,
            data,
            checksum=taken.sha256.hexdigest(),
            chunk_size=self._record.chunk_size,
            file_size=self._length,
            now_ms=self._service.now(),
            piece_crcs=taken.piece_crcs,
        )

    def _take(self, written: Written) -> None:
        self._rows.extend(written.replicas)
        if written.short:
            self._short.append(
                PutShort(self._record.file_id, written.replicas[0].chunk_index, self._service.now())
            )
        if written.pending is not None:
            self._late.append(written.pending)
        if written.replicas[0].chunk_index == 0:
            self.first_nodes = tuple(row.node_id for row in written.replicas)
        copies = len(written.replicas)
        self._fewest = copies if self._fewest is None else min(self._fewest, copies)
        if self._begun and len(self._rows) >= ROWS_AT_ONCE:
            self._flush_rows()

    def _flush_rows(self) -> None:
        if self._rows:
            add_rows(self._service.store, self._record.file_id, self._rows, self._short)
            self._rows, self._short = [], []
            self._follow()

    def _follow(self) -> None:
        """The rows are recorded: replicas still on their way may follow."""
        late, self._late = self._late, []
        for go_on in late:
            go_on()

    def _begin_or_touch(self) -> None:
        now = self._service.now()
        if not self._begun:
            self._record = begin_upload(self._service.store, self._record)
            self._begun = True
            self._touched = now
            if self._record.version:
                raise Busy(f"another attempt of upload {self._record.file_id} has just finished it; repeat to be told")
        elif now - self._touched >= TOUCH_EVERY_MS:
            self._record = touch_upload(self._service.store, self._record, now)
            self._touched = now

    # --- commit, or not ------------------------------------------------------------------------

    def commit(self, content: Content, condition: Precondition) -> Committed:
        """Make the file visible at its path: all of it, at once. Raises ConditionFailed, Unknown, …"""
        final = replace(
            self._record, size=content.size, sha256=content.sha256, chunk_count=content.chunk_count
        )
        store = self._service.store
        if not self._begun:
            committed = commit_file(
                store, final, condition, self._service.now(), replicas=self._rows, short=self._short
            )
            if self._whole and self._rows:
                self._service.source.remember(final.file_id, 0, self._rows[0].checksum, self._whole)
            self._follow()
            return committed
        self._flush_rows()
        if self._retried:
            self._check_rows(final)
        return commit_file(store, final, condition, self._service.now())

    def _check_rows(self, final: FileRecord) -> None:
        """An earlier attempt under this id has stored chunks too: they must be of the same bytes."""
        rows = self._service.store.replicas(final.file_id)
        tally = count_copies(rows, final.size, final.chunk_size, final.chunk_count)
        tally.check(self._service.required_copies)

    def give_up(self, error: BaseException) -> None:
        """Leave nothing that is never cleared away. Does not raise.

        A file that nobody will finish becomes `deleting`; one whose client may repeat the request
        under its own operation id stays `uploading`, until it is finished or DFS_UPLOAD_TTL is
        over. After an unknown commit nothing is touched: it may have happened.
        """
        if isinstance(error, (Unknown, Gone)) or not (self._stored or self._begun):
            return
        store, now = self._service.store, self._service.now()
        try:
            if isinstance(error, _REFUSED):
                discard_upload(store, self._record, now, reason=error.message)
            elif not self._resumable:
                discard_upload(store, self._record, now)
            elif not self._begun:
                begin_upload(store, self._record)
        except (DfsError, OutcomeUnknown) as failure:
            logs.warning("upload.not_given_up", file_id=self._record.file_id, cause=error, error=failure)
