"""A download that may go on another day: `OUT.part`, with the ETag of the file it is a part of.

`OUT.part.json` says `{"etag": …}`, and, when the download came over several connections, in `done`
which bytes are there as `[[start, end], …]`; without that they are all from the start to the part's end.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dfs.client.failures import LocalFailure, local_failure, printable
from dfs.client.localfile import give_name, in_the_way, sync_directory, write_all
from dfs.client.spans import Spans

_PIECE = 256 << 10
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


class PartFile:
    """Some of a file beside its `target`: its beginning, and maybe more further on.

    `etag` says of which stored file, None while there is nothing usable; `holds` which bytes. What it holds is a hint
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
            self.etag, done = self._read_note()
            self._listed = done is not None
            if self.etag is None:
                os.ftruncate(self._fd, 0)
            size = os.lseek(self._fd, 0, os.SEEK_END)
            self.holds = Spans([(0, size)]) if done is None else done.cut(size)
        except OSError as error:
            raise local_failure("write", self._part, error) from None

    @property
    def offset(self) -> int:
        """How much there is from the start on, without a gap."""
        return self.holds.prefix()

    def begin(self, etag: str) -> None:
        """What is written from now on belongs to the file `etag`."""
        if self.etag == etag:
            return
        self.restart()
        self._write_note({"etag": etag})
        self.etag = etag

    def keep_beginning(self) -> None:
        """Forget what lies behind a gap: from now on `write` goes on where the beginning ends."""
        offset = self.offset
        try:
            os.ftruncate(self._fd, offset)
            os.lseek(self._fd, offset, os.SEEK_SET)
        except OSError as error:
            raise local_failure("write", self._part, error) from None
        self.holds = Spans([(0, offset)])
        if self._listed:
            self._write_note({"etag": self.etag})

    def existing(self) -> Iterator[bytes]:
        """What is there already, `offset` bytes."""
        at = 0
        while at < self.offset:
            piece = self.read_at(at, min(_PIECE, self.offset - at))
            at += len(piece)
            yield piece

    def write(self, piece: bytes) -> None:
        """Append `piece`."""
        try:
            write_all(self._fd, piece)
        except OSError as error:
            raise local_failure("write", self._part, error) from None
        self.holds.add(self.offset, self.offset + len(piece))

    def write_at(self, piece: bytes, offset: int) -> None:
        """Write `piece` at `offset`; `landed` tells of it, now and then."""
        view = memoryview(piece)
        try:
            while len(view):
                count = os.pwrite(self._fd, view, offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            raise local_failure("write", self._part, error) from None

    def read_at(self, offset: int, length: int) -> bytes:
        """What is there, at least one byte."""
        try:
            piece = os.pread(self._fd, length, offset)
        except OSError as error:
            raise local_failure("read", self._part, error) from None
        if not piece:
            raise LocalFailure(f"{printable(str(self._part))} got shorter: somebody else writes to it")
        return piece

    def landed(self, spans: Spans) -> None:
        """Remember which bytes are there; to be called before the first `write_at` behind a gap."""
        self.holds = Spans(spans)
        self._listed = True
        self._write_note({"etag": self.etag, "done": list(self.holds)})

    def restart(self) -> None:
        """Forget what is there."""
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
        except OSError as error:
            raise local_failure("write", self._part, error) from None
        self.holds = Spans()
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
            if not self.holds.total() and os.fstat(self._fd).st_ino == os.stat(self._part).st_ino:
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

    def _write_note(self, note: dict[str, Any]) -> None:
        try:
            temporary = self._note.with_name(self._note.name + ".tmp")
            temporary.write_text(json.dumps(note), encoding="utf-8")
            os.replace(temporary, self._note)
        except OSError as error:
            raise local_failure("write", self._note, error) from None

    def _read_note(self) -> tuple[str | None, Spans | None]:
        """The ETag and what is there, None where the note does not say."""
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError, RecursionError):
            return None, None
        etag = note.get("etag") if isinstance(note, dict) else None
        if not isinstance(etag, str) or not etag.isascii() or not etag.isprintable() or '"' in etag:
            return None, None
        return etag, _spans(note["done"]) if "done" in note else None


def _spans(listed: object) -> Spans:
    """The spans of a note; none when they are not what a note says."""
    good = isinstance(listed, list) and all(
        isinstance(span, list) and len(span) == 2 and all(type(end) is int and end >= 0 for end in span)
        for span in listed
    )
    return Spans((start, end) for start, end in listed) if good and isinstance(listed, list) else Spans()
