"""One download over several connections: ranges fetched side by side, verified in order.

Each connection takes the next portion of the file, asks its server for that range of that very file
(`If-Match`), and goes on elsewhere when the connection breaks, as a download over one connection
does. The calling thread follows: it reads back what has arrived without a gap and verifies it, so
what was verified is what the file holds.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Protocol

from dfs.client.content import PIECE, Download, Locator
from dfs.client.results import StoredFile
from dfs.client.session import Session
from dfs.client.source import Progress
from dfs.client.spans import Span, Spans, portions
from dfs.client.verify import Verifier

_TELL = 1 << 20
"""Bytes after which a connection tells that there is more."""

_LOOK_UP = 1.0
"""Seconds after which waiting is interrupted, so that Ctrl-C is noticed."""


class Placed(Protocol):
    """A file that is written at any place."""

    def write_at(self, piece: bytes, offset: int) -> None: ...
    def read_at(self, offset: int, length: int) -> bytes: ...
    def landed(self, spans: Spans) -> None: ...


class _Stopped(Exception):
    """Nobody wants the rest."""


class Spread:
    """The rest of one file, by up to `jobs` connections. `run` once.

    `landed` says what `file` holds already, and is told to it (so this raises LocalFailure). After `run` has ended, however it did, nothing more is
    written to `file`.
    """

    def __init__(
        self,
        session: Session,
        locator: Locator,
        info: StoredFile,
        file: Placed,
        landed: Spans,
        jobs: int,
        progress: Progress,
    ) -> None:
        self._session = session
        self._locator = locator
        self._info = info
        self._file = file
        self._landed = landed
        self._jobs = jobs
        self._progress = progress
        self._changed = threading.Condition()
        self._failure: Exception | None = None
        self._stopped = False
        self._rest: Iterator[Span] = iter(())
        file.landed(landed)

    def run(self, first: Download, verifier: Verifier) -> None:
        """Fetch and verify all of it; `first` is open at the first gap. Raises what a connection
        failed with for good, Replaced, VerifyFailed, LocalFailure."""
        size = self._info.size
        coming = Spans([*self._landed, (first.offset, first.end)])
        rest = list(portions(coming.gaps(size), size, self._jobs))
        self._rest = iter(rest)
        threads = [
            threading.Thread(
                target=self._work, args=(number, None if number else first), name=f"dfs-get-{number}", daemon=True
            )
            for number in range(min(self._jobs, 1 + len(rest)))
        ]
        try:
            for thread in threads:
                thread.start()
            self._verify(verifier)
        finally:
            with self._changed:
                self._stopped = True
                self._file.landed(self._landed)
        for thread in threads:
            thread.join()

    def _verify(self, verifier: Verifier) -> None:
        size, done, told = self._info.size, 0, -1
        while done < size:
            with self._changed:
                while self._failure is None and self._landed.prefix() <= done and self._landed.total() == told:
                    self._changed.wait(_LOOK_UP)
                if self._failure is not None:
                    raise self._failure
                ready, told = self._landed.prefix(), self._landed.total()
            self._progress(told, size)
            while done < ready:
                piece = self._file.read_at(done, min(PIECE, ready - done))
                verifier.feed(piece)
                done += len(piece)
        verifier.finish()

    def _work(self, number: int, open_already: Download | None) -> None:
        server: int | None = self._session.nth(number)
        download = open_already
        try:
            while True:
                if download is None:
                    with self._changed:
                        span = None if self._stopped else next(self._rest, None)
                    if span is None:
                        return
                    download = Download(
                        self._session,
                        self._locator,
                        offset=span[0],
                        end=span[1],
                        etag=self._info.etag,
                        size=self._info.size,
                        server=server,
                    )
                    download.open()
                self._take(download)
                server = download.server
                download = None
        except _Stopped:
            return
        except Exception as error:  # raised in the caller's thread
            with self._changed:
                self._failure = self._failure or error
                self._changed.notify_all()
        finally:
            if download is not None:
                download.close()

    def _take(self, download: Download) -> None:
        at = told = download.offset
        for piece in download.pieces():
            with self._changed:
                if self._stopped or self._failure is not None:
                    raise _Stopped
                self._file.write_at(piece, at)
                before, at = at, at + len(piece)
                self._landed.add(before, at)
                if at == download.end:
                    self._file.landed(self._landed)
                if at == download.end or at - told >= _TELL:
                    told = at
                    self._changed.notify_all()
