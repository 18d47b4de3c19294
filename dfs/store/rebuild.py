"""A new index for a store that runs, made by reading its volume files from end to end."""

from __future__ import annotations

from collections.abc import Callable

from dfs.errors import Unavailable
from dfs.store.entry import Entry, entry_of
from dfs.store.index import Index
from dfs.store.index_change import VolumeRow
from dfs.store.record import INDEXED
from dfs.store.scan import Damage, walk
from dfs.store.set_aside import SetAside
from dfs.store.volume import VolumeFiles
from dfs.store.volumes import Volumes

_BATCH = 2000


def fill_index(
    index: Index,
    volumes: Volumes,
    files: VolumeFiles,
    aside: SetAside,
    active: int | None,
    keep_going: Callable[[], bool] = lambda: True,
) -> None:
    """Enter every durable record of every volume. Raises OSError and sqlite3.Error, and Unavailable
    when it is not to keep going.

    No volume may be removed meanwhile; records that become durable meanwhile may be missed. What the
    disk cannot read is left to the next start, which reads such a volume again."""
    for volume in volumes.all():
        end = volume.end
        sealed = volume.number != active
        entries: list[Entry] = []
        with files.reading(volume.number) as file:
            for item in walk(file, volume.volume_id, 0, end):
                if isinstance(item, Damage):
                    message = (
                        f"bytes {item.offset} to {item.end} of a volume are no record, though they once were"
                    )
                    aside.keep_bytes(file, volume.number, item.offset, item.end, "corrupt_region", message)
                    if item.unreadable:
                        sealed, end = False, 0
                elif item.kind in INDEXED:
                    entries.append(entry_of(item, volume.number))
                if len(entries) >= _BATCH:
                    index.apply(
                        entries, [VolumeRow(volume.number, volume.volume_id, 0, False, volume.compacted)]
                    )
                    entries = []
                    if not keep_going():
                        raise Unavailable("the store is closing")
        index.apply(
            entries,
            [VolumeRow(volume.number, volume.volume_id, end, sealed, volume.compacted)],
            sequence=volumes.sequence,
        )
