"""A few megabytes kept occupied, so that deletes can be written when the disk is full to the brim.

The reserve keeps the store itself from filling the disk; other programs know no reserve.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from dfs import logs
from dfs.store.disk import Disk, write_fully

NAME = "ballast"


class Ballast:
    """The file `ballast`. `wanted` tells whether there is room enough to make it again."""

    def __init__(self, disk: Disk, directory: str, size: int, wanted: Callable[[], bool]) -> None:
        self._disk = disk
        self._directory = directory
        self._path = os.path.join(directory, NAME)
        self._size = size
        self._wanted = wanted
        self._present = False

    def take(self) -> None:
        """Occupy the space unless that is done or there is too little; a failure is logged."""
        if self._present or not self._size:
            return
        try:
            size = self._disk.listdir(self._directory).get(NAME)
            if size is not None and size >= self._size:
                self._present = True
                return
            if not self._wanted():
                return
            if size is not None:
                self._disk.unlink(self._path)
            file = self._disk.create(self._path)
            try:
                piece = bytes(min(self._size, 1 << 20))
                for at in range(0, self._size, len(piece)):
                    write_fully(file, [piece], at)
                file.sync()
            finally:
                file.close()
            self._present = True
        except OSError as error:
            logs.warning("store.no_ballast", path=self._path, error=error)

    def release(self) -> bool:
        """Free the space; whether there was any to free."""
        self._present = False
        try:
            if NAME not in self._disk.listdir(self._directory):
                return False
            self._disk.unlink(self._path)
            self._disk.sync_directory(self._directory)
        except OSError as error:
            logs.warning("store.ballast_stays", path=self._path, error=error)
            return False
        logs.warning("store.ballast_released", path=self._path, bytes=self._size)
        return True
