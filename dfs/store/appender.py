"""The volume being appended to: writing, syncing, sealing, and beginning the next one.

Used by one thread at a time (the leader of the group commit). After a failed write or sync nothing
is known of the bytes behind the last success: the volume is sealed at that place for good, and
nothing more is acknowledged, not even what needs no writing, before the next volume's header says
durably where this one ends. So a record of which a failure was reported cannot come back.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dfs import logs
from dfs.store.ballast import Ballast
from dfs.store.chunk import PIECE
from dfs.store.disk import BLOCK, DIRECT_BYTES, Bytes, Disk, DiskFile, close_quietly, write_fully
from dfs.store.entry import Entry
from dfs.store.identity import DiskIdentity
from dfs.store.index_change import VolumeRow
from dfs.store.record import FIXED_BYTES, MAX_ATTRIBUTES, NO_FILE, Kind, encode_header, header_size, padded
from dfs.store.volume import Ending, Volume, make_header, volume_name
from dfs.store.volumes import Volumes

_JOIN = 64 * 1024
_HEADER_ROOM = 1024
_PADS = [bytes(n) for n in range(8)]


@dataclass(slots=True)
class Append:
    """A record to be written; its place, sequence and durable_upto are decided when it is."""

    kind: Kind
    file_id: bytes = NO_FILE
    chunk_index: int = 0
    body: Bytes = b""
    sha256: bytes = bytes(32)
    crcs: tuple[int, ...] | None = ()
    """CRC-32 of each piece; None until they are known, which must be before it is written."""
    attributes: bytes = b"{}"
    created: int = 0
    chunk_size: int = 0
    file_size: int | None = None
    entry: Entry | None = None

    @property
    def size(self) -> int:
        """Bytes that the record takes at most: a large body is moved on to the next block."""
        length = len(self.body)
        size = header_size(len(self.attributes), -(-length // PIECE)) + padded(length)
        return size + BLOCK if length >= DIRECT_BYTES else size


@dataclass(slots=True)
class _Active:
    file: DiskFile
    number: int
    volume_id: bytes
    start: int
    """Where the first record after the header goes."""
    end: int
    """Everything below is durable; the next record goes here."""
    marked: bool = True


class Appender:
    """Appends records durably. Methods raise OSError; then none of the records given is stored."""

    def __init__(
        self,
        disk: Disk,
        directory: str,
        identity: DiskIdentity,
        volumes: Volumes,
        ballast: Ballast,
        *,
        volume_size: int,
        now: Callable[[], int],
        on_durable: Callable[[Sequence[Entry], VolumeRow], None],
    ) -> None:
        self._disk = disk
        self._directory = directory
        self._identity = identity
        self._volumes = volumes
        self._ballast = ballast
        self._volume_size = volume_size
        self._now = now
        self._on_durable = on_durable
        self._active: _Active | None = None
        self.unsettled = False
        """A volume was sealed after a failure, and no durable header says so yet."""

    @property
    def unmarked(self) -> bool:
        """Whether records have been appended since the last MARK."""
        active = self._active
        return active is not None and not active.marked

    @property
    def active_number(self) -> int | None:
        """The volume being appended to."""
        active = self._active
        return active.number if active else None

    @property
    def newest(self) -> int | None:
        """The volume appended to now, or last: it has the highest sequence."""
        active, last = self._active, self._volumes.last
        return active.number if active else last.number if last else None

    def room(self) -> int:
        """Bytes left in the volume."""
        active = self._active
        return -1 if active is None else self._volume_size - active.end

    @property
    def fresh_room(self) -> int:
        """Bytes that a new volume takes."""
        return self._volume_size - _HEADER_ROOM

    def make_room(self, size: int) -> None:
        """Begin a new volume when `size` bytes do not fit into this one, or there is none.

        A record larger than a volume gets one of its own."""
        active = self._active
        if active is not None and active.end > active.start and active.end + size > self._volume_size:
            self._finish(active)
            active = None
        if active is None:
            self._begin()

    def _finish(self, active: _Active) -> None:
        """Roll: MARK and sync. All records are durable already, so a failure costs only the MARK,
        in place of which the next header tells the end."""
        if not active.marked:
            try:
                self.append([Append(Kind.MARK, created=self._now())])
            except OSError as error:
                logs.warning("store.mark_failed", volume=active.number, error=error)
        if self._active is not None:
            self._seal(active)
            self.unsettled = False

    def _seal(self, active: _Active) -> None:
        self._active = None
        self.unsettled = True
        self._volumes.last = Ending(active.number, active.volume_id, active.end)
        close_quietly(active.file, volume_name(active.number))
        self._on_durable(
            (), VolumeRow(active.number, active.volume_id, active.end, sealed=True, compacted=False)
        )

    def _begin(self) -> None:
        number, volume_id = self._volumes.next_number(), uuid.uuid4().bytes
        header = make_header(
            self._identity,
            number,
            volume_id,
            self._volumes.next_sequence(),
            self._now(),
            self._volumes.last,
            compacted=False,
        )
        path = os.path.join(self._directory, volume_name(number))
        file = self._disk.create(path)
        try:
            write_fully(file, [header], 0)
            file.sync()
            self._disk.sync_directory(self._directory)
        except BaseException:
            self._abandon(file, path)
            raise
        self._active = _Active(file, number, volume_id, len(header), len(header))
        self._volumes.add(Volume(number, volume_id, len(header)))
        self.unsettled = False
        self._on_durable((), VolumeRow(number, volume_id, len(header), sealed=False, compacted=False))

    def _abandon(self, file: DiskFile, path: str) -> None:
        """Nothing was acknowledged from it, and its number is not used again."""
        try:
            file.close()
            self._disk.unlink(path)
        except OSError as error:
            logs.warning("store.abandoned_volume", path=path, error=error)

    def append(self, appends: Sequence[Append]) -> None:
        """Write the records to the active volume and sync them; `entry` of each is set when that
        has succeeded. Raises OSError after sealing the volume."""
        active = self._active
        assert active is not None, "make_room comes first"
        sequence = self._volumes.next_sequence(len(appends))
        parts: list[Bytes] = []
        entries = []
        offset = active.end
        for append in appends:
            header = encode_header(
                append.kind,
                volume_id=active.volume_id,
                offset=offset,
                sequence=sequence,
                durable_upto=active.end,
                created=append.created,
                file_id=append.file_id,
                chunk_index=append.chunk_index,
                length=len(append.body),
                sha256=append.sha256,
                attributes=_spaced(append, offset),
                crcs=append.crcs or (),
            )
            size = len(header) + padded(len(append.body))
            parts.append(header)
            if len(append.body):
                parts += (append.body, _PADS[-len(append.body) % 8])
            entries.append(
                Entry(
                    int(append.kind), append.file_id, append.chunk_index, active.number, offset, size, sequence,
                    append.created, len(append.body), append.sha256, append.chunk_size, append.file_size,
                )
            )  # fmt: skip
            offset += size
            sequence += 1
        if offset - active.end <= _JOIN:
            parts = [b"".join(parts)]
        try:
            write_fully(active.file, parts, active.end)
            active.file.sync()
        except BaseException:
            self._seal(active)
            raise
        active.end = offset
        active.marked = len(appends) == 1 and appends[0].kind == Kind.MARK
        self._volumes.grow(active.number, offset)
        for append, entry in zip(appends, entries, strict=True):
            append.entry = entry
        self._on_durable(
            entries, VolumeRow(active.number, active.volume_id, offset, sealed=False, compacted=False)
        )

    def make_space(self) -> bool:
        """Give up the ballast, so that deletes go on on a full disk; whether there was any."""
        return self._ballast.release()

    def close(self) -> None:
        """Let go of the volume, which ends where it is durable. Nothing is written."""
        if self._active is not None:
            self._seal(self._active)
            self.unsettled = False


def _spaced(append: Append, offset: int) -> bytes:
    """The attributes of a record at `offset`, with blanks at their end if its body is large: so many
    that the body begins with a block of the disk and can be written past the page cache.

    Where that is more than attributes may have, the body stays where it falls."""
    attributes = append.attributes
    if len(append.body) < DIRECT_BYTES:
        return attributes
    pieces = -(-len(append.body) // PIECE)
    least = header_size(len(attributes), pieces)
    length = least + -(offset + least) % BLOCK - FIXED_BYTES - 4 * pieces - 4
    return attributes.ljust(length) if length <= MAX_ATTRIBUTES else attributes
