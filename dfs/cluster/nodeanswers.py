"""What nodes answer: values made of their answers, and the errors that other answers stand for."""

from __future__ import annotations

import json
import struct
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
    """One chunk that a node holds. `verified` is when its bytes were last read back and found good (ms), None:
    not since the node's index was made."""

    sequence: int
    file_id: str
    chunk_index: int
    length: int
    checksum: str
    created: int
    verified: int | None = None


@dataclass(frozen=True, slots=True)
class InventoryPage:
    """Part of a node's inventory; `next` is the `after` of the following page, None at the end."""

    chunks: tuple[InventoryEntry, ...]
    next: int | None


class OpenChunk:
    """The answer to `NodeCalls.open`: facts about the chunk, then its pieces `first`..`last` in order.

    `piece_crcs` has one CRC-32 for each piece asked for. Close it when done.
    """

    __slots__ = ("_answer", "checksum", "length", "node_id", "piece_crcs")

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
        try:
            filled = self._answer.readfully(view)
        except TransportError as error:
            raise NodeFailed(self.node_id, str(error), sent=True) from error
        if filled < len(view):
            raise NodeFailed(self.node_id, "the chunk's bytes ended early", sent=True)

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


def stored_many(node: NodeInfo, answer: Mapping[str, Any], count: int) -> list[errors.DfsError | None]:
    """What became of each chunk of a batch of `count`, by the node's answer; raises NodeFailed."""
    outcomes: list[errors.DfsError | None] = [None] * count
    refused = answer.get("errors")
    if answer.get("node_id") != node.node_id or not isinstance(refused, dict):
        raise NodeFailed(node.node_id, "its answer is not one to a batch", sent=True)
    try:
        for place, said in refused.items():
            if not place.isdigit():
                raise ValueError(f"{place!r} is no place in a batch")
            status, code = int(said["status"]), said["error"]["code"]
            known = isinstance(code, str) and code in errors.BY_CODE
            outcomes[int(place)] = (
                errors.from_answer(status, said)
                if known
                else NodeFailed(node.node_id, f"it answered {status} with an unknown error", sent=True)
            )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise NodeFailed(node.node_id, f"its answer to a batch cannot be read: {error!r}", sent=True) from error
    if number(node, answer, "stored") != outcomes.count(None):
        raise NodeFailed(node.node_id, "it acknowledged another number of chunks than were sent", sent=True)
    return outcomes


def inventory_page(node: NodeInfo, answer: Mapping[str, Any]) -> InventoryPage:
    """The page that the answer to /inventory is; raises NodeFailed."""
    try:
        chunks = tuple(
            InventoryEntry(
                sequence=int(entry["sequence"]),
                file_id=str(entry["file_id"]),
                chunk_index=int(entry["chunk_index"]),
                length=int(entry["length"]),
                checksum=str(entry["checksum"]),
                created=int(entry["created"]),
                verified=None if entry.get("verified") is None else int(entry["verified"]),
            )
            for entry in answer["chunks"]
        )
        following = answer["next"]
        return InventoryPage(chunks, None if following is None else int(following))
    except (KeyError, TypeError, ValueError) as error:
        raise NodeFailed(node.node_id, f"its inventory cannot be read: {error!r}", sent=True) from error


def said_of_one(node: NodeInfo, said: object) -> errors.DfsError:
    """The error that an answer about many chunks holds for one: `{"status", "code", "message"}`.

    Raises NodeFailed when it is none of ours."""
    if isinstance(said, Mapping):
        status, code = said.get("status"), said.get("code")
        if isinstance(status, int) and isinstance(code, str) and code in errors.BY_CODE:
            return errors.from_answer(status, {"error": dict(said)})
    raise NodeFailed(node.node_id, "it answered with an unknown error about a chunk", sent=True)


def opened(node: NodeInfo, answer: ClientResponse) -> OpenChunk:
    """The chunk that the answer describes, its bytes not read yet; raises NodeFailed."""
    said = {name.lower(): value for name, value in answer.headers}
    try:
        checksum = said.get("x-chunk-checksum", "").lower()
        length = int(said["x-dfs-chunk-length"])
        crcs = bytes.fromhex(said["x-dfs-piece-crcs"])
        found = struct.unpack(f">{len(crcs) // 4}I", crcs)
        if said["x-dfs-node"] == node.node_id:
            return OpenChunk(node.node_id, checksum, length, found, answer)
    except (KeyError, ValueError, struct.error) as error:
        raise NodeFailed(node.node_id, "its answer does not describe the chunk", sent=True) from error
    raise NodeFailed(node.node_id, "its answer comes from another node", sent=True)


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
