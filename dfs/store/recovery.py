"""Start: what the volume files hold, and the index brought up to them.

A volume is never appended to again after a restart. Everything of it below the highest durable_upto
seen, below what the index has of it, and below the length that the next volume's header tells, was
durable and must be good: what is not is corruption, kept and reported. Above that the volume ends at
the first bad record; the rest is set aside, cut off and forgotten. What remains above it was perhaps
only in the page cache, even after a failed sync: it is written again and synced before it counts.
Running it again, or after it was interrupted anywhere, gives the same result.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from dfs import logs
from dfs.errors import StartError
from dfs.store.disk import Disk, DiskFile, opened, read_fully, write_fully
from dfs.store.entry import Entry, entry_of
from dfs.store.extent import Extent
from dfs.store.identity import DiskIdentity
from dfs.store.index import Index
from dfs.store.index_change import VolumeRow
from dfs.store.record import INDEXED, Kind, Record
from dfs.store.scan import Damage, read_header
from dfs.store.set_aside import SetAside
from dfs.store.volume import TEMPORARY, Ending, Volume, is_compacted, previous_of, volume_name, volume_number
from dfs.store.volumes import Volumes

_BATCH = 2000
_REWRITE = 1 << 20
_JUMP = 1 << 20
"""Added to the sequence when a tail was cut, so that no record shares its number with a cut one."""


@dataclass(slots=True)
class _Found:
    """A volume file that has to be looked into."""

    number: int
    size: int
    header: Record | None
    row: VolumeRow | None

    @property
    def compacted(self) -> bool:
        if self.header is not None:
            return is_compacted(self.header)
        return self.row is not None and self.row.compacted

    @property
    def volume_id(self) -> bytes | None:
        return self.header.volume_id if self.header else self.row.volume_id if self.row else None


class Recovery:
    """One start. Raises StartError for a foreign disk, OSError and sqlite3.Error otherwise."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        identity: DiskIdentity,
        index: Index,
        aside: SetAside,
        volumes: Volumes,
        now: Callable[[], int],
    ) -> None:
        self._disk = disk
        self._now = now
        self._directory = directory
        self._identity = identity
        self._index = index
        self._aside = aside
        self._volumes = volumes
        self._sequence = index.sequence()
        self._endings: dict[int, Ending] = {}
        self._cut = False
        self.unsettled = False
        """A tail could not be cut off: only the next volume's header can say that it does not count."""

    def run(self) -> None:
        """Fill `volumes` and bring the index up to date."""
        sizes = self._list()
        vanished = [number for number in self._index.volumes if number not in sizes]
        for number in vanished:
            self._aside.report(
                "volume_missing", "a volume file that the index knows is not there any more", volume=number
            )
        if vanished:
            self._index.apply((), remove=vanished, now=self._now())
        highest = max(sizes, default=0)
        for found in self._look(sizes):
            self._recover(found)
        self._disk.sync_directory(self._directory)
        self._volumes.start_from(
            max(highest, *self._index.volumes, 0), self._sequence + (_JUMP if self._cut else 0)
        )
        for volume in self._volumes.all():
            if not volume.compacted:
                self._volumes.last = Ending(volume.number, volume.volume_id, volume.end)

    def _list(self) -> dict[int, int]:
        sizes = {}
        for name, size in self._disk.listdir(self._directory).items():
            number = volume_number(name)
            if number is not None:
                sizes[number] = size
            elif name.endswith(TEMPORARY):
                # An unfinished copy: what it was copied from is only removed after its renaming.
                self._disk.unlink(os.path.join(self._directory, name))
            else:
                logs.warning("store.strange_file", name=name)
        return sizes

    def _look(self, sizes: dict[int, int]) -> list[_Found]:
        """The volumes to look into, in order. Those that the index has whole join at once; of them,
        headers are read only where they tell the end of an earlier volume, and of the newest."""
        rows = self._index.volumes
        whole = {n for n, size in sizes.items() if n in rows and rows[n].sealed and rows[n].upto == size}
        first = min((number for number in sizes if number not in whole), default=max(sizes, default=0))
        found = []
        for number, size in sorted(sizes.items()):
            header = self._header(number) if number >= first else None
            row = rows.get(number)
            if row is not None and header is not None and header.volume_id != row.volume_id:
                self._index.apply((), remove=[number], now=self._now())
                row = None
            if row is not None and number in whole:
                self._volumes.add(Volume(number, row.volume_id, row.upto, row.compacted))
            else:
                found.append(_Found(number, size, header, row))
        return found

    def _header(self, number: int) -> Record | None:
        with opened(self._disk, self._path(number)) as file:
            header = read_header(file)
        if header is None or header.kind != Kind.VOLUME:
            return None
        disk_id = header.attributes.get("disk_id")
        if disk_id != self._identity.disk_id:
            raise StartError(
                f"{self._path(number)} belongs to disk {disk_id}, not to {self._identity.disk_id}: a foreign volume "
                "file was put here, or node.json belongs elsewhere; move it out of the directory and start again"
            )
        previous = previous_of(header)
        if previous is not None:
            self._endings[previous.number] = previous
        return header

    def _path(self, number: int) -> str:
        return os.path.join(self._directory, volume_name(number))

    def _recover(self, found: _Found) -> None:
        with opened(self._disk, self._path(found.number), write=True) as file:
            extent = self._extent(file, found)
            entries: list[Entry] = []
            for item in extent:
                if isinstance(item, Damage):
                    message = (
                        f"bytes {item.offset} to {item.end} of a volume are no record, though they once were"
                    )
                    self._aside.keep_bytes(
                        file, found.number, item.offset, item.end, "corrupt_region", message
                    )
                elif item.kind in INDEXED:
                    entries.append(entry_of(item, found.number))
                if len(entries) >= _BATCH:
                    self._take(entries, found, extent.volume_id)
                    entries = []
            self._sequence = max(self._sequence, extent.sequence)
            self._report_truncation(found, extent)
            end = extent.end
            if end == 0 or extent.volume_id is None:
                self._remove_junk(file, found)
                return
            if not extent.unreadable:
                self._finish(file, found, extent)
        if extent.unreadable:
            self.unsettled = True
            self._aside.report("unreadable", "the disk cannot read all of a volume", volume=found.number)
            self._take(entries, found, extent.volume_id)  # and the next start looks at all of it again
        else:
            row = VolumeRow(found.number, extent.volume_id, end, sealed=True, compacted=found.compacted)
            self._index.apply(entries, [row], sequence=self._sequence)
        self._volumes.add(Volume(found.number, extent.volume_id, end, found.compacted))

    def _finish(self, file: DiskFile, found: _Found, extent: Extent) -> None:
        """Cut what does not count, and make durable what does."""
        if extent.end < found.size:
            self._cut = True
            if self._keep_tail(file, found, extent.end):
                file.truncate(extent.end)
            else:
                self.unsettled = True
        _write_again(file, extent.durable, extent.end)
        if extent.end < found.size or extent.durable < extent.end:
            file.sync()

    def _extent(self, file: DiskFile, found: _Found) -> Extent:
        ending, row = self._endings.get(found.number), found.row
        volume_id = found.volume_id or (ending.volume_id if ending else None)
        indexed = row.upto if row else 0
        limit = row.upto if row and row.sealed else found.size
        durable = found.size if found.compacted else indexed
        if ending is not None and ending.volume_id == volume_id:
            limit, durable = min(limit, ending.length), max(durable, ending.length)
        return Extent(
            file, volume_id, min(indexed, found.size), min(limit, found.size), max(durable, indexed)
        )

    def _report_truncation(self, found: _Found, extent: Extent) -> None:
        lost = extent.durable > found.size
        if found.compacted and not (found.row and found.row.upto) and not lost:
            last = extent.last
            lost = last is None or last.kind != Kind.MARK or last.end != found.size
        if lost:
            message = f"a volume has only {found.size} bytes and once had more"
            self._aside.report("truncated_volume", message, volume=found.number, offset=found.size)

    def _take(self, entries: list[Entry], found: _Found, volume_id: bytes | None) -> None:
        """Rows of a volume that is not yet scanned to its end: should this be interrupted, they will
        be taken again."""
        upto = found.row.upto if found.row else 0
        row = VolumeRow(found.number, volume_id or b"", upto, sealed=False, compacted=found.compacted)
        self._index.apply(entries, [row], sequence=self._sequence)

    def _keep_tail(self, file: DiskFile, found: _Found, end: int) -> bool:
        try:
            if all(not any(data) for data in _pieces(file, end, found.size)):
                return True
        except OSError as error:
            logs.warning("store.unreadable_tail", volume=found.number, error=error)
            return False
        message = f"bytes {end} to {found.size} of a volume were never acknowledged"
        return self._aside.keep_bytes(file, found.number, end, found.size, "cut_tail", message)

    def _remove_junk(self, file: DiskFile, found: _Found) -> None:
        """A volume file that was being made when the power went: not one record in it."""
        if self._keep_tail(file, found, 0):
            self._disk.unlink(self._path(found.number))
            if found.row is not None:
                self._index.apply((), remove=[found.number], now=self._now())


def _pieces(file: DiskFile, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _REWRITE):
        yield read_fully(file, min(_REWRITE, end - at), at)


def _write_again(file: DiskFile, start: int, end: int) -> None:
    """Make the page cache's view of these bytes the disk's, whatever a failed sync left behind."""
    at = start
    for data in _pieces(file, start, end):
        at += write_fully(file, [data], at)
