"""Opening a node's data directory: looked at first, given an identity when new, then recovered."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dfs import logs
from dfs.errors import StartError
from dfs.model import ClusterInfo, NodeInfo
from dfs.node.identity import Whereabouts, check_disk
from dfs.settings import NodeSettings
from dfs.store.disk import OsDisk
from dfs.store.identity import IDENTITY_FILE, LOCK_FILE, create_identity, load_identity, lock_directory
from dfs.store.store import ChunkStore, Report, StoreOptions

# What a start may leave in a directory before it has an identity, and what a file system brings.
# Volumes without an identity are for `create_identity` to refuse, which knows what to do with them.
_EXPECTED = frozenset({LOCK_FILE, f"{IDENTITY_FILE}.tmp", "volumes", "lost+found"})


def open_disk(
    settings: NodeSettings,
    where: Whereabouts,
    cluster: ClusterInfo,
    registered: Sequence[NodeInfo],
    on_fatal: Callable[[str], None],
) -> ChunkStore:
    """The recovered store of `where.node_id` in `where.data_dir`.

    The registry's rows (`registered`) are read before, so that a volume that is not mounted is told
    from a new one. Raises StartError naming DFS_DATA_DIR when the directory cannot be used, is in
    use by another process, or is not this node's.
    """
    directory = where.data_dir
    with _naming_the_setting(directory):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = lock_directory(directory)  # no two processes may both find it empty
        try:
            identity = load_identity(directory)
            unexpected = sorted(entry.name for entry in directory.iterdir() if entry.name not in _EXPECTED)
            check_disk(identity, where, cluster, registered, unexpected)
            if identity is None:
                identity = create_identity(directory, where.node_id, cluster.cluster_id)
                logs.event("disk.created", directory=directory, node_id=identity.node_id, disk_id=identity.disk_id)
        finally:
            lock.release()  # the store takes it again: whoever gets in between finds the identity
        options = StoreOptions(volume_size=settings.volume_size, on_report=_log_report, on_fatal=on_fatal)
        return ChunkStore.open(directory, identity, options, OsDisk(direct=settings.direct_writes == "yes"))


@contextmanager
def _naming_the_setting(directory: Path) -> Iterator[None]:
    """Whatever is wrong with the directory is said together with the setting that chose it."""
    setting = f"DFS_DATA_DIR={directory}"
    try:
        yield
    except OSError as error:
        raise StartError(
            f"{setting}: the data directory cannot be used ({error.strerror}): choose one that this user may write"
        ) from error
    except StartError as error:
        raise (error if setting in str(error) else StartError(f"{setting}: {error}")) from error


def _log_report(report: Report) -> None:
    logs.warning(
        "disk.report",
        kind=report.kind,
        message=report.message,
        volume=report.volume,
        offset=report.offset,
        file_id=report.file_id,
        chunk_index=report.chunk_index,
        set_aside=report.set_aside,
    )
