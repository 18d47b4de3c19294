"""Putting a store together: directories, index, recovery."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dfs import logs
from dfs.errors import StartError
from dfs.store.appender import Appender
from dfs.store.ballast import Ballast
from dfs.store.catalog import Catalog
from dfs.store.chunk import StoreOptions
from dfs.store.claims import Claims
from dfs.store.commit import Committer
from dfs.store.compact import Compactor
from dfs.store.disk import Disk
from dfs.store.entry import Entry
from dfs.store.identity import DiskIdentity
from dfs.store.index import Index, IndexDamaged
from dfs.store.index_change import VolumeRow
from dfs.store.index_file import IndexFile
from dfs.store.index_upkeep import recall_bad
from dfs.store.recovery import Recovery
from dfs.store.set_aside import SetAside
from dfs.store.volume import SET_ASIDE, VOLUMES, VolumeFiles
from dfs.store.volumes import Volumes

INDEX_NAME = "index.db"


@dataclass(slots=True)
class Parts:
    """What a store is made of."""

    volumes: Volumes
    files: VolumeFiles
    aside: SetAside
    claims: Claims
    catalog: Catalog
    appender: Appender
    committer: Committer
    compactor: Compactor
    ballast: Ballast
    now: Callable[[], int]
    """Milliseconds since the epoch."""


def prepare(disk: Disk, directory: str) -> None:
    """Make the directories. Raises OSError."""
    for name in (VOLUMES, SET_ASIDE):
        disk.make_directory(os.path.join(directory, name))
    disk.sync_directory(directory)


def assemble(
    disk: Disk,
    directory: str,
    identity: DiskIdentity,
    options: StoreOptions,
    index_file: IndexFile,
    now: Callable[[], int],
    pace: Callable[[int], bool],
    touched: Callable[[], None],
) -> Parts:
    """Recover what the directory holds and put a store on top. Raises OSError and StartError.

    `pace` slows compaction down, `touched` is called after each commit."""
    aside = SetAside(disk, os.path.join(directory, SET_ASIDE), now=now, on_report=options.on_report)
    ballast = Ballast(
        disk,
        directory,
        options.ballast_bytes,
        lambda: disk.space(directory).free > options.reserve + options.ballast_bytes,
    )
    index, volumes, unsettled = _recover(disk, directory, identity, index_file, aside, ballast, now)
    place = os.path.join(directory, VOLUMES)
    files = VolumeFiles(disk, place)
    claims = Claims()
    def on_failure(error: Exception) -> None:
        logs.error("store.index_failed", error=error)
        if getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
            ballast.release()  # without the index nothing that is deleted gives its space back

    catalog = Catalog(
        index,
        claims,
        limit=options.pending_limit,
        on_failure=on_failure,
    )

    def on_durable(entries: Sequence[Entry], row: VolumeRow) -> None:
        catalog.add(entries, row, volumes.sequence)
        touched()

    appender = Appender(
        disk,
        place,
        identity,
        volumes,
        ballast,
        volume_size=options.volume_size,
        now=now,
        on_durable=on_durable,
    )
    appender.unsettled = unsettled
    committer = Committer(
        appender,
        batch_bytes=options.batch_bytes,
        failures_until_stop=options.failures_until_stop,
        on_fatal=options.on_fatal,
    )
    compactor = Compactor(
        disk,
        place,
        identity,
        volumes,
        files,
        catalog,
        aside,
        volume_size=options.volume_size,
        now=now,
        erase_memory_ms=int(options.erase_memory_days * 86_400_000),
        pace=pace,
    )
    ballast.take()
    return Parts(volumes, files, aside, claims, catalog, appender, committer, compactor, ballast, now)


def _recover(
    disk: Disk,
    directory: str,
    identity: DiskIdentity,
    index_file: IndexFile,
    aside: SetAside,
    ballast: Ballast,
    now: Callable[[], int],
) -> tuple[Index, Volumes, bool]:
    try:
        return _recover_with(disk, directory, identity, index_file, aside, now)
    except (sqlite3.Error, IndexDamaged) as error:
        aside.report(
            "index_discarded",
            f"the index is made anew from the volume files ({error}); when chunks were last verified is forgotten",
        )
    try:
        ballast.release()
        index_file.discard()
        return _recover_with(disk, directory, identity, index_file, aside, now)
    except sqlite3.Error as error:
        raise StartError(
            f"the index of {directory} cannot be written ({error}): see that the disk is not full and is writable"
        ) from error


def _recover_with(
    disk: Disk,
    directory: str,
    identity: DiskIdentity,
    index_file: IndexFile,
    aside: SetAside,
    now: Callable[[], int],
) -> tuple[Index, Volumes, bool]:
    index = Index(index_file, identity.disk_id)
    try:
        volumes = Volumes()
        recovery = Recovery(disk, os.path.join(directory, VOLUMES), identity, index, aside, volumes, now)
        recovery.run()
        recall_bad(index, aside.records(), now())
    except BaseException:
        index.close()
        raise
    return index, volumes, recovery.unsettled
