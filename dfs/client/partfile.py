"""A download that may go on another day: `OUT.part`, with the ETag of the file it is a part of."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path

from dfs.client.failures import LocalFailure, local_failure, printable
from dfs.client.localfile import give_name, in_the_way, sync_directory, write_all

_PIECE = 256 << 10
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class PartFile:
    """The beginning of a file beside its `target`.

    `etag` says of which stored file, None while there is nothing usable. What it holds is a hint
    until the whole content has been verified: a crash may have damaged it. One process at a time.
    """

    def __init__(self, target: Path, *, replace: bool = True) -> None:
        if target.is_symlink():  # the file it names is replaced, not the link
            target = Path(os.path.realpath(target))
        self.target = target
        self._replace = replace
        self._part = target.with_name(target.name + ".part")
        self._note = target.with_name(target.name + ".part.json")
        if target.exists() and not target.is_file():
            raise LocalFailure(f"cannot write {printable(str(target))}: to go on another time needs a regular file")
        if not replace and os.path.lexists(target):
            raise in_the_way(target)
        try:
            self._fd = self._open()
            self.etag = self._read_note()
            if self.etag is None:
                os.ftruncate(self._fd, 0)
            self.offset = os.lseek(self._fd, 0, os.SEEK_END)
        except OSError as error:
            raise local_failure("write", self._part, error) from None

    def begin(self, etag: str) -> None:
        """What is written from now on belongs to the file `etag`."""
        if self.etag == etag:
            return
        self.restart()
        try:
            temporary = self._note.with_name(self._note.name + ".tmp")
            temporary.write_text(json.dumps({"etag": etag}), encoding="utf-8")
            os.replace(temporary, self._note)
        except OSError as error:
            raise local_failure("write", self._note, error) from None
        self.etag = etag

    def existing(self) -> Iterator[bytes]:
        """What is there already, `offset` bytes."""
        at = 0
        while at < self.offset:
            try:
                piece = os.pread(self._fd, min(_PIECE, self.offset - at), at)
            except OSError as error:
                raise local_failure("read", self._part, error) from None
            if not piece:
                raise LocalFailure(f"{printable(str(self._part))} got shorter: somebody else writes to it")
            at += len(piece)
            yield piece

    def write(self, piece: bytes) -> None:
        """Append `piece`."""
        try:
            write_all(self._fd, piece)
        except OSError as error:
            raise local_failure("write", self._part, error) from None
        self.offset += len(piece)

    def restart(self) -> None:
        """Forget what is there."""
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError as error:
            raise local_failure("write", self._part, error) from None
        self.offset = 0
        self.etag = None

    def commit(self) -> None:
        """Make it durable under the target's name."""
        try:
            os.fsync(self._fd)
            give_name(self._part, self.target, replace=self._replace)
            with contextlib.suppress(FileNotFoundError):  # a note is only there when something was written
                os.unlink(self._note)
            sync_directory(self.target.parent)
        except OSError as error:
            raise local_failure("write", self.target, error) from None

    def abort(self) -> None:
        """Leave it for the next time; one that holds nothing is removed."""
        if self._fd < 0:
            return
        with contextlib.suppress(OSError):  # renamed by commit, or its directory is gone
            if not self.offset and os.fstat(self._fd).st_ino == os.stat(self._part).st_ino:
                os.unlink(self._part)
                os.unlink(self._note)
        os.close(self._fd)
        self._fd = -1

    def _open(self) -> int:
        while True:
            fd = os.open(self._part, _OPEN, 0o666)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.exists(self._part) and os.path.samestat(os.fstat(fd), os.stat(self._part)):
                    return fd
            except BlockingIOError:
                os.close(fd)
                raise LocalFailure(f"{printable(str(self._part))} is being written by another process") from None
            os.close(fd)  # it was finished and renamed just before we locked it

    def _read_note(self) -> str | None:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return None
        etag = note.get("etag") if isinstance(note, dict) else None
        return etag if isinstance(etag, str) and etag.isascii() and etag.isprintable() and '"' not in etag else None
