"""Reading one chunk, every piece verified before it is handed out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from types import TracebackType

from dfs import logs
from dfs.errors import CorruptChunk
from dfs.store.chunk import PIECE, StoredChunk
from dfs.store.disk import DiskFile
from dfs.store.entry import Entry
from dfs.store.record import Record, decode_header, header_length

_WHOLE = 64 * 1024
_HEAD = 1024


class IndexMismatch(Exception):
    """At the place that the index names lies a good record of something else."""


def load_record(file: DiskFile, entry: Entry, volume_id: bytes | None) -> tuple[Record | None, bytearray]:
    """The record at the entry's place and the bytes read for it; None when it is damaged.

    A short record is read whole, of a long one the header. Raises OSError, IndexMismatch.
    """
    wanted = entry.size if entry.size <= _WHOLE else _HEAD
    data = _read(file, wanted, entry.offset)
    size = header_length(data)
    if size is not None and size > len(data):
        data = _read(file, size, entry.offset)
    record = decode_header(data)
    if record is None or record.offset != entry.offset or (volume_id and record.volume_id != volume_id):
        return None, data
    found = (int(record.kind), record.file_id, record.chunk_index, record.sequence)
    if (
        found != (entry.kind, entry.file_id, entry.chunk_index, entry.sequence)
        or record.sha256 != entry.checksum
    ):
        raise IndexMismatch(f"volume {entry.volume}, offset {entry.offset}")
    return record, data


def _read(file: DiskFile, size: int, offset: int) -> bytearray:
    data = bytearray(size)
    with memoryview(data) as view:
        count = file.read(view, offset)
    del data[count:]
    return data


class ChunkReader:
    """One chunk, open for reading; `info` says what it is, with the CRC of every piece.

    Holds its volume file, so that compaction does not take it away. Close it.
    """

    def __init__(
        self,
        record: Record,
        data: bytearray,
        info: StoredChunk,
        file: DiskFile,
        release: Callable[[], None],
        on_corrupt: Callable[[str], CorruptChunk],
    ) -> None:
        self.info = info
        self._record = record
        self._file = file
        self._release: Callable[[], None] | None = release
        self.on_corrupt = on_corrupt
        """Sets the record aside, reports it, and makes the error to raise."""
        start = record.header_length
        whole = record.length <= PIECE and len(data) >= start + record.length
        self._body = memoryview(data)[start : start + record.length] if whole else None
        if self._body is not None and record.piece_crcs and zlib.crc32(self._body) != record.piece_crcs[0]:
            raise self.on_corrupt("its bytes do not match their CRC")

    def pieces(self, first: int = 0, last: int | None = None) -> Iterator[memoryview]:
        """Pieces number `first` to `last` (by default all), each verified. A view is good until the
        next one is asked for. Raises CorruptChunk in place of a piece that does not verify, and
        ValueError for numbers that the chunk does not have."""
        count = len(self._record.piece_crcs)
        last = count - 1 if last is None else last
        if not 0 <= first <= max(0, count - 1) or not last < max(1, count):
            raise ValueError(f"the chunk has {count} pieces")
        return self._iterate(range(first, min(last, count - 1) + 1))

    def _iterate(self, numbers: range) -> Iterator[memoryview]:
        if self._body is not None:
            if numbers:
                yield self._body
            return
        buffer = memoryview(bytearray(min(PIECE, self._record.length)))
        start = self._record.offset + self._record.header_length
        for number in numbers:
            view = buffer[: min(PIECE, self._record.length - number * PIECE)]
            try:
                count = self._file.read(view, start + number * PIECE)
            except OSError as error:
                raise self.on_corrupt(f"piece {number} cannot be read: {error.strerror}") from error
            if count != len(view) or zlib.crc32(view) != self._record.piece_crcs[number]:
                raise self.on_corrupt(f"piece {number} does not match its CRC")
            yield view

    def forget_cached(self) -> None:
        """Have the next reads come from the disk rather than the page cache."""
        self._body = None
        try:
            self._file.forget_cached(self._record.offset, self._record.size)
        except OSError as error:  # it is advice only: the bytes are verified wherever they come from
            logs.warning("store.not_uncached", error=error)

    def close(self) -> None:
        """Let go of the volume file. Harmless when repeated."""
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> ChunkReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
