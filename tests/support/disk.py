"""A simulated disk for the store's disk seam, and an index in memory for its second seam.

`SimDisk` keeps what the page cache shows, and a trace of every write, sync and change of a name.
`crash_states` rebuilds from the trace what a disk may hold when the power goes after any of its steps:
unsynced writes there, lost, torn or reordered; unsynced names there or not. A failed sync leaves its
writes visible but clean: a later sync does not save them.

`Faults` fails chosen calls. `MemoryIndex` remembers the database at every commit.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from dfs.store.disk import Bytes, DiskFile, Space


@dataclass
class Faults:
    """Fails the calls number `first`, or from `first` on when `lasting`. `how` is an errno, or "short"."""

    first: int
    how: int | str
    lasting: bool = False
    only: frozenset[str] | None = None
    calls: int = 0
    hit: list[str] = field(default_factory=list)

    def __call__(self, name: str) -> bool:
        """Whether this call is to be cut short. Raises OSError when it is to fail."""
        if self.only is not None and name not in self.only:
            return False
        self.calls += 1
        if self.calls != self.first and not (self.lasting and self.calls > self.first):
            return False
        self.hit.append(name)
        if self.how == "short":
            return name == "write"
        assert isinstance(self.how, int)
        raise OSError(self.how, os.strerror(self.how))


class _Inode:
    def __init__(self, content: bytes = b"") -> None:
        self.cache = bytearray(content)


class SimDisk:
    """Files in memory. `capacity` bounds the bytes of all files."""

    def __init__(self, capacity: int = 1 << 40) -> None:
        self.files: dict[str, _Inode] = {}
        self.initial: dict[str, tuple[_Inode, bytes]] = {}
        self.trace: list[tuple[Any, ...]] = []
        self.faults: Callable[[str], bool] | None = None
        self.capacity = capacity

    @classmethod
    def holding(cls, contents: dict[str, bytes], capacity: int = 1 << 40) -> SimDisk:
        """A disk on which these files are durable."""
        disk = cls(capacity)
        for path, content in contents.items():
            inode = disk.files[path] = _Inode(content)
            disk.initial[path] = (inode, content)
        return disk

    def contents(self) -> dict[str, bytes]:
        """What the page cache shows."""
        return {path: bytes(inode.cache) for path, inode in self.files.items()}

    def fault(self, name: str) -> bool:
        return self.faults(name) if self.faults is not None else False

    @property
    def used(self) -> int:
        return sum(len(inode.cache) for inode in self.files.values())

    # --- the seam -------------------------------------------------------------------------------

    def create(self, path: str) -> DiskFile:
        self.fault("create")
        if path in self.files:
            raise FileExistsError(errno.EEXIST, "File exists", path)
        if self.used >= self.capacity:
            raise OSError(errno.ENOSPC, "No space left on device")
        inode = self.files[path] = _Inode()
        self.trace.append(("create", path, inode))
        return SimFile(self, inode)

    def open(self, path: str, *, write: bool = False) -> DiskFile:
        self.fault("open")
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        return SimFile(self, self.files[path])

    def listdir(self, path: str) -> dict[str, int]:
        self.fault("listdir")
        return {
            os.path.basename(name): len(inode.cache)
            for name, inode in self.files.items()
            if os.path.dirname(name) == path
        }

    def make_directory(self, path: str) -> None:
        self.fault("make_directory")

    def rename(self, source: str, target: str) -> None:
        self.fault("rename")
        self.files[target] = self.files.pop(source)
        self.trace.append(("rename", source, target))

    def unlink(self, path: str) -> None:
        self.fault("unlink")
        if path not in self.files:
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", path)
        del self.files[path]
        self.trace.append(("unlink", path))

    def sync_directory(self, path: str) -> None:
        self.fault("sync_directory")
        self.trace.append(("syncdir", path))

    def space(self, path: str) -> Space:
        self.fault("space")
        return Space(free=max(0, self.capacity - self.used), total=self.capacity)


class SimFile:
    """An open file of a SimDisk."""

    def __init__(self, disk: SimDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode

    def _store(self, data: bytes, offset: int) -> None:
        cache = self._inode.cache
        if len(cache) < offset:
            cache.extend(bytes(offset - len(cache)))
        cache[offset : offset + len(data)] = data
        self._disk.trace.append(("write", self._inode, offset, data))

    def write(self, buffers: Sequence[Bytes], offset: int) -> int:
        data = b"".join(buffers)
        try:
            short = self._disk.fault("write")
        except OSError:
            self._store(data[: len(data) // 2], offset)
            raise
        room = self._disk.capacity - self._disk.used - max(0, offset - len(self._inode.cache))
        grow = offset + len(data) - max(offset, len(self._inode.cache))
        if grow > max(0, room):
            if room <= 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            data = data[: len(data) - grow + room]
        elif short:
            data = data[: max(1, len(data) // 2)]
        self._store(data, offset)
        return len(data)

    def read(self, view: memoryview, offset: int) -> int:
        self._disk.fault("read")
        data = self._inode.cache[offset : offset + len(view)]
        view[: len(data)] = data
        return len(data)

    def sync(self) -> None:
        try:
            self._disk.fault("sync")
        except OSError:
            self._disk.trace.append(("syncfail", self._inode))
            raise
        self._disk.trace.append(("sync", self._inode))

    def truncate(self, size: int) -> None:
        self._disk.fault("truncate")
        del self._inode.cache[size:]
        self._disk.trace.append(("truncate", self._inode, size))

    def size(self) -> int:
        return len(self._inode.cache)

    def forget_cached(self, offset: int, size: int) -> None:
        self._disk.fault("forget_cached")

    def close(self) -> None:
        self._disk.fault("close")


# --- what a crash leaves ----------------------------------------------------------------------


class _Op:
    """A write (or cut, when `data` is None) of which it is not certain that the disk has it."""

    __slots__ = ("data", "doubtful", "offset", "sure")

    def __init__(self, offset: int, data: bytes | None) -> None:
        self.offset = offset
        self.data = data
        self.sure = False
        self.doubtful = False

    def apply(self, content: bytearray, keep: Callable[[int], bool] | None = None, grain: int = 512) -> None:
        if self.data is None:
            del content[self.offset :]
            return
        at = self.offset
        end = at + len(self.data)
        while at < end:
            stop = min(end, (at // grain + 1) * grain) if keep is not None else end
            if keep is None or keep(at // grain):
                if len(content) < at:
                    content.extend(bytes(at - len(content)))
                content[at:stop] = self.data[at - self.offset : stop - self.offset]
            at = stop


class Wreck:
    """What is durable, and what may be, after a prefix of a trace."""

    def __init__(self, disk: SimDisk) -> None:
        self._base: dict[_Inode, bytearray] = {}
        self._ops: dict[_Inode, list[_Op]] = {}
        self._names: dict[str, _Inode] = {}
        self._pending: list[tuple[Any, ...]] = []
        for path, (inode, content) in disk.initial.items():
            self._names[path] = inode
            self._base[inode] = bytearray(content)

    def step(self, event: tuple[Any, ...]) -> None:
        """Take the next event of the trace."""
        kind = event[0]
        if kind == "write":
            self._ops.setdefault(event[1], []).append(_Op(event[2], event[3]))
        elif kind == "truncate":
            self._ops.setdefault(event[1], []).append(_Op(event[2], None))
        elif kind == "sync":
            self._sync(event[1])
        elif kind == "syncfail":
            for op in self._ops.get(event[1], []):
                op.doubtful = op.doubtful or not op.sure
        elif kind == "syncdir":
            for change in [change for change in self._pending if os.path.dirname(change[1]) == event[1]]:
                self._rename(self._names, change)
                self._pending.remove(change)
        else:
            self._pending.append(event)

    def _sync(self, inode: _Inode) -> None:
        ops = self._ops.get(inode, [])
        for op in ops:
            op.sure = op.sure or not op.doubtful
        if all(op.sure for op in ops):
            base = self._base.setdefault(inode, bytearray())
            for op in ops:
                op.apply(base)
            self._ops[inode] = []

    @staticmethod
    def _rename(names: dict[str, _Inode], change: tuple[Any, ...]) -> None:
        if change[0] == "create":
            names[change[1]] = change[2]
        elif change[0] == "unlink":
            names.pop(change[1], None)
        elif change[1] in names:
            names[change[2]] = names.pop(change[1])

    def unsure(self) -> list[Any]:
        """The writes and changes of names that the disk may have or not."""
        ops = [op for ops in self._ops.values() for op in ops if not op.sure]
        return [*ops, *self._pending]

    def image(
        self,
        keeps: Callable[[Any], bool],
        torn: Callable[[_Op], Callable[[int], bool] | None],
        grain: int = 512,
    ) -> dict[str, bytes]:
        """The files, with the unsure changes that `keeps` chooses, of each the sectors that `torn` chooses."""
        names = dict(self._names)
        for change in self._pending:
            if keeps(change):
                self._rename(names, change)
        files = {}
        for path, inode in names.items():
            content = bytearray(self._base.get(inode, b""))
            for op in self._ops.get(inode, []):
                if op.sure:
                    op.apply(content)
                elif keeps(op):
                    op.apply(content, torn(op), grain)
            files[path] = bytes(content)
        return files


def crash_images(
    wreck: Wreck, rng: random.Random, subsets: int = 2
) -> Iterator[tuple[str, dict[str, bytes]]]:
    """What the disk may hold now: everything, nothing unsynced, each change lost, each torn at sectors
    of 512 B and 4 KiB, and random subsets torn at random."""

    def whole(op: _Op) -> None:
        return None

    unsure = wreck.unsure()
    yield "all", wreck.image(lambda _: True, whole)
    if not unsure:
        return
    yield "none", wreck.image(lambda _: False, whole)
    if len(unsure) > 1:
        for lost in unsure:
            yield "one lost", wreck.image(lambda change, lost=lost: change is not lost, whole)
    for hurt in unsure:
        if isinstance(hurt, _Op) and hurt.data:
            for grain in (512, 4096):
                first, last = hurt.offset // grain, (hurt.offset + len(hurt.data) - 1) // grain
                cut = rng.randint(first, last)
                for name, keep in (
                    ("head", lambda sector, cut=cut: sector < cut),
                    ("tail", lambda sector, cut=cut: sector > cut),
                    ("holes", lambda sector, salt=rng.random(): random.Random(sector + salt).random() < 0.5),
                ):
                    yield (
                        f"torn at {grain}, {name}",
                        wreck.image(
                            lambda _: True,
                            lambda op, hurt=hurt, keep=keep: keep if op is hurt else None,
                            grain,
                        ),
                    )
    for _ in range(subsets):
        kept = {id(change) for change in unsure if rng.random() < 0.5}
        salt = rng.random()
        yield (
            "random",
            wreck.image(
                lambda change, kept=kept: id(change) in kept,
                lambda op, salt=salt: lambda sector: random.Random(f"{sector}{id(op)}{salt}").random() < 0.7,
                rng.choice((512, 4096)),
            ),
        )


# --- the index --------------------------------------------------------------------------------


class _Connection(sqlite3.Connection):
    owner: MemoryIndex

    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        self.owner.called(sql)
        cursor = super().execute(sql, *args)
        if sql == "COMMIT":
            self.owner.committed(self)
        return cursor

    def executescript(self, script: str) -> sqlite3.Cursor:
        self.owner.called(script)
        return super().executescript(script)


class MemoryIndex:
    """An index file in memory. `history` has (steps of the trace so far, database) of every commit.

    `faults` is called before every statement and may raise sqlite3 errors."""

    def __init__(self, snapshot: bytes = b"", position: Callable[[], int] = lambda: 0) -> None:
        self.snapshot = snapshot
        self.history: list[tuple[int, bytes]] = []
        self.faults: Callable[[str], None] | None = None
        self.discarded = 0
        self.sealed: bytes | None = None
        self._position = position

    def connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            ":memory:", isolation_level=None, check_same_thread=False, factory=_Connection
        )
        assert isinstance(connection, _Connection)
        connection.owner = self
        try:
            connection.execute("PRAGMA page_size=1024")
            if self.snapshot:
                connection.deserialize(self.snapshot)
        except BaseException:
            connection.close()
            raise
        return connection

    def readers(self) -> int:
        return 0

    def discard(self) -> None:
        self.discarded += 1
        self.snapshot = b""

    def checkpoint(self, writer: sqlite3.Connection, *, closing: bool = False) -> None:
        if closing:
            self.sealed = self.snapshot

    def is_proved(self) -> bool:
        sealed, self.sealed = self.sealed, None
        return sealed is not None and sealed == self.snapshot

    def called(self, sql: str) -> None:
        if self.faults is not None:
            self.faults(sql)

    def committed(self, connection: sqlite3.Connection) -> None:
        self.snapshot = connection.serialize()
        self.history.append((self._position(), self.snapshot))

    def at(self, position: int, variant: str, rng: random.Random) -> bytes:
        """The database that a crash after `position` steps leaves: `current`, `stale`, `missing`, `damaged`."""
        earlier = [snapshot for place, snapshot in self.history if place <= position]
        if variant == "missing" or not earlier:
            return b""
        snapshot = earlier[-1] if variant == "current" else rng.choice(earlier)
        if variant != "damaged":
            return snapshot
        spoilt = bytearray(snapshot)
        for _ in range(rng.randint(1, 40)):
            spoilt[rng.randrange(len(spoilt))] = rng.randrange(256)
        return bytes(spoilt[: rng.choice((len(spoilt), rng.randrange(1, len(spoilt))))])
