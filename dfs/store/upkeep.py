"""What background work asks of a store: what is bad, what to set aside, facts to keep, passes over everything."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from dfs.errors import Unavailable
from dfs.store.access import Access
from dfs.store.appender import Append
from dfs.store.appends import chunk_key
from dfs.store.chunk import BadChunk
from dfs.store.entry import Entry, Key
from dfs.store.index import IndexDamaged
from dfs.store.index_upkeep import bad_chunks, fact, is_bad
from dfs.store.parts import Parts
from dfs.store.record import Kind
from dfs.store.reread import Position, Rereader, Step

_MOST_LISTED = 10_000
_TRIES = 4


class Upkeep:
    """See the module. `mend` repairs a damaged index first, `write` makes records durable."""

    def __init__(
        self,
        parts: Parts,
        access: Access,
        *,
        mend: Callable[[], None],
        write: Callable[[Sequence[Append]], None],
    ) -> None:
        self._parts = parts
        self._mend = mend
        self._write = write
        self._rereader = Rereader(parts, access, write)

    def bad_chunks(self, after: tuple[str, int] | None, limit: int) -> list[BadChunk]:
        """Chunks whose copy here is known to be bad, of keys above `after`, at most `limit` (and 10,000).

        A chunk leaves the list when it is stored again, dropped, erased, or found good."""
        self._mend()
        key = None if after is None else chunk_key(*after)
        return self._parts.catalog.ask(lambda index: bad_chunks(index, key, min(limit, _MOST_LISTED)))

    def is_bad(self, key: Key) -> bool:
        """Whether the chunk is among them. Raises Unavailable."""
        index = self._parts.catalog.index
        if index is None or not index.bad:
            return False  # without troubling an index that may not be well
        return self._parts.catalog.ask(lambda index: is_bad(index, key))

    def set_aside(self, file_id: str, chunk_index: int) -> bool:
        """Keep a copy of the chunk's record in `set-aside/`, then drop the replica, both durably; False when
        there was none. Raises Unavailable when it cannot be kept: then it stays."""
        key = chunk_key(file_id, chunk_index)
        parts = self._parts
        claim = parts.claims.take_alone(key)
        try:
            self._mend()
            for _ in range(_TRIES):
                erased, known = parts.catalog.find(key)
                if erased or known is None or known.kind != Kind.DATA:
                    parts.committer.settle()
                    return False
                if self._keep(known):
                    self._write([Append(Kind.DROP, *key, created=parts.now())])
                    return True
            raise Unavailable("the volume file of this chunk is missing: it cannot be set aside")
        finally:
            parts.claims.give_back(key, claim)

    def _keep(self, entry: Entry) -> bool:
        """False when the volume is gone: compacted since the lookup."""
        try:
            with self._parts.files.reading(entry.volume) as file:
                if self._parts.aside.keep_chunk(file, entry, "set aside by command", kind="set_aside"):
                    return True
        except FileNotFoundError:
            return False
        except OSError as error:
            raise Unavailable(f"the record cannot be read: {error.strerror}") from error
        raise Unavailable("the record could not be set aside: it stays")

    def fact(self, name: str) -> str | None:
        """What `keep_fact` kept last; None when the index was lost since. Raises Unavailable."""
        self._mend()
        return self._parts.catalog.ask(lambda index: fact(index, name))

    def keep_fact(self, name: str, value: str) -> None:
        """Keep a short text in the index: as long as that lives. Raises Unavailable."""
        try:
            self._parts.catalog.keep_fact(name, value)
        except (sqlite3.Error, IndexDamaged) as error:
            raise Unavailable(f"the index of this disk did not take it: {error}") from error

    # --- passes over everything (see reread) ----------------------------------------------------

    def begin_pass(self) -> Position:
        """The beginning of a pass over every record that stands."""
        return self._rereader.begin()

    def total_bytes(self) -> int:
        """About how many bytes a pass reads. Raises Unavailable."""
        self._mend()
        return self._rereader.total_bytes()

    def reread(self, position: Position, pace: Callable[[int], None]) -> Step:
        """The next step of a pass: see Rereader.step."""
        self._mend()
        return self._rereader.step(position, pace)
