"""Asking for the next chunk of a file while the end of this one is still being passed on.

Nothing but the request is done ahead: the answer waits in the socket's buffers, so that no memory is
needed for it here. It is only ever a head start: if the connection was lost, or the next chunk is to
come from another node after all, the chunk is asked for as ever.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from dfs.cluster.calls import PIECE, BegunOpen, NodeCalls, NodeFailed, OpenChunk
from dfs.cluster.rows import ChunkRows, RowReader
from dfs.model import NodeInfo
from dfs.wire.client import PeerTimeout
from dfs.wire.deadline import Deadline

FRESH_SECONDS = 2.0
"""After this time the answer is not used: a node cuts off those who do not take what it sends."""


class ReadAhead:
    """At most one request ahead, for one reader of one file. Close it when done."""

    def __init__(
        self,
        calls: NodeCalls,
        rows: RowReader,
        order: Callable[[int, ChunkRows], Sequence[NodeInfo]],
        file_id: str,
        *,
        chunk_size: int,
        last_byte: int,
        smallest: int,
        pace: float,
        clock: Callable[[], float],
    ) -> None:
        """`order` tells which nodes a chunk is asked from; chunks of less than `smallest` bytes are not
        asked for ahead. A chunk may take `pace` seconds."""
        self._calls = calls
        self._rows = rows
        self._order = order
        self._file_id = file_id
        self._chunk_size = chunk_size
        self._last_byte = last_byte
        self._smallest = smallest
        self._pace = pace
        self._clock = clock
        self._begun: BegunOpen | None = None
        self._what: tuple[str, int, int, int] | None = None
        self._at = 0.0

    def ask(self, chunk_index: int) -> None:
        """Ask for the wanted part of chunk `chunk_index`, if it has one and its rows are known. Does not
        wait, nor raise."""
        last = min(self._last_byte - chunk_index * self._chunk_size, self._chunk_size - 1)
        rows = self._rows.known(self._file_id, chunk_index) if last >= 0 else None
        if rows is None or rows.length < self._smallest:
            return
        nodes = self._order(chunk_index, rows)
        if not nodes:
            return
        node, last_piece = nodes[0], min(last, rows.length - 1) // PIECE
        self.close()
        self._begun = self._calls.begin_open(
            node, self._file_id, chunk_index, first=0, last=last_piece, deadline=Deadline(self._pace)
        )
        self._what = (node.node_id, chunk_index, 0, last_piece)
        self._at = self._clock()

    def take(self, node: NodeInfo, chunk_index: int, first: int, last: int) -> OpenChunk | None:
        """The chunk that was asked for, if it is this one. None when it is not, or when the connection was
        lost: idle ones often are. Raises like `NodeCalls.open` otherwise."""
        begun, self._begun = self._begun, None
        if begun is None:
            return None
        if self._what == (node.node_id, chunk_index, first, last) and self._clock() - self._at <= FRESH_SECONDS:
            try:
                return begun.opened()
            except NodeFailed as error:
                if isinstance(error.__cause__, PeerTimeout):
                    raise  # to wait as long again would help nobody
                return None
            finally:
                begun.close()  # nobody waited for it when the node had no place for one more
        begun.close()
        return None

    def close(self) -> None:
        """Give up what was asked for and not taken."""
        begun, self._begun = self._begun, None
        if begun is not None:
            begun.close()
