"""What nodes answer: values made of their answers, and the errors that other answers stand for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dfs import errors
from dfs.model import NodeInfo
from dfs.wire.client import ClientResponse, TransportError

_ERROR_BYTES = 64 * 1024


class NodeFailed(errors.Unavailable):
    """The node gave no usable answer. With `sent` False nothing reached it; else the call may have
    been carried out."""

    def __init__(self, node_id: str, reason: str, *, sent: bool) -> None:
        super().__init__(f"node {node_id} gave no answer: {reason}")
        self.node_id = node_id
        self.reason = reason
        self.sent = sent


@dataclass(frozen=True, slots=True)
class Verified:
    """What a node found when it re-read a chunk."""

    checksum: str
    length: int


@dataclass(frozen=True, slots=True)
class InventoryEntry:
    """One chunk that a node holds."""

    sequence: int
    file_id: str
    chunk_index: int
    length: int
    checksum: str
    created: int


@dataclass(frozen=True, slots=True)
class InventoryPage:
    """Part of a node's inventory; `next` is the `after` of the following page, None at the end."""

    chunks: tuple[InventoryEntry, ...]
    next: int | None


class OpenChunk:
    """The answer to `NodeCalls.open`: facts about the chunk, then its pieces `first`..`last` in order.

    `piece_crcs` has one CRC-32 for each piece asked for. Close it when done.
    """

    def __init__(
        self, node_id: str, checksum: str, length: int, piece_crcs: tuple[int, ...], answer: ClientResponse
    ) -> None:
        self.node_id = node_id
        self.checksum = checksum
        self.length = length
        self.piece_crcs = piece_crcs
        self._answer = answer

    def fill(self, view: memoryview) -> None:
        """Read exactly len(view) bytes; raises NodeFailed."""
        filled = 0
        try:
            while filled < len(view):
                count = self._answer.readinto(view[filled:])
                if count == 0:
                    raise NodeFailed(self.node_id, "the chunk's bytes ended early", sent=True)
                filled += count
        except TransportError as error:
            raise NodeFailed(self.node_id, str(error), sent=True) from error

    def close(self) -> None:
        """Give the connection back when everything was read, else close it."""
        self._answer.close()


def read_up_to(answer: ClientResponse, limit: int) -> bytes:
    """The whole body; raises ValueError when it is longer than `limit`, TransportError."""
    parts: list[bytes] = []
    size = 0
    while part := answer.read(64 * 1024):
        parts.append(part)
        size += len(part)
        if size > limit:
            raise ValueError("too long")
    return b"".join(parts)


def refusal(node: NodeInfo, answer: ClientResponse) -> errors.DfsError:
    """The error that a non-2xx answer stands for. What does not look like an answer of ours comes
    from something else that listens on the node's old address: the node has failed."""
    try:
        payload = json.loads(read_up_to(answer, _ERROR_BYTES))
        code = payload["error"]["code"]
    except (TransportError, ValueError, KeyError, TypeError):
        return NodeFailed(node.node_id, f"it answered {answer.status} without saying why", sent=True)
    finally:
        answer.close()
    if not isinstance(code, str) or code not in errors.BY_CODE:
        return NodeFailed(node.node_id, f"it answered {answer.status} with an unknown error", sent=True)
    return errors.from_answer(answer.status, payload)


def opened(node: NodeInfo, answer: ClientResponse) -> OpenChunk:
    """The chunk that the answer describes, its bytes not read yet; raises NodeFailed."""
    checksum = (answer.headers.get("X-Chunk-Checksum") or "").lower()
    crcs = answer.headers.get("X-Dfs-Piece-Crcs") or ""
    try:
        length = int(answer.headers.get("X-Dfs-Chunk-Length") or "")
        found = tuple(int(crcs[at : at + 8], 16) for at in range(0, len(crcs), 8))
    except ValueError as error:
        raise NodeFailed(node.node_id, "its answer does not describe the chunk", sent=True) from error
    if answer.headers.get("X-Dfs-Node") != node.node_id or len(crcs) % 8:
        raise NodeFailed(node.node_id, "its answer does not describe the chunk", sent=True)
    return OpenChunk(node.node_id, checksum, length, found, answer)


def text(node: NodeInfo, answer: Mapping[str, Any], name: str) -> str:
    """The string `name` of a JSON answer; raises NodeFailed."""
    value = answer.get(name)
    if not isinstance(value, str):
        raise NodeFailed(node.node_id, f"its answer lacks {name}", sent=True)
    return value


def number(node: NodeInfo, answer: Mapping[str, Any], name: str) -> int:
    """The whole number `name` of a JSON answer; raises NodeFailed."""
    value = answer.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise NodeFailed(node.node_id, f"its answer lacks {name}", sent=True)
    return value
