"""Typed calls to storage nodes (PROTOCOL.md, "Node calls").

Every call names the node and the cluster it is meant for; a process that is not that node refuses
it (421). Every call is safe to repeat. Errors are of three kinds: the node's own answer as the
`DfsError` it stands for, `NodeFailed` when there was no usable answer, and `Busy` when too many
calls already wait on the node.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from dfs import errors
from dfs.chunkbatch import NewChunk, encode_batch
from dfs.cluster.nodeanswers import (
    InventoryPage,
    NodeFailed,
    OpenChunk,
    Verified,
    inventory_page,
    number,
    opened,
    read_up_to,
    refusal,
    stored_many,
    text,
)
from dfs.cluster.slots import Slot, Slots
from dfs.model import NodeInfo
from dfs.wire.client import BegunRequest, ClientResponse, ConnectFailed, TransportError
from dfs.wire.deadline import Deadline

__all__ = ["InventoryPage", "NodeCalls", "NodeFailed", "OpenChunk", "Verified"]

PIECE = 256 * 1024
"""Bytes of a chunk that share one CRC; the unit of partial reads."""

CALLS_PER_NODE = 32
"""Most calls of one process that wait on one node; a hung node must not eat every thread."""

MAX_ERASE = 1000
MAX_NOTES = 1000
"""Most file ids, or notes, of one call."""

_JSON_BYTES = 16 * 1024 * 1024
_PROBE_SECONDS = 1.5
_BINARY = (("Content-Type", "application/octet-stream"),)
_JSON = (("Content-Type", "application/json"),)


class Transport(Protocol):
    """What is used of `wire.client.HttpClient`; tests put a fake in its place."""

    def request(
        self,
        host: str,
        port: int,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | memoryview | None = None,
        length: int | None = None,
        deadline: Deadline,
        stall: float,
        repeatable: bool = False,
    ) -> ClientResponse:
        """See HttpClient.request."""

    def begin(
        self,
        host: str,
        port: int,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        deadline: Deadline,
        stall: float,
    ) -> BegunRequest | None:
        """See HttpClient.begin."""


class NodeCalls:
    """The calls. Thread-safe. `stall` (s) is how long a node may make no progress at all."""

    def __init__(self, http: Transport, cluster_id: str, stall: float, *, waiting: int = CALLS_PER_NODE) -> None:
        self._http = http
        self._cluster_id = cluster_id
        self._stall = stall
        self._waiting = waiting
        self._slots: dict[str, Slots] = {}

    # --- calls ---

    def store(
        self,
        node: NodeInfo,
        file_id: str,
        chunk_index: int,
        data: bytes | memoryview,
        *,
        checksum: str,
        chunk_size: int,
        file_size: int | None,
        replica_type: str,
        deadline: Deadline,
        piece_crcs: Sequence[int] = (),
    ) -> None:
        """Store a chunk; durable on the node's disk when this returns. With `piece_crcs`, one for
        each PIECE of it, the node checks by these what it receives and takes `checksum` as it is.

        Raises ChecksumMismatch, ChunkConflict, Gone, NodeFull, StoreReadOnly, WrongNode, NodeFailed,
        Busy and whatever else the node answers. `data` is not used after this ends.
        """
        headers = [("X-Chunk-Checksum", checksum), ("X-Dfs-Chunk-Size", str(chunk_size))]
        if file_size is not None:
            headers.append(("X-Dfs-File-Size", str(file_size)))
        if piece_crcs:
            headers.append(("X-Dfs-Piece-Crcs", "".join([f"{crc:08x}" for crc in piece_crcs])))
        with self._slot(node, deadline):
            answer = self._json(
                node,
                "PUT",
                f"/store-chunk?file_id={file_id}&chunk_index={chunk_index}&replica_type={replica_type}",
                deadline,
                headers=headers,
                body=data,
            )
        said = (answer.get("node_id"), answer.get("checksum"), answer.get("length"))
        if said != (node.node_id, checksum, len(data)):
            raise NodeFailed(node.node_id, "it acknowledged something else than was sent", sent=True)

    def store_many(
        self, node: NodeInfo, chunks: Sequence[NewChunk], *, deadline: Deadline
    ) -> list[errors.DfsError | None]:
        """Store chunks of any files (within the bounds of a batch). For each what `store` would have
        raised, or None: durable on the node's disk.

        Raises WrongNode, NodeFull, StoreReadOnly, NodeFailed, Busy and whatever else the node answers
        to the call as a whole, and ValueError for chunks that no batch can hold.
        """
        body = encode_batch(chunks)
        with self._slot(node, deadline):
            answer = self._json(node, "POST", "/store-chunks", deadline, headers=_BINARY, body=body)
        return stored_many(node, answer, len(chunks))

    def open(
        self, node: NodeInfo, file_id: str, chunk_index: int, *, first: int, last: int, deadline: Deadline
    ) -> OpenChunk:
        """Begin to read pieces `first`..`last` of a chunk. The node does not check the bytes it sends:
        the caller compares every piece with its CRC.

        Raises NotFound, Gone, CorruptChunk, WrongNode, NodeFailed, Busy. The caller's place among
        the node's waiters is given up when the head of the answer is there: how fast the body is
        taken depends on the reader, and slow readers must not keep others from the node.
        """
        with self._slot(node, deadline):
            target, headers = _get_chunk(file_id, chunk_index, first, last)
            answer = self._send(node, "GET", target, deadline, headers=headers)
        return _opened(node, answer)

    def begin_open(
        self, node: NodeInfo, file_id: str, chunk_index: int, *, first: int, last: int, deadline: Deadline
    ) -> BegunOpen | None:
        """As `open`, without waiting for the answer. None when no connection to the node is idle. Takes
        no place among the node's waiters until somebody waits."""
        target, headers = _get_chunk(file_id, chunk_index, first, last)
        begun = self._http.begin(
            node.address,
            node.port,
            target,
            headers=self._named(node, headers),
            deadline=deadline,
            stall=self._stall,
        )
        if begun is None:
            return None

        def wait() -> OpenChunk:
            with self._slot(node, deadline):
                answer = self._answered(node, begun.answer)
            return _opened(node, answer)

        return BegunOpen(begun, wait)

    def verify(self, node: NodeInfo, file_id: str, chunk_index: int, *, deadline: Deadline) -> Verified:
        """Have the node re-read a chunk from its disk. Raises NotFound, Gone, CorruptChunk, NodeFailed."""
        with self._slot(node, deadline):
            answer = self._json(
                node, "POST", f"/verify-chunk?file_id={file_id}&chunk_index={chunk_index}", deadline
            )
        return Verified(text(node, answer, "checksum"), number(node, answer, "length"))

    def erase(self, node: NodeInfo, file_ids: Sequence[str], *, deadline: Deadline) -> None:
        """Erase everything of these files (at most MAX_ERASE) for ever; durable when this returns."""
        with self._slot(node, deadline):
            answer = self._json(node, "POST", "/erase-files", deadline, json_body={"file_ids": list(file_ids)})
        number(node, answer, "erased")

    def drop(self, node: NodeInfo, file_id: str, chunk_index: int, *, deadline: Deadline) -> bool:
        """Remove one replica; False when the node had none. It may be stored there again."""
        with self._slot(node, deadline):
            answer = self._json(
                node, "POST", f"/drop-replica?file_id={file_id}&chunk_index={chunk_index}", deadline
            )
        return answer.get("dropped") is True

    def notes(self, node: NodeInfo, notes: Sequence[bytes], *, deadline: Deadline) -> None:
        """Leave notes (at most MAX_NOTES, each a JSON object in UTF-8) on the node's disk; durable when
        this returns."""
        body = b'{"notes":[' + b",".join(notes) + b"]}"
        with self._slot(node, deadline):
            answer = self._json(node, "POST", "/notes", deadline, headers=_JSON, body=body)
        number(node, answer, "stored")

    def inventory(self, node: NodeInfo, after: int, limit: int, *, deadline: Deadline) -> InventoryPage:
        """Chunks that the node holds with sequence numbers > `after`, at most `limit` (<= 10,000)."""
        with self._slot(node, deadline):
            answer = self._json(node, "GET", f"/inventory?after={after}&limit={limit}", deadline)
        return inventory_page(node, answer)

    def healthz(self, node: NodeInfo, *, deadline: Deadline) -> dict[str, Any]:
        """What the node says of itself."""
        return self._json(node, "GET", "/healthz", deadline)

    def probe(self, node: NodeInfo) -> bool:
        """Whether that very node, of this cluster, answers within a second and a half."""
        try:
            said = self.healthz(node, deadline=Deadline(_PROBE_SECONDS))
        except errors.DfsError:
            return False
        return said.get("node_id") == node.node_id and said.get("cluster_id") == self._cluster_id

    def ask(
        self,
        node: NodeInfo,
        method: str,
        target: str,
        *,
        deadline: Deadline,
        headers: Sequence[tuple[str, str]] = (),
        json_body: Mapping[str, Any] | None = None,
        patient: bool = False,
    ) -> dict[str, Any]:
        """The JSON answer to a call that has no name here. `patient`: the node may be silent until the
        deadline, as one is that reads or copies much before it answers."""
        with self._slot(node, deadline):
            return self._json(
                node,
                method,
                target,
                deadline,
                headers=headers,
                json_body=json_body,
                stall=deadline.remaining() if patient else None,
            )

    # --- plumbing ---

    def _slot(self, node: NodeInfo, deadline: Deadline) -> Slot:
        slots = self._slots.get(node.node_id)
        if slots is None:
            slots = self._slots.setdefault(node.node_id, Slots(node.node_id, self._waiting))
        return Slot(slots, deadline, self._stall)

    def _json(
        self,
        node: NodeInfo,
        method: str,
        target: str,
        deadline: Deadline,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | memoryview | None = None,
        json_body: Mapping[str, Any] | None = None,
        stall: float | None = None,
    ) -> dict[str, Any]:
        if json_body is not None:
            body = json.dumps(json_body, ensure_ascii=False, separators=(",", ":")).encode()
            headers = [*headers, *_JSON]
        answer = self._send(node, method, target, deadline, headers=headers, body=body, stall=stall)
        try:
            parsed = json.loads(read_up_to(answer, _JSON_BYTES))
        except TransportError as error:
            raise NodeFailed(node.node_id, str(error), sent=True) from error
        except ValueError as error:
            raise NodeFailed(node.node_id, "its answer is not JSON", sent=True) from error
        finally:
            answer.close()
        if not isinstance(parsed, dict):
            raise NodeFailed(node.node_id, "its answer is not a JSON object", sent=True)
        return parsed

    def _send(
        self,
        node: NodeInfo,
        method: str,
        target: str,
        deadline: Deadline,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: bytes | memoryview | None = None,
        stall: float | None = None,
    ) -> ClientResponse:
        """The answer's head when its status is 2xx; else raises the error it stands for."""
        return self._answered(
            node,
            lambda: self._http.request(
                node.address,
                node.port,
                method,
                target,
                headers=self._named(node, headers),
                body=body,
                length=None if body is None else len(body),
                deadline=deadline,
                stall=self._stall if stall is None else max(stall, self._stall),
                repeatable=True,
            ),
        )

    def _named(self, node: NodeInfo, headers: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
        return [("X-Dfs-Node", node.node_id), ("X-Dfs-Cluster", self._cluster_id), *headers]

    @staticmethod
    def _answered(node: NodeInfo, ask: Callable[[], ClientResponse]) -> ClientResponse:
        try:
            answer = ask()
        except ConnectFailed as error:
            raise NodeFailed(node.node_id, str(error), sent=False) from error
        except TransportError as error:
            raise NodeFailed(node.node_id, str(error), sent=True) from error
        if 200 <= answer.status < 300:
            return answer
        raise refusal(node, answer)


class BegunOpen:
    """A chunk that was asked for. Wait for it, once, or close it."""

    __slots__ = ("_begun", "_wait")

    def __init__(self, begun: BegunRequest, wait: Callable[[], OpenChunk]) -> None:
        self._begun = begun
        self._wait = wait

    def opened(self) -> OpenChunk:
        """The chunk; raises like `NodeCalls.open`."""
        return self._wait()

    def close(self) -> None:
        """Give it up, unless it was waited for."""
        self._begun.close()


def _get_chunk(file_id: str, chunk_index: int, first: int, last: int) -> tuple[str, list[tuple[str, str]]]:
    headers = [("X-Dfs-Pieces", f"{first}-{last}"), ("X-Dfs-Verify", "caller")]
    return f"/get-chunk?file_id={file_id}&chunk_index={chunk_index}", headers


def _opened(node: NodeInfo, answer: ClientResponse) -> OpenChunk:
    try:
        return opened(node, answer)
    except BaseException:
        answer.close()
        raise
