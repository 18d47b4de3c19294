"""One writer per chunk at a time; a repeat joins the one that is running."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from dfs.store.entry import Entry, Key


class Claim:
    """The right to change one chunk. `stored`: what `checksum` names is durable, as `entry` and `crcs`
    tell. `void`: its file was erased while the claim was held."""

    __slots__ = ("_done", "checksum", "crcs", "entry", "void")

    def __init__(self, checksum: bytes | None) -> None:
        self.checksum = checksum
        self.entry: Entry | None = None
        self.crcs: tuple[int, ...] = ()
        self.void = False
        self._done = threading.Lock()
        self._done.acquire()

    @property
    def stored(self) -> bool:
        return self.entry is not None

    def store(self, entry: Entry, crcs: tuple[int, ...]) -> None:
        self.entry, self.crcs = entry, crcs

    def wait(self) -> None:
        """Return when the holder has given the claim back."""
        with self._done:
            pass

    def finish(self) -> None:
        self._done.release()


class Claims:
    """The claims held now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[Key, Claim] = {}
        self.void: set[Key] = set()
        """Chunks that are claimed, and whose files were erased since."""

    def take(self, key: Key, checksum: bytes | None = None) -> tuple[Claim, bool]:
        """A claim on `key` and whether it is the caller's own; if not, it is another's to `wait` for.

        `checksum` says what is being stored, for those who join."""
        return self.take_many(((key, checksum),))[0]

    def take_many(self, wanted: Sequence[tuple[Key, bytes | None]]) -> list[tuple[Claim, bool]]:
        """`take` for each of `wanted`, a key and a checksum; the second of two alike is not the caller's own."""
        taken = []
        held = self._held
        with self._lock:
            for key, checksum in wanted:
                claim = held.get(key)
                if claim is None:
                    claim = held[key] = Claim(checksum)
                    taken.append((claim, True))
                else:
                    taken.append((claim, False))
        return taken

    def take_alone(self, key: Key) -> Claim:
        """A claim of the caller's own, after whoever has it now."""
        while True:
            claim, mine = self.take(key)
            if mine:
                return claim
            claim.wait()

    def give_back(self, key: Key, claim: Claim) -> None:
        """End the caller's claim and wake who waits for it."""
        with self._lock:
            del self._held[key]
            self.void.discard(key)
        claim.finish()

    def void_file(self, file_id: bytes) -> None:
        """An ERASE of the file became durable: no store that runs now may succeed any more."""
        with self._lock:
            for key, claim in self._held.items():
                if key[0] == file_id:
                    claim.void = True
                    self.void.add(key)
