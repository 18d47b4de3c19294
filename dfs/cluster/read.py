"""Reading chunks: verified piece by piece, from whichever replica can serve, without a seam.

A replica serves when its SHA-256 is the one in the rows; then each piece is checked against its CRC
before it is passed on. When a replica fails in the middle, the next goes on with the next piece. A
reader needs the memory of one piece. Small chunks are read whole, and kept for a while.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Callable, Generator

from dfs import errors, logs
from dfs.cluster.calls import PIECE, NodeCalls, NodeFailed, OpenChunk
from dfs.cluster.chunkcache import LARGEST as SMALL
from dfs.cluster.chunkcache import ChunkCache
from dfs.cluster.membership import Membership
from dfs.cluster.piecestream import PieceStream
from dfs.cluster.readahead import ReadAhead
from dfs.cluster.reports import Reports
from dfs.cluster.rows import ChunkRows, RowReader
from dfs.metadata.contract import MetadataStore
from dfs.model import AdminState, FileState, NodeInfo
from dfs.wire.deadline import Deadline
from dfs.wire.scratch import ScratchPool

__all__ = ["ChunkSource", "PieceStream"]

MOST_ROWS_KEPT = 60.0
VERIFY_SECONDS = 60.0
"""For a node to re-read one chunk."""

IDLE_BUFFERS = 32
"""Buffers of one piece that are kept for the next readers of large chunks."""

_ANY_PACE = 86_400.0
"""Seconds for one chunk: how fast it is taken is up to the reader; a node that stalls is noticed."""

_SLOW_READER = 2.0


class BadPiece(errors.CorruptChunk):
    """A piece arrived that does not have the CRC of the record it comes from."""


class ChunkSource:
    """Verified reads. Thread-safe.

    `keep_rows` (s) is how long replica rows may be remembered; less than the time between the
    deletion of a file and the erasure of its bytes. `cache_bytes` is memory for small chunks, kept for
    as long. `on_bad(file_id, chunk_index)` is told, not too often, of chunks with a bad or missing
    replica (`records.mark_short`).
    """

    def __init__(
        self,
        membership: Membership,
        calls: NodeCalls,
        store: MetadataStore,
        *,
        keep_rows: float,
        on_bad: Callable[[str, int], None],
        cache_bytes: int = 0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._membership = membership
        self._calls = calls
        self._store = store
        self._rows = RowReader(store, min(keep_rows, MOST_ROWS_KEPT), clock=clock)
        self._cache = ChunkCache(cache_bytes if keep_rows > 0 else 0, clock=clock)
        self._scratch = ScratchPool(PIECE, IDLE_BUFFERS)
        self._reports = Reports(on_bad, self._verify_copy, clock=clock)
        self._clock = clock

    def close(self) -> None:
        """End background work."""
        self._reports.close()

    def remember(
        self, file_id: str, chunk_index: int, checksum: str, data: bytes | bytearray | memoryview
    ) -> None:
        """Keep a chunk that was just written, once its rows are committed: it is often read soon."""
        self._cache.put(file_id, chunk_index, checksum, data, self._rows.keep_until())

    def stream(
        self,
        file_id: str,
        size: int,
        chunk_size: int,
        first_byte: int = 0,
        last_byte: int | None = None,
        *,
        checksum: str | None = None,
    ) -> PieceStream:
        """Bytes first_byte..last_byte (None: to the end) of a file, over all its chunks.

        `checksum` is the file's SHA-256, where it is known. Raises NotFound when the file is being
        erased, NoReplica naming the chunk that no node can serve, CorruptChunk when its rows contradict
        each other; also from within the stream.
        """
        last_byte = size - 1 if last_byte is None else last_byte
        if 0 < size <= SMALL and size <= chunk_size:
            data = self._small(file_id, 0, size, checksum)
            if last_byte - first_byte + 1 != size:
                data = data[first_byte : last_byte + 1]
            return PieceStream.of(data)
        pieces = self._range(file_id, size, chunk_size, first_byte, last_byte)
        return PieceStream(pieces, last_byte - first_byte + 1)

    def read(
        self,
        file_id: str,
        chunk_index: int,
        first_byte: int = 0,
        last_byte: int | None = None,
        *,
        prefer: str | None = None,
    ) -> PieceStream:
        """Bytes first_byte..last_byte (None: to the end) of one chunk; raises as `stream`, and
        RangeNotSatisfiable.

        `prefer` names the node to ask first; if it has the chunk, one row is all that is looked up. Nobody
        has looked at the file's state, so what is read here is not kept in memory: it could outlive the file.
        """
        cached = self._cache.get(file_id, chunk_index)
        if cached is not None:
            last_byte = _last_of(chunk_index, first_byte, last_byte, len(cached.data))
            return PieceStream.of(cached.data[first_byte : last_byte + 1], cached.checksum)
        rows = self._rows.one(file_id, chunk_index, prefer) if prefer is not None else None
        rows = rows or self._rows.chunk(file_id, chunk_index)
        if rows is None:
            raise self._nowhere(file_id, chunk_index, ())
        last_byte = _last_of(chunk_index, first_byte, last_byte, rows.length)
        if 0 < rows.length <= SMALL:
            data = self._fetch(file_id, chunk_index, rows, prefer)  # not kept: the file may be going
            return PieceStream.of(data[first_byte : last_byte + 1], rows.checksum)
        pieces = self._chunk(file_id, chunk_index, rows, first_byte, last_byte, prefer)
        return PieceStream(pieces, last_byte - first_byte + 1, rows.checksum)

    # --- small chunks, whole ---

    def _small(
        self, file_id: str, chunk_index: int, length: int, checksum: str | None, last: int = 0, begun: bool = False
    ) -> bytes:
        """A chunk of `length` <= SMALL bytes; `last` and `begun` as for `RowReader.chunk`."""
        cached = self._cache.get(file_id, chunk_index)
        if cached is not None and len(cached.data) == length and checksum in (None, cached.checksum):
            return cached.data
        rows = self._described(file_id, chunk_index, length, last, begun)
        data = self._fetch(file_id, chunk_index, rows, None)
        self._cache.put(file_id, chunk_index, rows.checksum, data, rows.until)
        return data

    def _fetch(self, file_id: str, chunk_index: int, rows: ChunkRows, prefer: str | None) -> bytes:
        """The chunk that `rows` describe, from a node."""
        pieces = self._chunk(file_id, chunk_index, rows, 0, rows.length - 1, prefer)
        try:
            data = bytes(next(pieces))
        finally:
            pieces.close()
        return data

    def _described(self, file_id: str, chunk_index: int, length: int, last: int, begun: bool) -> ChunkRows:
        """The rows of a chunk that must have `length` bytes."""
        rows = self._rows.chunk(file_id, chunk_index, last, begun=begun)
        if rows is None:
            raise self._nowhere(file_id, chunk_index, ())
        if rows.length != length:
            raise errors.CorruptChunk(f"chunk {chunk_index} of {file_id} does not have its length")
        return rows

    # --- the bytes ---

    def _range(
        self, file_id: str, size: int, chunk_size: int, first_byte: int, last_byte: int
    ) -> Generator[memoryview, None, None]:
        last_chunk = last_byte // chunk_size
        ahead = ReadAhead(
            self._calls,
            self._rows,
            lambda chunk_index, rows: self._order(file_id, chunk_index, rows, None),
            file_id,
            chunk_size=chunk_size,
            last_byte=last_byte,
            smallest=SMALL + 1,
            pace=_ANY_PACE,
            clock=self._clock,
        )
        first_chunk = first_byte // chunk_size
        try:
            for chunk_index in range(first_chunk, last_chunk + 1):
                begun = chunk_index > first_chunk
                start = chunk_index * chunk_size
                length = min(chunk_size, size - start)
                first = max(first_byte - start, 0)
                last = min(last_byte - start, length - 1)
                if length <= SMALL:
                    data = self._small(file_id, chunk_index, length, None, last_chunk, begun)
                    yield memoryview(data)[first : last + 1]
                else:
                    rows = self._described(file_id, chunk_index, length, last_chunk, begun)
                    yield from self._chunk(file_id, chunk_index, rows, first, last, None, ahead)
        finally:
            ahead.close()

    def _chunk(
        self,
        file_id: str,
        chunk_index: int,
        rows: ChunkRows,
        first: int,
        last: int,
        prefer: str | None,
        ahead: ReadAhead | None = None,
    ) -> Generator[memoryview, None, None]:
        """Bytes first..last of a chunk. Every replica is tried, the rows are read again once, and
        every replica is tried again, before it fails; each piece that got through starts that anew.
        `ahead` asks for the next chunk before the last piece is passed on."""
        number, last_piece = first // PIECE, last // PIECE
        asked = self._order(file_id, chunk_index, rows, prefer)
        failures: dict[str, str] = {}
        reread = False
        scratch = self._scratch.take()
        try:
            while first <= last and number <= last_piece:
                if not asked:
                    if reread:
                        raise self._nowhere(file_id, chunk_index, rows.nodes, failures)
                    reread = True
                    # A node may be back at another address since the registry was last read.
                    self._membership.refresh(max_age=1.0)
                    rows = self._again(file_id, chunk_index, rows)
                    asked = self._order(file_id, chunk_index, rows, None)
                    continue
                node = asked.pop(0)
                reader_was_slow = False
                opened: OpenChunk | None = None
                try:
                    opened = self._open(node, file_id, chunk_index, rows, number, last_piece, ahead)
                    self._membership.report_success(node.node_id)
                    for crc in opened.piece_crcs:
                        start = number * PIECE
                        piece = scratch[: min(PIECE, rows.length - start)]
                        opened.fill(piece)
                        if zlib.crc32(piece) != crc:
                            raise BadPiece(f"piece {number} does not match its checksum")
                        number += 1
                        reread = False
                        if ahead is not None and number > last_piece:
                            ahead.ask(chunk_index + 1)
                        passed = self._clock()
                        yield piece[max(first - start, 0) : last + 1 - start]
                        reader_was_slow = self._clock() - passed > _SLOW_READER
                except errors.DfsError as error:
                    failures[node.node_id] = error.message
                    self._failed(node, file_id, chunk_index, error, reader_was_slow)
                finally:
                    if opened is not None:
                        opened.close()
        finally:
            self._scratch.give_back(scratch)

    def _open(
        self,
        node: NodeInfo,
        file_id: str,
        chunk_index: int,
        rows: ChunkRows,
        first: int,
        last: int,
        ahead: ReadAhead | None,
    ) -> OpenChunk:
        opened = None if ahead is None else ahead.take(node, chunk_index, first, last)
        if opened is None:
            opened = self._calls.open(
                node, file_id, chunk_index, first=first, last=last, deadline=Deadline(_ANY_PACE)
            )
        answered = (opened.checksum, opened.length, len(opened.piece_crcs))
        if answered == (rows.checksum, rows.length, last - first + 1):
            return opened
        opened.close()
        raise errors.CorruptChunk("the node has other bytes than the rows say")

    # --- which node ---

    def _order(
        self, file_id: str, chunk_index: int, rows: ChunkRows, prefer: str | None
    ) -> list[NodeInfo]:
        """The nodes of `rows`: `prefer` if healthy, the healthy, the suspect, those thought dead.
        Where to begin among the healthy differs from chunk to chunk, so that reads spread."""
        view = self._membership.view()
        ranks: list[list[NodeInfo]] = [[], [], [], []]
        for node_id in rows.nodes:
            member = view.get(node_id)
            if member is None or member.info.admin_state == AdminState.DECOMMISSIONED:
                continue
            if member.healthy:
                ranks[0 if node_id == prefer else 1].append(member.info)
            else:
                ranks[2 if member.alive else 3].append(member.info)
        if len(ranks[1]) > 1:
            begin = (zlib.crc32(file_id.encode()) + chunk_index) % len(ranks[1])
            ranks[1] = ranks[1][begin:] + ranks[1][:begin]
        return [node for rank in ranks for node in rank]

    def _again(self, file_id: str, chunk_index: int, before: ChunkRows) -> ChunkRows:
        """The rows as they are now: replicas may have moved, or the file may be going."""
        rows = self._rows.fresh(file_id, chunk_index)
        if rows is None:
            raise self._nowhere(file_id, chunk_index, before.nodes)
        if (rows.checksum, rows.length) != (before.checksum, before.length):
            raise errors.CorruptChunk(f"the rows of chunk {chunk_index} of {file_id} changed to other bytes")
        return rows

    def _failed(
        self, node: NodeInfo, file_id: str, chunk_index: int, error: errors.DfsError, reader_was_slow: bool
    ) -> None:
        if isinstance(error, (NodeFailed, errors.WrongNode)):
            # A node may cut off a reader that took long over the last piece: not the node's fault.
            if not reader_was_slow:
                self._membership.report_failure(node.node_id, error.message)
        elif isinstance(error, (errors.CorruptChunk, errors.NotFound, errors.Gone)):
            look = isinstance(error, BadPiece)
            self._reports.bad_replica(file_id, chunk_index, node.node_id, error, look=look)

    def _verify_copy(self, file_id: str, chunk_index: int, node_id: str) -> None:
        """Have a node look at its copy, which it did not check when it sent it: what is bad on its disk
        is set aside there. Whether it is, is for the node to find out and report."""
        member = self._membership.view().get(node_id)
        if member is not None:
            self._calls.verify(member.info, file_id, chunk_index, deadline=Deadline(VERIFY_SECONDS))

    def _nowhere(
        self, file_id: str, chunk_index: int, nodes: tuple[str, ...], failures: dict[str, str] | None = None
    ) -> errors.DfsError:
        """Why a chunk cannot be read: its file is gone, or no node can serve it."""
        self._rows.forget(file_id, chunk_index)
        self._cache.forget(file_id, chunk_index)
        record = self._store.get_file(file_id)
        if record is None or record.state == FileState.DELETING:
            return errors.NotFound(f"there is no file {file_id}")
        why = "; ".join(f"{node}: {reason}" for node, reason in (failures or {}).items())
        logs.warning("chunk.unreadable", file_id=file_id, chunk_index=chunk_index, nodes=",".join(nodes), why=why)
        where = f"; it should be on {', '.join(nodes)}" if nodes else ""
        return errors.NoReplica(f"chunk {chunk_index} of {file_id} has no replica that can be read{where}")


def _last_of(chunk_index: int, first_byte: int, last_byte: int | None, length: int) -> int:
    """The last byte of a range of a chunk that has `length` bytes. Raises RangeNotSatisfiable."""
    last_byte = length - 1 if last_byte is None else last_byte
    if not 0 <= first_byte <= last_byte + 1 <= length:
        raise errors.RangeNotSatisfiable(f"chunk {chunk_index} has {length} bytes")
    return last_byte
