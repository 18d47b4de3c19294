"""Typed node calls of background work: repair, drain, audit (PROTOCOL.md, "Node calls").

They are longer than those on the way of a client's request: a node that copies or re-reads a chunk says
nothing meanwhile, so the caller's deadline alone bounds them. Every call is safe to repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from dfs import errors
from dfs.cluster.calls import NodeCalls
from dfs.cluster.nodeanswers import InventoryPage, NodeFailed, Verified, number, said_of_one, text
from dfs.model import NodeInfo, is_file_id
from dfs.wire.deadline import Deadline

MAX_VERIFY = 256
"""Most chunks of one call of `verify_many`."""

FENCE_HEADER = "X-Dfs-Fence"


@dataclass(frozen=True, slots=True)
class Fence:
    """By which lease the caller works. A node refuses (Fenced) what comes under a lower (generation,
    number) than the highest it has seen of that name."""

    name: str
    generation: int
    number: int

    def header(self) -> tuple[str, str]:
        """As it is sent."""
        return FENCE_HEADER, f"{self.name} {self.generation} {self.number}"


@dataclass(frozen=True, slots=True)
class BadChunk:
    """A chunk that a node knows to be bad on its disk: found when (ms), and what was wrong."""

    file_id: str
    chunk_index: int
    found_at: int
    why: str


@dataclass(frozen=True, slots=True)
class BadPage:
    """Part of a node's bad chunks, in the order of (file_id, chunk_index); `next` is the `after` of the
    following page, None at the end."""

    chunks: tuple[BadChunk, ...]
    next: tuple[str, int] | None


Turn = Callable[[NodeInfo, NodeInfo, Deadline], AbstractContextManager[None]]


class UpkeepCalls:
    """The calls. Thread-safe. Raise what `NodeCalls` raise: the node's own answer as the DfsError it
    stands for, NodeFailed, Busy; and Fenced where a fence is given."""

    def __init__(self, calls: NodeCalls, turn: Turn = lambda target, source, deadline: nullcontext()) -> None:
        """`turn` is had, between a target and a source, for as long as a pull takes; it may wait and raise."""
        self._calls = calls
        self._turn = turn

    def pull(
        self,
        target: NodeInfo,
        source: NodeInfo,
        file_id: str,
        chunk_index: int,
        *,
        checksum: str,
        length: int,
        chunk_size: int,
        file_size: int | None,
        fence: Fence | None,
        deadline: Deadline,
    ) -> None:
        """Have `target` fetch a chunk from `source`, verified on arrival; durable on it when this returns.

        Raises NoReplica when the source is at fault; ChunkConflict, Gone, NodeFull, StoreReadOnly of
        the target."""
        with self._turn(target, source, deadline):
            answer = self._calls.ask(
                target,
                "POST",
                _at("/pull-chunk", file_id, chunk_index),
                deadline=deadline,
                headers=_fenced(fence),
                json_body={
                    "node_id": source.node_id,
                    "address": source.address,
                    "port": source.port,
                    "checksum": checksum,
                    "length": length,
                    "chunk_size": chunk_size,
                    "file_size": file_size,
                },
                patient=True,
            )
        said = (answer.get("node_id"), answer.get("checksum"), answer.get("length"))
        if said != (target.node_id, checksum, length):
            raise NodeFailed(target.node_id, "it acknowledged something else than it was to pull", sent=True)

    def drop(
        self, node: NodeInfo, file_id: str, chunk_index: int, *, fence: Fence | None, deadline: Deadline
    ) -> bool:
        """Remove one replica; False when the node had none. It may be stored there again."""
        answer = self._calls.ask(
            node, "POST", _at("/drop-replica", file_id, chunk_index), deadline=deadline, headers=_fenced(fence)
        )
        return answer.get("dropped") is True

    def set_aside(
        self, node: NodeInfo, file_id: str, chunk_index: int, *, fence: Fence | None, deadline: Deadline
    ) -> bool:
        """Have the node keep a copy of the record in its `set-aside/` and then drop the replica; False when
        it had none."""
        answer = self._calls.ask(
            node,
            "POST",
            _at("/set-aside-chunk", file_id, chunk_index),
            deadline=deadline,
            headers=_fenced(fence),
            patient=True,
        )
        return answer.get("set_aside") is True

    def verify(self, node: NodeInfo, file_id: str, chunk_index: int, *, deadline: Deadline) -> Verified:
        """Have the node re-read a chunk from its disk, not from memory. Raises NotFound, Gone, CorruptChunk."""
        answer = self._calls.ask(
            node, "POST", _at("/verify-chunk", file_id, chunk_index), deadline=deadline, patient=True
        )
        return Verified(text(node, answer, "checksum"), number(node, answer, "length"))

    def verify_many(
        self, node: NodeInfo, keys: Sequence[tuple[str, int]], *, deadline: Deadline
    ) -> list[Verified | errors.DfsError]:
        """What `verify` says of each of `keys` (at most MAX_VERIFY), in their order.

        A node reads for a limited time and calls the rest busy: those are asked for again until the
        deadline, as long as each answer brings some. What is left then stays Busy."""
        if len(keys) > MAX_VERIFY:
            raise ValueError(f"at most {MAX_VERIFY} chunks at once")
        found: list[Verified | errors.DfsError] = [errors.Busy("not asked for")] * len(keys)
        left = list(range(len(keys)))
        while left:
            for place, said in zip(left, self._verify(node, [keys[place] for place in left], deadline), strict=True):
                found[place] = said
            busy = [place for place in left if isinstance(found[place], errors.Busy)]
            if len(busy) == len(left) or deadline.expired():
                break
            left = busy
        return found

    def _verify(
        self, node: NodeInfo, keys: Sequence[tuple[str, int]], deadline: Deadline
    ) -> list[Verified | errors.DfsError]:
        body = {"chunks": [list(key) for key in keys]}
        answer = self._calls.ask(node, "POST", "/verify-chunks", deadline=deadline, json_body=body, patient=True)
        chunks = answer.get("chunks")
        if not isinstance(chunks, list) or len(chunks) != len(keys):
            raise NodeFailed(node.node_id, "it answers for another number of chunks", sent=True)
        return [_verdict(node, chunk) for chunk in chunks]

    def bad_chunks(
        self, node: NodeInfo, *, after: tuple[str, int] | None, limit: int, deadline: Deadline
    ) -> BadPage:
        """Chunks that are bad on the node's disk now (at most `limit` <= 10,000), in order of their keys."""
        query: dict[str, Any] = {"limit": limit}
        if after is not None:
            query |= {"after_file": after[0], "after_index": after[1]}
        answer = self._calls.ask(node, "GET", "/bad-chunks?" + urlencode(query), deadline=deadline)
        try:
            chunks = tuple(
                BadChunk(str(bad["file_id"]), int(bad["chunk_index"]), int(bad["found_at"]), str(bad["why"]))
                for bad in answer["chunks"]
            )
            following = answer["next"]
            if following is None:
                return BadPage(chunks, None)
            return BadPage(chunks, (str(following["file_id"]), int(following["chunk_index"])))
        except (KeyError, TypeError, ValueError) as error:
            raise NodeFailed(node.node_id, f"its bad chunks cannot be read: {error!r}", sent=True) from error

    def inventory(self, node: NodeInfo, after: int, limit: int, *, deadline: Deadline) -> InventoryPage:
        """Chunks that the node holds with sequence numbers > `after`, at most `limit` (<= 10,000)."""
        return self._calls.inventory(node, after, limit, deadline=deadline)

    def look(self, node: NodeInfo, *, deadline: Deadline) -> str:
        """Have the node look at its row in the registry now, and learn what operators want of it; the
        administrative state that it knows then."""
        return text(node, self._calls.ask(node, "POST", "/look", deadline=deadline), "admin_state")

    def scrub(self, node: NodeInfo, *, mbps: int | None, deadline: Deadline) -> dict[str, Any]:
        """Have the node begin to re-read everything now, at `mbps` megabytes a second (None: its
        DFS_SCRUB_MBPS); what it says of its scrubber."""
        target = "/scrub" if mbps is None else f"/scrub?mbps={mbps}"
        return self._calls.ask(node, "POST", target, deadline=deadline)


def _at(path: str, file_id: str, chunk_index: int) -> str:
    if not is_file_id(file_id):
        raise ValueError(f"{file_id!r} is no file id")
    return f"{path}?file_id={file_id}&chunk_index={chunk_index}"


def _fenced(fence: Fence | None) -> list[tuple[str, str]]:
    return [] if fence is None else [fence.header()]


def _verdict(node: NodeInfo, said: object) -> Verified | errors.DfsError:
    if isinstance(said, Mapping):
        if "error" in said:
            return said_of_one(node, said["error"])
        return Verified(text(node, said, "checksum"), number(node, said, "length"))
    raise NodeFailed(node.node_id, "its answer about a chunk cannot be read", sent=True)
