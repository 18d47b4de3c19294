"""One writer per chunk at a time; a repeat joins the one that is running."""

from __future__ import annotations

import threading

from dfs.store.chunk import StoredChunk
from dfs.store.entry import Key


class Claim:
    """The right to change one chunk. `void`: its file was erased while the claim was held."""

    __slots__ = ("_done", "checksum", "stored", "void")

    def __init__(self, checksum: bytes | None) -> None:
        self.checksum = checksum
        self.stored: StoredChunk | None = None
        self.void = False
        self._done = threading.Lock()
        self._done.acquire()

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

    def take(self, key: Key, checksum: bytes | None = None) -> tuple[Claim, bool]:
        """A claim on `key` and whether it is the caller's own; if not, it is another's to `wait` for.

        `checksum` says what is being stored, for those who join."""
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                return held, False
            claim = self._held[key] = Claim(checksum)
            return claim, True

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
        claim.finish()

    def void_file(self, file_id: bytes) -> None:
        """An ERASE of the file became durable: no store that runs now may succeed any more."""
        with self._lock:
            for key, claim in self._held.items():
                if key[0] == file_id:
                    claim.void = True

    def is_void(self, key: Key) -> bool:
        """Whether the file was erased under the claim on `key`."""
        with self._lock:
            held = self._held.get(key)
            return held is not None and held.void
