"""A small file system of its own for a directory, gone again whatever happens to the test.

A tmpfs (root, Linux). It is unmounted when the context ends; should this process be killed before, a
child that waits for the end of a pipe unmounts it.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support import needs

_WATCH = 'trap "" INT TERM HUP; mount -t tmpfs -o "size=$1,mode=700" dfs-test "$2" || exit 1; echo there; read -r _; umount -l "$2"'


@contextmanager
def file_system(directory: Path, size: int) -> Iterator[FileSystem]:
    """`directory` (made when missing) as a file system of `size` bytes. Skips where none can be mounted."""
    needs.mounts()
    directory.mkdir(parents=True, exist_ok=True)
    watch = subprocess.Popen(
        ["sh", "-c", _WATCH, "sh", str(size), str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert watch.stdin is not None and watch.stdout is not None
    try:
        assert watch.stdout.readline() == "there\n", f"{directory} could not be mounted"
        yield FileSystem(directory)
    finally:
        watch.stdin.close()
        watch.wait(30)
        watch.stdout.close()


class FileSystem:
    """A mounted file system, and something that fills it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._filler = directory / "somebody-else.bin"

    def free(self) -> int:
        """Bytes that are free."""
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Somebody else takes all space but `leave` bytes."""
        piece = bytes(1 << 20)
        try:
            with open(self._filler, "ab", buffering=0) as filler:
                while (more := min(len(piece), self.free() - leave)) > 0:
                    filler.write(piece[:more])
        except OSError as error:
            if error.errno != errno.ENOSPC:  # full to the brim
                raise

    def give_some_back(self, size: int) -> None:
        """Somebody else has done with `size` bytes of his."""
        os.truncate(self._filler, max(0, self._filler.stat().st_size - size))

    def give_back(self) -> None:
        """Somebody else deletes what he had."""
        self._filler.unlink(missing_ok=True)
