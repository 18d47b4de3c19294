"""Which node this process is, and whether the disk it was given is that node's.

A disk is never filled on doubt: an empty directory under a node id that the registry knows with
another disk (the volume is not mounted, or another one is), a disk of another node or cluster, and
a directory with strange contents are all refused with a sentence that says what to do.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfs import logs
from dfs.errors import StartError
from dfs.model import AdminState, ClusterInfo, NodeInfo
from dfs.node.imds import Ec2Facts
from dfs.settings import NodeSettings
from dfs.store.identity import DiskIdentity, load_identity

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What this process is called and where it is found."""

    node_id: str
    address: str
    zone: str | None
    instance_id: str | None
    data_dir: Path


def locate(
    settings: NodeSettings,
    ask_ec2: Callable[[], Ec2Facts | None],
    hostname: Callable[[], str] = socket.gethostname,
) -> Whereabouts:
    """Settings first, then the data directory, then EC2, then the host's name.

    EC2 is asked only when some setting leaves a question open. Raises StartError.
    """
    complete = settings.node_id and settings.node_private_ip and settings.zone
    asked = None if complete or settings.imds_disabled else ask_ec2()
    facts = asked or Ec2Facts(None, None, None)
    node_id = (
        settings.node_id
        or (settings.data_dir and _named_by(settings.data_dir))
        or facts.instance_id
        or hostname_id(hostname())
    )
    return Whereabouts(
        node_id=node_id,
        address=settings.node_private_ip or facts.address or LOOPBACK,
        zone=settings.zone or facts.zone,
        instance_id=facts.instance_id,
        data_dir=settings.data_dir or Path("dfs-data") / node_id,
    )


def hostname_id(hostname: str) -> str:
    """The node id of last resort; characters that an id may not have become `-`."""
    return ("node-" + re.sub(r"[^A-Za-z0-9._-]", "-", hostname))[:64]


def _named_by(directory: Path) -> str | None:
    identity = load_identity(directory)
    return identity.node_id if identity else None


def check_disk(
    identity: DiskIdentity | None,
    where: Whereabouts,
    cluster: ClusterInfo,
    registered: Sequence[NodeInfo],
    contents: Sequence[str],
) -> None:
    """Return when the disk may serve (or, without an identity, be given one) as `where.node_id`.

    `identity` is what node.json says (None: there is none), `registered` the registry's rows,
    `contents` the names in the directory that no start of dfs leaves there. Raises StartError.
    """
    place = f"DFS_DATA_DIR={where.data_dir}"
    row = next((node for node in registered if node.node_id == where.node_id), None)
    if row is not None and row.admin_state is AdminState.DECOMMISSIONED and (
        identity is None or identity.disk_id == row.disk_id
    ):
        raise StartError(decommissioned_sentence(where.node_id))
    if identity is None:
        if row is not None:
            raise StartError(
                f"{place} has no node.json, but node {where.node_id} is registered with disk {row.disk_id}: the volume is "
                "not mounted there, or an empty one is. Mount the right disk and start again; if it is lost for good, "
                "start the empty one under a NODE_ID of its own and then run: "
                f"python -m dfs.admin decommission {where.node_id}"
            )
        if contents:
            raise StartError(
                f"{place} holds {contents[0]!r} but no node.json, so it is not a data directory of dfs: "
                "choose an empty directory"
            )
        return
    if identity.node_id != where.node_id:
        raise StartError(
            f"NODE_ID={where.node_id}, but the disk in {place} belongs to node {identity.node_id}: mount the disk of "
            f"{where.node_id}, or leave NODE_ID unset to run as {identity.node_id}"
        )
    if identity.cluster_id != cluster.cluster_id:
        raise StartError(
            f"the disk in {place} belongs to cluster {identity.cluster_id}, but the metadata is that of cluster "
            f"{cluster.cluster_id}: point DFS_METADATA_URL and the table names at the right metadata, or mount "
            "another disk"
        )
    if row is not None and row.disk_id != identity.disk_id:
        raise StartError(
            f"the disk in {place} is {identity.disk_id}, but node {where.node_id} is registered with disk "
            f"{row.disk_id}: two disks carry the same node id. Mount the right one; if it is lost for good, empty this "
            "one, start it under a NODE_ID of its own, and then run: "
            f"python -m dfs.admin decommission {where.node_id}"
        )


def decommissioned_sentence(node_id: str) -> str:
    """Why a decommissioned node does not start, and what to do."""
    return (
        f"node {node_id} was decommissioned: to take it back, run: python -m dfs.admin activate {node_id} --force and "
        "start it again; to use the disk for something new, empty it and start it under a NODE_ID of its own"
    )


def warn_if_only_local(address: str, metadata_url: str) -> None:
    """Say so when a node that others must reach registers an address that they cannot use."""
    if address == LOOPBACK and metadata_url == "dynamodb://":
        logs.warning(
            "node.address_is_loopback",
            address=address,
            consequence="only API servers on this machine reach the node; NODE_PRIVATE_IP sets another",
        )
