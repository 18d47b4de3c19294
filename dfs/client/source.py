"""What is sent: a file, bytes or an open file object, read in pieces and hashed on the way."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from dfs.client.failures import LocalFailure, local_failure, printable

PIECE = 256 << 10

Progress = Callable[[int, int | None], None]
"""Told (bytes done, bytes in all or None) as a transfer goes on; may go back when it starts again."""


def no_progress(_done: int, _total: int | None) -> None:
    """A Progress that tells nobody."""


class Source:
    """Bytes to send, from where the object stood when it was given.

    `size` is None when it cannot be known (a pipe): such a source is sent once, because what was
    read cannot be read again. Memory: one piece.
    """

    def __init__(self, file: BinaryIO, name: str, *, size: int | None, start: int | None, owned: bool) -> None:
        self.name = name
        self.size = size
        self._file = file
        self._start = start
        self._owned = owned
        self._hash = hashlib.sha256()
        self._complete = False
        self._consumed = False
        self._identity = self._look()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, source: str | os.PathLike[str] | bytes | BinaryIO) -> Source:
        """`source` ready to be read: a path is opened, bytes and file objects are taken as they are.

        Raises LocalFailure when it cannot be read.
        """
        if isinstance(source, bytes):
            return cls(io.BytesIO(source), "the bytes given", size=len(source), start=0, owned=True)
        if isinstance(source, (str, os.PathLike)):
            return cls._open_path(Path(source))
        name = str(getattr(source, "name", "the stream given"))
        try:
            start = source.tell() if source.seekable() else None
            size = None if start is None else source.seek(0, os.SEEK_END) - start
            if start is not None:
                source.seek(start)
        except OSError as error:
            raise local_failure("read", name, error) from None
        return cls(source, name, size=size, start=start, owned=False)

    @classmethod
    def _open_path(cls, path: Path) -> Source:
        try:
            file = path.open("rb", buffering=0)
        except OSError as error:
            raise local_failure("read", path, error) from None
        except ValueError:
            raise LocalFailure(f"cannot read {printable(str(path))}: that is no file name") from None
        status = os.fstat(file.fileno())
        if stat.S_ISREG(status.st_mode):
            return cls(file, str(path), size=status.st_size, start=0, owned=True)
        return cls(file, str(path), size=None, start=None, owned=True)

    @property
    def can_restart(self) -> bool:
        """Whether `pieces` may be called (again): always for files, else while nothing was read."""
        return self._start is not None or not self._consumed

    @property
    def complete(self) -> bool:
        """Whether the last pass reached the end, so that `sha256` need not read again."""
        return self._complete

    def pieces(self, progress: Progress = no_progress) -> Iterator[bytes]:
        """One pass over the content from its start.

        With a known size exactly that many bytes: LocalFailure when the file got shorter.
        """
        self._hash = hashlib.sha256()
        self._complete = False
        self._rewind()
        done = 0
        progress(0, self.size)
        while self.size is None or done < self.size:
            piece = self._read(PIECE if self.size is None else min(PIECE, self.size - done))
            if not piece:
                break
            self._hash.update(piece)
            done += len(piece)
            yield piece
            progress(done, self.size)
        if self.size is not None and done < self.size:
            raise self._got_shorter()
        self._complete = True

    def read_all(self) -> bytes:
        """The whole content; for small sources."""
        return b"".join(self.pieces())

    def read_at(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset`; safe from several threads. Only with a known size."""
        if self._start is None:
            raise LocalFailure(f"{printable(self.name)} cannot be sent in chunks: that needs a file")
        with self._lock:
            self._file.seek(self._start + offset)
            data = bytearray()
            while len(data) < length and (piece := self._read(length - len(data))):
                data += piece
        if len(data) < length:
            raise self._got_shorter()
        return bytes(data)

    def sha256(self) -> str:
        """SHA-256 of the whole content; reads what has not been read."""
        if not self._complete:
            for _ in self.pieces():
                pass
        return self._hash.hexdigest()

    def check_unchanged(self) -> None:
        """Raise LocalFailure when the file was written to since it was opened."""
        if self._look() != self._identity:
            raise LocalFailure(
                f"{printable(self.name)} changed while it was being sent, "
                "so what is stored may mix old and new content: send it again"
            )

    def close(self) -> None:
        """Close the file, unless it was given open."""
        if self._owned:
            self._file.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def _got_shorter(self) -> LocalFailure:
        return LocalFailure(f"{printable(self.name)} got shorter while it was being sent: send it again")

    def _rewind(self) -> None:
        if self._start is not None:
            self._file.seek(self._start)
        elif self._consumed:
            raise LocalFailure(f"{printable(self.name)} cannot be read twice")

    def _read(self, count: int) -> bytes:
        self._consumed = True
        # A pipe's writer may be slow: pass on what is there.
        read = getattr(self._file, "read1", self._file.read) if self._start is None else self._file.read
        try:
            piece = read(count)
        except OSError as error:
            raise local_failure("read", self.name, error) from None
        if not isinstance(piece, bytes):
            raise TypeError("the source must be opened in binary mode")
        return piece

    def _look(self) -> tuple[int, int] | None:
        if self._start is None or not self._owned or isinstance(self._file, io.BytesIO):
            return None
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns
