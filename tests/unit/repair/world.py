"""A cluster of dicts for the mender: nodes, metadata and faults, all in one thread unless told.

`World.hook(call, after)` is called around every call of the store and of a node: before it, and after it was
carried out. Whatever it raises takes the place of the call or of its answer.
"""

from __future__ import annotations

import hashlib
import random
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from dfs import errors
from dfs.cluster.calls import NodeFailed
from dfs.cluster.membership import Membership
from dfs.cluster.nodeanswers import Verified
from dfs.cluster.placement import Placement
from dfs.cluster.upkeep import Fence
from dfs.metadata.contract import OutcomeUnknown, StepsRefused
from dfs.metadata.steps import (
    ChangeFile,
    CheckFile,
    CheckReplica,
    PutShort,
    RemoveReplica,
    RemoveShort,
    Step,
    check_steps,
)
from dfs.model import AdminState, ChunkReplica, FileRecord, FileState, NodeInfo
from dfs.repair.mend import Mender
from dfs.repair.pace import Pace
from tests.unit.cluster.fakes import CLUSTER, Clock, Inline, Registry, info, sha

Key = tuple[str, int]
KEPT = frozenset({FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED})
WRITES = ("transact", "add_replicas")


class Crash(BaseException):
    """The process under test dies here."""


@dataclass(frozen=True)
class Call:
    """`node` is empty for the store; `other` is the source of a pull."""

    name: str
    node: str = ""
    other: str = ""

    def fail(self, *, done: bool) -> errors.DfsError:
        """What the caller sees when the call, or only its answer, is lost."""
        if self.node:
            return NodeFailed(self.node, "reset", sent=done)
        return OutcomeUnknown("lost") if done and self.name in WRITES else errors.Unavailable("metadata away")


@dataclass
class Node:
    """A node's disk. `sums` is what its records say; a copy is good when its bytes have it."""

    node_id: str
    up: bool = True
    full: bool = False
    chunks: dict[Key, bytes] = field(default_factory=dict)
    sums: dict[Key, str] = field(default_factory=dict)
    erased: set[str] = field(default_factory=set)
    kept_aside: list[bytes] = field(default_factory=list)
    fences: dict[str, tuple[int, int]] = field(default_factory=dict)
    unreachable: set[str] = field(default_factory=set)

    def keep(self, key: Key, data: bytes) -> None:
        if key[0] in self.erased:
            raise errors.Gone("erased")
        if self.sums.get(key, sha(data)) != sha(data):
            raise errors.ChunkConflict("other bytes")
        self.chunks[key] = data
        self.sums[key] = sha(data)

    def lose(self, key: Key) -> bool:
        self.sums.pop(key, None)
        return self.chunks.pop(key, None) is not None

    def good(self, key: Key, checksum: str) -> bool:
        data = self.chunks.get(key)
        return data is not None and sha(data) == self.sums[key] == checksum

    def verify(self, key: Key) -> Verified:
        if key[0] in self.erased:
            raise errors.Gone("erased")
        data = self.chunks.get(key)
        if data is None:
            raise errors.NotFound("no such chunk")
        if sha(data) != self.sums[key]:
            raise errors.CorruptChunk("bad")
        return Verified(self.sums[key], len(data))

    def obey(self, fence: Fence | None) -> None:
        if fence is not None:
            mine = (fence.generation, fence.number)
            if mine < self.fences.get(fence.name, mine):
                raise errors.Fenced("an older lease")
            self.fences[fence.name] = mine


class Calls:
    """`UpkeepCalls` over the nodes of a world."""

    def __init__(self, world: World) -> None:
        self._world = world

    def _do(self, call: Call, act: Callable[[Node], Any]) -> Any:
        self._world.hook(call, False)
        node = self._world.nodes[call.node]
        if not node.up:
            raise NodeFailed(call.node, "refused", sent=False)
        answer = act(node)
        self._world.hook(call, True)
        if not node.up:
            raise NodeFailed(call.node, "reset", sent=True)
        return answer

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
        deadline: Any,
    ) -> None:
        key = (file_id, chunk_index)
        assert deadline.remaining() > 9

        def act(node: Node) -> None:
            node.obey(fence)
            if node.full:
                raise errors.NodeFull("full")
            if self._world.state(node.node_id) is not AdminState.ACTIVE:
                raise errors.StoreReadOnly("draining")
            if key[0] in node.erased:
                raise errors.Gone("erased")
            if node.good(key, checksum):
                return
            giver = self._world.nodes[source.node_id]
            if not giver.up or source.node_id in node.unreachable or not giver.good(key, checksum):
                raise errors.NoReplica("the source did not give it")
            node.keep(key, giver.chunks[key])

        self._do(Call("pull", target.node_id, source.node_id), act)

    def verify(self, node: NodeInfo, file_id: str, chunk_index: int, *, deadline: Any) -> Verified:
        found: Verified = self._do(Call("verify", node.node_id), lambda at: at.verify((file_id, chunk_index)))
        return found

    def drop(
        self, node: NodeInfo, file_id: str, chunk_index: int, *, fence: Fence | None, deadline: Any
    ) -> bool:
        key = (file_id, chunk_index)

        def act(at: Node) -> bool:
            at.obey(fence)
            self._world.before_drop(at, key)
            return at.lose(key)

        return bool(self._do(Call("drop", node.node_id), act))

    def set_aside(
        self, node: NodeInfo, file_id: str, chunk_index: int, *, fence: Fence | None, deadline: Any
    ) -> bool:
        key = (file_id, chunk_index)

        def act(at: Node) -> bool:
            at.obey(fence)
            if key in at.chunks:
                at.kept_aside.append(at.chunks[key])
            return at.lose(key)

        return bool(self._do(Call("set_aside", node.node_id), act))


class Rows:
    """What the mender uses of a MetadataStore."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.files: dict[str, FileRecord] = {}
        self.rows: dict[tuple[str, int, str], ChunkReplica] = {}
        self.shorts: dict[Key, int] = {}

    def get_file(self, file_id: str) -> FileRecord | None:
        with self._world.around(Call("get_file")):
            return self.files.get(file_id)

    def replicas(self, file_id: str, first: int = 0, last: int | None = None) -> Iterator[ChunkReplica]:
        with self._world.around(Call("replicas")):
            found = [row for key, row in sorted(self.rows.items()) if key[:2] == (file_id, first)]
        yield from found

    def replica(self, file_id: str, chunk_index: int, node_id: str) -> ChunkReplica | None:
        with self._world.around(Call("replica")):
            return self.rows.get((file_id, chunk_index, node_id))

    def add_replicas(
        self, file_id: str, replicas: Sequence[ChunkReplica], short: Sequence[PutShort] = ()
    ) -> None:
        with self._world.around(Call("add_replicas")):
            self._check(CheckFile(file_id, KEPT))
            for row in replicas:
                self.rows[row.file_id, row.chunk_index, row.node_id] = row

    def transact(self, steps: Sequence[Step]) -> None:
        with self._world.around(Call("transact")):
            check_steps(steps)
            for step in steps:
                self._check(step)
            for step in steps:
                self.apply(step)

    def _check(self, step: Step) -> None:
        match step:
            case CheckFile(file_id, states) | ChangeFile(file_id, states):
                record = self.files.get(file_id)
                if record is None or record.state not in states:
                    raise StepsRefused("state")
            case CheckReplica(file_id, index, node_id):
                if (file_id, index, node_id) not in self.rows:
                    raise StepsRefused("no row")

    def apply(self, step: Step) -> None:
        match step:
            case ChangeFile(file_id, _, changes):
                self.files[file_id] = replace(self.files[file_id], **changes)
            case RemoveReplica(file_id, index, node_id):
                self.rows.pop((file_id, index, node_id), None)
            case PutShort(file_id, index, at):
                self.shorts[file_id, index] = at
            case RemoveShort(file_id, index):
                self.shorts.pop((file_id, index), None)


class _Around:
    """A call of the store."""

    def __init__(self, world: World, call: Call) -> None:
        self._world = world
        self._call = call

    def __enter__(self) -> None:
        self._world.hook(self._call, False)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is None:
            self._world.hook(self._call, True)


class World:
    """Nodes "a", "b", … in zones of their own or the `zones` given, R copies wanted."""

    def __init__(
        self, names: str = "abcd", *, factor: int = 2, zones: Sequence[str | None] = (), seed: int = 1
    ) -> None:
        self.factor = factor
        self._ids = random.Random(seed)
        self.now = 1000
        self.hook: Callable[[Call, bool], None] = lambda call, after: None
        self.faults = 0
        self.away: set[str] = set()
        self.lost: set[Key] = set()
        self.nodes = {name: Node(name) for name in names}
        placed = zones or [None] * len(names)
        self.registry = Registry(*(info(name, zone=zone) for name, zone in zip(names, placed, strict=True)))
        self.membership = Membership(
            self.registry.as_store(),
            CLUSTER,
            heartbeat_timeout=60.0,
            probe=lambda node: self.nodes[node.node_id].up,
            clock=Clock(),
            probers=Inline(),
        )
        self.membership.refresh()
        self.placement = Placement()
        self.rows = Rows(self)
        self.calls = Calls(self)
        self.fence: Fence | None = Fence("repair", 1, 1)

    def around(self, call: Call) -> _Around:
        return _Around(self, call)

    def mender(self, number: int | None = None, **more: Any) -> Mender:
        """A mender under the world's lease, or under one of its own for good."""
        fence = None if number is None else Fence("repair", 1, number)
        store: Any = self.rows
        calls: Any = self.calls
        options: dict[str, Any] = {
            "factor": self.factor,
            "pace": Pace(1e12, lambda: 0.0, lambda seconds: False),
            "fence": lambda: fence or self.fence,
            "away": lambda node: node.node_id in self.away,
            "now_ms": lambda: self.now,
        }
        return Mender(store, self.membership, self.placement, calls, **(options | more))

    # --- what happens to it ---

    def file(
        self, state: FileState = FileState.COMMITTED, *, on: str = "ab", chunks: int = 1, size: int = 10
    ) -> str:
        """A file whose chunks are, with rows, on the nodes `on`."""
        file_id = str(uuid.UUID(int=self._ids.getrandbits(128), version=4))
        self.rows.files[file_id] = FileRecord(
            file_id, state, "default", file_id, size * chunks, max(1, size), chunks if size else 0, "x", None,
            "f", 1, 1, 1
        )  # fmt: skip
        for index in range(chunks):
            for name in on:
                self.put((file_id, index), name, size)
        return file_id

    def bytes_of(self, key: Key, size: int = 10) -> bytes:
        return hashlib.sha256(repr(key).encode()).digest()[:size]

    def put(self, key: Key, name: str, size: int = 10) -> None:
        """Bytes and row."""
        data = self.bytes_of(key, size)
        self.nodes[name].keep(key, data)
        self.rows.rows[*key, name] = ChunkReplica(*key, name, sha(data), size, "primary", 1)

    def change(self, name: str, **changes: Any) -> None:
        """Change a node's registry row."""
        self.registry.change(name, **changes)
        self.membership.refresh()

    def kill(self, name: str, *, away: bool = False) -> None:
        """Membership knows it at once."""
        self.faults += 1
        self.nodes[name].up = False
        (self.away.add if away else self.away.discard)(name)
        self.membership.report_failure(name, "killed")
        self.membership.refresh()

    def revive(self, name: str) -> None:
        self.nodes[name].up = True
        self.away.discard(name)
        if name in self.registry.nodes:
            self.registry.beat(name)
        self.membership.refresh()

    def remove_node(self, name: str) -> None:
        """Not registered any more."""
        self.nodes[name].up = False
        del self.registry.nodes[name]
        self.membership.refresh()

    def corrupt(self, key: Key, name: str) -> None:
        self.faults += 1
        data = self.nodes[name].chunks[key]
        self.nodes[name].chunks[key] = bytes([data[0] ^ 1]) + data[1:] if data else b"?"

    def lose(self, key: Key, name: str) -> None:
        self.faults += 1
        self.nodes[name].lose(key)

    def set_state(self, file_id: str, state: FileState) -> None:
        self.rows.files[file_id] = replace(self.rows.files[file_id], state=state)

    def erase(self, file_id: str) -> None:
        """As the eraser ends it: at the nodes that answer, then rows and record."""
        for node in self.nodes.values():
            node.erased.add(file_id)
            for key in [key for key in node.chunks if key[0] == file_id]:
                node.lose(key)
        for held in (self.rows.rows, self.rows.shorts):
            for row in [row for row in held if row[0] == file_id]:
                del held[row]  # type: ignore[arg-type]
        del self.rows.files[file_id]

    # --- what is so ---

    def state(self, name: str) -> AdminState:
        return self.registry.nodes[name].admin_state

    def with_rows(self, key: Key) -> str:
        """Nodes that have a row."""
        return "".join(sorted(node for *chunk, node in self.rows.rows if tuple(chunk) == key))

    def with_good(self, key: Key) -> str:
        """Nodes that have a row and good bytes, up or not."""
        return "".join(
            node for node in self.with_rows(key) if self.nodes[node].good(key, self.rows.rows[*key, node].checksum)
        )

    def with_bytes(self, key: Key) -> str:
        return "".join(sorted(name for name, node in self.nodes.items() if key in node.chunks))

    def before_drop(self, node: Node, key: Key) -> None:
        """Nothing good may go unless R others, with rows, were good when the mend began, faults since apart."""
        record = self.rows.files.get(key[0])
        if record is None or record.state is FileState.DELETING or key not in node.chunks:
            return
        others = {name for name in self.with_good(key) if self.nodes[name].up} - {node.node_id}
        assert len(others) >= self.factor - self.faults, f"{node.node_id} drops {key}; others: {others}"
        if not others:
            # R faults since the mend began: they might as well have come after it.
            assert self.faults >= self.factor, f"the last good copy of {key} went"
            self.lost.add(key)
