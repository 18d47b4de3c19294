"""Reading one chunk, every piece verified before it is handed out, or as it lies on the disk."""

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

_WHOLE = 64 * 1024 + 1024
"""Records up to this size are read in one go: a chunk of 64 KiB and its header."""

_HEAD = 1024


class IndexMismatch(Exception):
    """At the place that the index names lies a good record of something else."""


def load_record(file: DiskFile, entry: Entry, volume_id: bytes | None) -> tuple[Record | None, bytearray]:
    """The record at the entry's place and the bytes read for it; None when it is damaged.

    A short record is read whole, of a long one the header. Raises OSError, IndexMismatch.
    """
    wanted = entry.size if entry.size <= _WHOLE else _HEAD
    data = _read(file, wanted, entry.offset)
    record = decode_header(data)
    if record is None:
        size = header_length(data)
        if size is not None and size > len(data):
            data = _read(file, size, entry.offset)
            record = decode_header(data)
    if record is None or record.offset != entry.offset or (volume_id and record.volume_id != volume_id):
        return None, data
    if (
        record.kind != entry.kind
        or record.file_id != entry.file_id
        or record.chunk_index != entry.chunk_index
        or record.sequence != entry.sequence
        or record.sha256 != entry.checksum
    ):
        raise IndexMismatch(f"volume {entry.volume}, offset {entry.offset}")
    return record, data


def _read(file: DiskFile, size: int, offset: int) -> bytearray:
    data = bytearray(size)
    with memoryview(data) as view:
        count = file.read(view, offset)
    if count < size:
        del data[count:]
    return data


class ChunkReader:
    """One chunk, open for reading.

    `length`, `checksum` (SHA-256, hex) and `piece_crcs` are what its record says. Holds its volume
    file, so that compaction does not take it away. Close it.
    """

    __slots__ = (
        "_body", "_corrupt", "_entry", "_file", "_record", "_release", "checksum", "length", "piece_crcs"
    )  # fmt: skip

    def __init__(
        self,
        record: Record,
        data: bytearray,
        entry: Entry,
        file: DiskFile,
        release: Callable[[], None],
        corrupt: Callable[[DiskFile, Entry, str], CorruptChunk],
    ) -> None:
        """`data` begins with the record's header; `corrupt` sets the record aside, reports it, and
        makes the error to raise."""
        self.length = record.length
        self.checksum = entry.checksum.hex()
        self.piece_crcs = record.piece_crcs
        self._record = record
        self._entry = entry
        self._file = file
        self._release: Callable[[], None] | None = release
        self._corrupt = corrupt
        start = record.header_length
        whole = record.length <= PIECE and len(data) >= start + record.length
        self._body = memoryview(data)[start : start + record.length] if whole else None

    @property
    def info(self) -> StoredChunk:
        """What the chunk is."""
        return self._entry.stored(self.piece_crcs)

    @property
    def body(self) -> memoryview | None:
        """All the bytes of a small chunk, which were read along with its record; not verified. None
        for larger ones."""
        return self._body

    def check_body(self) -> None:
        """Verify `body`, if it is there. Raises CorruptChunk."""
        if self._body is not None and self.piece_crcs and zlib.crc32(self._body) != self.piece_crcs[0]:
            raise self.on_corrupt("its bytes do not match their CRC")

    def on_corrupt(self, what: str) -> CorruptChunk:
        """Set the record aside, report it, and make the error to raise."""
        return self._corrupt(self._file, self._entry, what)

    def pieces(self, first: int = 0, last: int | None = None) -> Iterator[memoryview]:
        """Pieces number `first` to `last` (by default all), each verified. A view is good until the
        next one is asked for. Raises CorruptChunk in place of a piece that does not verify, and
        ValueError for numbers that the chunk does not have."""
        count = len(self.piece_crcs)
        last = count - 1 if last is None else last
        if not 0 <= first <= max(0, count - 1) or not last < max(1, count):
            raise ValueError(f"the chunk has {count} pieces")
        return self._verified(range(first, min(last, count - 1) + 1))

    def _verified(self, numbers: range) -> Iterator[memoryview]:
        if self._body is not None:
            self.check_body()
            if numbers:
                yield self._body
            return
        buffer = memoryview(bytearray(min(PIECE, self.length)))
        for number in numbers:
            view = self.fill(buffer, number)
            if zlib.crc32(view) != self.piece_crcs[number]:
                raise self.on_corrupt(f"piece {number} does not match its CRC")
            yield view

    def check_padding(self) -> None:
        """Raise CorruptChunk unless the bytes behind the chunk's, up to the next record, are zero."""
        end = self._record.header_length + self._record.length
        size = self._record.size - end
        if not size:
            return
        try:
            data = _read(self._file, size, self._record.offset + end)
        except OSError as error:
            raise self.on_corrupt(f"the bytes behind it cannot be read: {error.strerror}") from error
        if data != bytes(size):
            raise self.on_corrupt("the bytes behind it are not zero")

    def fill(self, buffer: memoryview, number: int) -> memoryview:
        """The part of `buffer` (at least PIECE bytes, or the chunk's length) that now holds piece
        `number`, not verified. Raises CorruptChunk when it cannot be read."""
        view = buffer[: min(PIECE, self.length - number * PIECE)]
        start = self._record.offset + self._record.header_length + number * PIECE
        try:
            count = self._file.read(view, start)
        except OSError as error:
            raise self.on_corrupt(f"piece {number} cannot be read: {error.strerror}") from error
        if count != len(view):
            raise self.on_corrupt(f"piece {number} is not all there")
        return view

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
