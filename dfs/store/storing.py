"""Storing chunks: one, or many with one group commit.

Claims are never waited for while others are held, so that two batches with the same chunks in
another order cannot wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dfs.errors import ChunkConflict, DfsError, Gone
from dfs.store.access import Access
from dfs.store.appender import Append
from dfs.store.claims import Claim
from dfs.store.entry import Entry, Key
from dfs.store.parts import Parts
from dfs.store.record import Kind, piece_crcs


class Wish:
    """One chunk that is to be stored, and what became of it: durable, with its record's `entry`
    and `crcs`, unless there is an `error`."""

    __slots__ = ("append", "claim", "crcs", "entry", "error", "key")

    def __init__(self, append: Append) -> None:
        self.append = append
        self.key: Key = (append.file_id, append.chunk_index)
        self.claim: Claim | None = None
        self.entry: Entry | None = None
        self.crcs: tuple[int, ...] = ()
        self.error: DfsError | None = None


class Storing:
    """Stores DATA records. `check_room` raises NodeFull when so many bytes must not be written; `write`
    makes records durable; a group of them has at most `group_bytes`, unless it is a single one."""

    def __init__(
        self,
        parts: Parts,
        access: Access,
        *,
        group_bytes: int,
        check_room: Callable[[int], None],
        write: Callable[[Sequence[Append]], None],
    ) -> None:
        self._parts = parts
        self._access = access
        self._group_bytes = group_bytes
        self._check_room = check_room
        self._write = write

    def store(self, wishes: Sequence[Wish]) -> None:
        """Fulfil the wishes: each has its entry, and is durable, or its error, when this returns."""
        waiting = wishes
        while waiting:
            waiting = self._round(waiting)

    def _round(self, wishes: Sequence[Wish]) -> list[Wish]:
        """Store what nobody else is storing; returns those that somebody else (or an earlier one of
        `wishes`) was storing, for another round."""
        left = [wish for wish in wishes if wish.claim is None or not self._joined(wish, wish.claim)]
        claims = self._parts.claims
        mine: list[Wish] = []
        waiting: list[Wish] = []
        for wish, (claim, own) in zip(
            left, claims.take_many([(wish.key, wish.append.sha256) for wish in left]), strict=True
        ):
            wish.claim = claim
            (mine if own else waiting).append(wish)
        try:
            if mine:
                self._store(mine)
        finally:
            for wish in mine:
                assert wish.claim is not None
                claims.give_back(wish.key, wish.claim)
        if waiting and not mine:
            held = waiting[0].claim
            assert held is not None
            held.wait()
        return waiting

    def _joined(self, wish: Wish, claim: Claim) -> bool:
        """Whether the store that was in the way last time was of the same bytes, and succeeded.

        Not when the file was erased since: the claims of a batch are held to its end, so the erase may
        have been acknowledged before the joining store began."""
        if not claim.stored or claim.void or claim.checksum != wish.append.sha256:
            return False
        wish.entry, wish.crcs = claim.entry, claim.crcs
        return True

    def _store(self, wishes: Sequence[Wish]) -> None:
        new = []
        try:
            found = self._parts.catalog.find_many([wish.key for wish in wishes])
        except DfsError as error:
            for wish in wishes:
                wish.error = error
            return
        for wish, (erased, known) in zip(wishes, found, strict=True):
            try:
                if erased:
                    raise Gone("the file was deleted")
                if known is None or known.kind != Kind.DATA or not self._is_there(wish, known):
                    new.append(wish)
            except DfsError as error:
                wish.error = error
        for group in self._groups(new):
            self._commit(group)

    def _is_there(self, wish: Wish, known: Entry) -> bool:
        """Whether a good copy of these bytes is on the disk already. Raises ChunkConflict and Gone."""
        if known.checksum != wish.append.sha256:
            raise ChunkConflict("the chunk is already stored with other bytes")
        chunk = self._access.check(known)
        if chunk is None:
            return False
        self._parts.committer.settle()
        self._finish(wish, known, chunk.piece_crcs)
        return True

    def _groups(self, wishes: list[Wish]) -> Iterator[list[Wish]]:
        group: list[Wish] = []
        size = 0
        for wish in wishes:
            if group and size + wish.append.size > self._group_bytes:
                yield group
                group, size = [], 0
            group.append(wish)
            size += wish.append.size
        if group:
            yield group

    def _commit(self, group: Sequence[Wish]) -> None:
        try:
            for wish in group:
                if wish.append.crcs is None:
                    wish.append.crcs = piece_crcs(wish.append.body)
            self._check_room(sum(wish.append.size for wish in group))
            self._write([wish.append for wish in group])
        except DfsError as error:
            for wish in group:
                wish.error = error
            return
        for wish in group:
            append = wish.append
            assert append.entry is not None
            self._finish(wish, append.entry, append.crcs or ())

    @staticmethod
    def _finish(wish: Wish, entry: Entry, crcs: tuple[int, ...]) -> None:
        claim = wish.claim
        assert claim is not None
        if claim.void:
            wish.error = Gone("the file was deleted")
            return
        wish.entry, wish.crcs = entry, crcs
        claim.store(entry, crcs)
