"""A reference model of the chunk store, and a workload that is run on both."""

from __future__ import annotations

import hashlib
import json
import logging
import random
import uuid
import zlib
from collections.abc import Callable
from typing import Any

from dfs.chunkbatch import NewChunk
from dfs.errors import (
    Busy,
    ChecksumMismatch,
    ChunkConflict,
    CorruptChunk,
    DfsError,
    Gone,
    NodeFull,
    NotFound,
    StoreReadOnly,
    Unavailable,
)
from dfs.store.compare import compare_indexes
from dfs.store.identity import DiskIdentity
from dfs.store.index import Index
from dfs.store.rebuild import fill_index
from dfs.store.store import ChunkStore, Report, StoreOptions
from tests.support.disk import MemoryIndex, SimDisk

DIRECTORY = "/disk"
IDENTITY = DiskIdentity("node-1", str(uuid.UUID(int=7)), "cluster-1", 1)
GONE = "gone"
Key = tuple[str, int]
State = bytes | str | None


def quiet() -> None:
    """Failures by the thousand are the point: they are not logged."""
    logging.getLogger("dfs").setLevel(logging.CRITICAL + 1)


class Clock:
    """Time that goes by in days."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


def small(**changes: Any) -> StoreOptions:
    """A store with tiny volumes and caches, so that edges come often."""
    given: dict[str, Any] = {
        "volume_size": 4096,
        "reserve_bytes": 0,
        "ballast_bytes": 512,
        "index_batch": 3,
        "pending_limit": 64,
        "failures_until_stop": 1000,
        "on_report": lambda report: None,
        "on_fatal": lambda reason: None,
    }
    return StoreOptions(**(given | changes))


def open_store(
    disk: SimDisk,
    index: MemoryIndex,
    options: StoreOptions | None = None,
    clock: Callable[[], float] | None = None,
) -> ChunkStore:
    """A store on simulated parts."""
    return ChunkStore(DIRECTORY, IDENTITY, options or small(), disk, index, clock or Clock(), None)


class Model:
    """What must be stored (`sure`), and what may be because a call failed or was cut off (`maybe`)."""

    def __init__(self) -> None:
        self.sure: dict[Key, State] = {}
        self.erased: set[str] = set()
        self.notes: set[str] = set()
        self.maybe: dict[Key, set[State]] = {}
        self.maybe_erased: set[str] = set()
        self.maybe_notes: set[str] = set()

    def copy(self) -> Model:
        other = Model()
        other.sure, other.erased, other.notes = dict(self.sure), set(self.erased), set(self.notes)
        other.maybe = {key: set(states) for key, states in self.maybe.items()}
        other.maybe_erased, other.maybe_notes = set(self.maybe_erased), set(self.maybe_notes)
        return other

    def settle(self) -> None:
        """A write succeeded: what failed before it cannot come back."""
        self.maybe.clear()
        self.maybe_erased.clear()
        self.maybe_notes.clear()

    def succeeded(self, op: tuple[Any, ...]) -> None:
        self.settle()
        name, subject, *rest = op
        if name == "put":
            self.sure[subject] = rest[0]
        elif name == "put_many":
            self.sure.update(subject)
        elif name == "drop":
            self.sure[subject] = None
        elif name == "erase":
            self.erased |= set(subject)
        elif name == "note":
            self.notes |= {json.dumps(note, sort_keys=True) for note in subject}

    def attempted(self, op: tuple[Any, ...]) -> None:
        name, subject, *rest = op
        if name == "put":
            self.maybe.setdefault(subject, set()).add(rest[0])
        elif name == "put_many":
            for key, data in subject:
                self.maybe.setdefault(key, set()).add(data)
        elif name == "drop":
            self.maybe.setdefault(subject, set()).add(None)
        elif name == "erase":
            self.maybe_erased |= set(subject)
        elif name == "note":
            self.maybe_notes |= {json.dumps(note, sort_keys=True) for note in subject}

    def ended(self, op: tuple[Any, ...], outcome: str) -> None:
        """A call has returned: see `Workload.run`. Of a batch, `outcome` has a letter for each item."""
        if op[0] == "put_many":
            for wanted, learn in (("o", self.succeeded), ("f", self.attempted)):
                items = tuple(item for item, letter in zip(op[1], outcome, strict=True) if letter == wanted)
                if items:
                    learn((op[0], items))
        elif outcome == "ok":
            self.succeeded(op)
        elif outcome == "failed":
            self.attempted(op)

    def state(self, key: Key) -> State:
        return GONE if key[0] in self.erased else self.sure.get(key)

    def allowed(self, key: Key) -> set[State]:
        if key[0] in self.erased:
            return {GONE}
        states = {self.sure.get(key)} | self.maybe.get(key, set())
        return states | {GONE} if key[0] in self.maybe_erased else states

    def forget(self, file_id: str) -> None:
        """The store no longer remembers that the file was erased; it is as if it had never been."""
        self.erased.discard(file_id)
        self.sure = {key: state for key, state in self.sure.items() if key[0] != file_id}
        self.notes = {note for note in self.notes if json.loads(note).get("file_id") != file_id}

    def became(self, seen: dict[Key, State], notes: set[str]) -> None:
        """After a crash: what is there is what is stored."""
        self.settle()
        for (file_id, chunk_index), state in seen.items():
            if state == GONE:
                self.erased.add(file_id)
            else:
                self.sure[file_id, chunk_index] = state
        self.notes = set(notes)


def read(store: ChunkStore, key: Key) -> State:
    """What the store has of a chunk, read and verified."""
    try:
        with store.open_chunk(*key) as reader:
            data = b"".join(bytes(piece) for piece in reader.pieces())
            assert (reader.info.file_id, reader.info.chunk_index) == key
            assert reader.info.length == len(data)
            assert reader.info.checksum == hashlib.sha256(data).hexdigest()
            return data
    except NotFound:
        return None
    except Gone:
        return GONE


def observe(store: ChunkStore, keys: list[Key]) -> dict[Key, State]:
    """Everything the store has of `keys`; the inventory must say the same."""
    seen = {key: read(store, key) for key in keys}
    listed = {(chunk.file_id, chunk.chunk_index): chunk for chunk in store.inventory(0, 10_000)}
    held = {key: state for key, state in seen.items() if isinstance(state, bytes)}
    assert set(listed) == set(held), "the inventory does not list what can be read"
    assert all(listed[key].checksum == hashlib.sha256(data).hexdigest() for key, data in held.items())
    assert store.usage().chunks == len(held)
    return seen


def noted(store: ChunkStore) -> set[str]:
    """The notes the store has."""
    return {json.dumps(found.note, sort_keys=True) for found in store.notes(0, 10_000)}


def brief(state: State) -> str:
    """A state in a few characters."""
    return f"{state[:50]!r} ({len(state)} bytes)" if isinstance(state, bytes) else str(state)


def check(store: ChunkStore, model: Model, keys: list[Key], where: str) -> dict[Key, State]:
    """acknowledged ⊆ readable ⊆ attempted. Returns what is readable."""
    seen = observe(store, keys)
    for key, state in seen.items():
        allowed = model.allowed(key)
        assert state in allowed, f"{where}: chunk {key} is {brief(state)}, allowed: {[*map(brief, allowed)]}"
    notes = noted(store)
    alive = {
        note
        for note in model.notes
        if json.loads(note).get("file_id") not in model.erased | model.maybe_erased
    }
    assert alive <= notes, f"{where}: acknowledged notes are missing: {alive - notes}"
    assert notes <= model.notes | model.maybe_notes, f"{where}: notes nobody sent"
    return seen


def check_index(store: ChunkStore) -> None:
    """The index is what a rebuild would make, counters included."""
    parts = store._parts
    if parts.compactor.stuck:
        store.compact([])
    if not parts.catalog.flush():
        store._maintenance.mend()
        assert parts.catalog.flush()
    fresh = Index(MemoryIndex(), IDENTITY.disk_id)
    fill_index(fresh, parts.volumes, parts.files, parts.aside, parts.appender.active_number)
    found = parts.catalog.index
    assert found is not None
    wrong = compare_indexes(found, fresh)
    assert not wrong, wrong
    assert {n: (row.upto, row.live, row.chunks) for n, row in found.volumes.items()} == {
        n: (row.upto, row.live, row.chunks) for n, row in fresh.volumes.items()
    }
    fresh.close()


class Workload:
    """Random calls on a store, told to a model. `log` has (trace steps before, after, op, outcome)."""

    FILES = tuple(str(uuid.UUID(int=0x40008000 << 64 | n, version=4)) for n in range(1, 7))

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.keys = [(file_id, index) for file_id in self.FILES for index in range(3)]
        self.model = Model()
        self.log: list[tuple[int, int, tuple[Any, ...], str]] = []

    def data(self, key: Key) -> bytes:
        """Bytes for a chunk: mostly the same for the same key, so that repeats come; sometimes none."""
        size = self.rng.choice((0, 1, 7, 100, 100, 511, 512, 513, 1500, 1500, 3000, 6000))
        if self.rng.random() < 0.7:
            size = 37 * (key[1] + 1) + len(key[0])
        return (f"{key[0]}/{key[1]}/{size}/".encode() * (size // 20 + 1))[:size]

    def choose(self, weights: dict[str, int]) -> tuple[Any, ...]:
        name = self.rng.choices(list(weights), list(weights.values()))[0]
        key = self.rng.choice(self.keys)
        if name == "put":
            return name, key, self.data(key)
        if name == "put_many":
            keys = self.rng.choices(self.keys, k=self.rng.choice((1, 2, 3, 5, 9)))
            return name, tuple((key, self.data(key)) for key in keys)
        if name == "erase":
            return name, tuple(self.rng.sample(self.FILES, self.rng.choice((1, 1, 1, 2))))
        if name == "note":
            notes = tuple(
                {
                    "file_id": self.rng.choice(self.FILES),
                    "op_id": str(self.rng.randrange(1000)),
                    "path": "ü" * n,
                }
                for n in range(self.rng.randint(1, 3))
            )
            return name, notes
        if name == "compact" and self.rng.random() < 0.8:
            return name, key, self.rng.getrandbits(30)
        return name, key

    def run(self, store: ChunkStore, op: tuple[Any, ...], steps: Callable[[], int] = lambda: 0) -> str:
        """Do `op` and tell the model; "ok", "refused" (nothing changed) or "failed" (it may have); of a
        batch the first letters of these, for each item."""
        before = steps()
        outcome = self._put_many(store, op[1]) if op[0] == "put_many" else self._do(store, op)
        self.model.ended(op, outcome)
        self.log.append((before, steps(), op, outcome))
        return outcome

    def _put_many(self, store: ChunkStore, items: tuple[tuple[Key, bytes], ...]) -> str:
        batch = [
            NewChunk(*key, data, hashlib.sha256(data).hexdigest(), zlib.crc32(data), 1 << 13, None)
            for key, data in items
        ]
        wrong = self.rng.randrange(20)
        if wrong < len(batch):
            batch[wrong] = batch[wrong]._replace(crc32=batch[wrong].crc32 ^ 1)
        try:
            found = store.put_many(batch)
        except (Unavailable, Busy):
            return "f" * len(items)
        letters = ""
        before: dict[Key, set[State]] = {}
        for place, ((key, data), error) in enumerate(zip(items, found, strict=True)):
            states = before.setdefault(key, self.model.allowed(key))
            if place == wrong:
                assert isinstance(error, ChecksumMismatch)
                letters += "r"
            elif error is None:
                assert states & {None, data}, f"{key} was stored over {[*map(brief, states)]}"
                states.add(data)
                letters += "o"
            elif isinstance(error, (ChunkConflict, Gone)):
                right = GONE if isinstance(error, Gone) else any(isinstance(state, bytes) for state in states)
                assert right in (True, GONE) and (right is True or GONE in states), f"{key}: {error!r}"
                letters += "r"
            else:
                assert isinstance(error, (NodeFull, StoreReadOnly, Unavailable, Busy, CorruptChunk)), error
                states.add(data)
                letters += "f"
        return letters

    def _do(self, store: ChunkStore, op: tuple[Any, ...]) -> str:
        name, subject, *rest = op
        model = self.model
        try:
            if name == "put":
                found = model.allowed(subject)
                stored = store.put(*subject, rest[0], checksum=None, chunk_size=4096, file_size=None)
                assert stored.checksum == hashlib.sha256(rest[0]).hexdigest()
                assert found & {None, rest[0]}, f"put succeeded over {[*map(brief, found)]}"
            elif name == "drop":
                dropped = store.drop(*subject)
                if len(model.allowed(subject)) == 1:
                    assert dropped == isinstance(model.state(subject), bytes)
                if not dropped and subject[0] in model.erased:
                    return "nothing"
            elif name == "erase":
                store.erase(list(subject))
            elif name == "note":
                store.note(list(subject))
            elif name == "verify":
                assert store.verify(*subject).length == len(model.state(subject) or b"")
                return "nothing"
            elif name == "compact":
                numbers = [volume.number for volume in store._parts.volumes.all()]
                if rest:  # some of them: those whose numbers a seed chooses
                    numbers = [number for number in numbers if random.Random(rest[0] + number).random() < 0.6]
                store.compact(numbers if rest else None)
                return "nothing"
        except (ChunkConflict, Gone) as error:
            allowed = model.allowed(subject)
            right = (
                GONE in allowed
                if isinstance(error, Gone)
                else any(isinstance(state, bytes) for state in allowed)
            )
            assert right, f"{name} {subject} was refused with {error!r} over {[*map(brief, allowed)]}"
            return "refused"
        except NotFound:
            assert name == "verify" and None in model.allowed(subject)
            return "refused"
        except (NodeFull, StoreReadOnly, Unavailable, Busy):
            return "failed"
        except CorruptChunk:
            return "failed"
        except DfsError as error:
            raise AssertionError(f"{name} {subject} raised {error!r}") from error
        return "ok"


def reported(store: ChunkStore, kind: str) -> list[Report]:
    """The store's reports of a kind."""
    return [report for report in store.reports() if report.kind == kind]
