"""dfs.node.identity: which node this is, and which disks it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from dfs.errors import StartError
from dfs.model import AdminState, ClusterInfo
from dfs.node import identity
from dfs.node.identity import Whereabouts, check_disk, hostname_id, locate
from dfs.node.imds import Ec2Facts
from dfs.settings import NodeSettings
from dfs.store.identity import DiskIdentity, create_identity
from tests.unit.node.fakes import NODE

EC2 = Ec2Facts("i-0abc", "10.0.0.7", "eu-west-1a")
CLUSTER = ClusterInfo("c1", 1, 1)
HERE = Whereabouts("n1", "127.0.0.1", None, None, Path("/data"))
DISK = DiskIdentity("n1", "d1", "c1", 1)


def must_not_ask() -> Ec2Facts | None:
    pytest.fail("asked EC2")


def test_settings_beat_all(tmp_path: Path) -> None:
    settings = NodeSettings(node_id="a", node_private_ip="10.1.1.1", zone="z", data_dir=tmp_path)
    assert locate(settings, must_not_ask) == Whereabouts("a", "10.1.1.1", "z", None, tmp_path)


def test_ec2_answers_what_no_setting_does() -> None:
    assert locate(NodeSettings(), lambda: EC2) == Whereabouts(
        "i-0abc", "10.0.0.7", "eu-west-1a", "i-0abc", Path("dfs-data/i-0abc")
    )
    partly = locate(NodeSettings(node_id="a", node_private_ip="10.1.1.1"), lambda: EC2)
    assert partly == Whereabouts("a", "10.1.1.1", "eu-west-1a", "i-0abc", Path("dfs-data/a"))


def test_off_ec2_the_host_names_the_node() -> None:
    found = locate(NodeSettings(), lambda: None, lambda: "my.host")
    assert found == Whereabouts("node-my.host", "127.0.0.1", None, None, Path("dfs-data/node-my.host"))


def test_ec2_switched_off_is_not_asked() -> None:
    assert locate(NodeSettings(imds_disabled=True), must_not_ask, lambda: "h").node_id == "node-h"


def test_the_disk_names_the_node_before_ec2_does(tmp_path: Path) -> None:
    settings = NodeSettings(data_dir=tmp_path)
    assert locate(settings, lambda: EC2).node_id == "i-0abc"
    create_identity(tmp_path, "on-disk", "c1")
    assert locate(settings, lambda: EC2).node_id == "on-disk"


def test_host_names_become_legal_node_ids() -> None:
    assert hostname_id("a b/ü") == "node-a-b--"
    assert len(hostname_id("x" * 300)) == 64


def test_the_nodes_own_disk_and_a_new_one_are_taken() -> None:
    check_disk(DISK, HERE, CLUSTER, [NODE], ["volumes", "anything"])
    check_disk(DISK, HERE, CLUSTER, [], [])
    check_disk(None, HERE, CLUSTER, [replace(NODE, node_id="n2")], [])


def test_an_empty_directory_of_a_registered_node_is_refused_not_filled() -> None:
    with pytest.raises(StartError) as refused:
        check_disk(None, HERE, CLUSTER, [NODE], [])
    for part in ("DFS_DATA_DIR=/data has no node.json", "node n1 is registered with disk d1", "not mounted", "NODE_ID"):
        assert part in str(refused.value)


def test_a_directory_of_something_else_is_refused_not_filled() -> None:
    with pytest.raises(StartError, match=r"holds 'holiday.jpg' but no node.json"):
        check_disk(None, HERE, CLUSTER, [], ["holiday.jpg"])


def test_another_nodes_disk_is_refused() -> None:
    with pytest.raises(StartError, match="NODE_ID=n1, but the disk in DFS_DATA_DIR=/data belongs to node n2"):
        check_disk(replace(DISK, node_id="n2"), HERE, CLUSTER, [], [])


def test_another_clusters_disk_is_refused() -> None:
    with pytest.raises(StartError, match="belongs to cluster c9, but the metadata is that of cluster c1"):
        check_disk(replace(DISK, cluster_id="c9"), HERE, CLUSTER, [NODE], [])


def test_a_second_disk_with_the_node_id_is_refused() -> None:
    with pytest.raises(StartError, match="the disk in DFS_DATA_DIR=/data is d1, but node n1 is registered with disk d2"):
        check_disk(DISK, HERE, CLUSTER, [replace(NODE, disk_id="d2")], [])


@pytest.mark.parametrize(
    ("address", "url", "warned"),
    [("127.0.0.1", "dynamodb://", True), ("127.0.0.1", "sqlite:///x", False), ("10.0.0.1", "dynamodb://", False)],
)
def test_an_address_that_others_cannot_use_is_warned_of(
    address: str, url: str, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr(identity.logs, "warning", lambda word, **_: said.append(word))
    identity.warn_if_only_local(address, url)
    assert said == (["node.address_is_loopback"] if warned else [])


def test_a_decommissioned_node_is_told_how_to_come_back() -> None:
    gone = replace(NODE, admin_state=AdminState.DECOMMISSIONED)
    for disk in (DISK, None):
        with pytest.raises(StartError) as refused:
            check_disk(disk, HERE, CLUSTER, [gone], [])
        assert "python -m dfs.admin activate n1 --force and start" in str(refused.value)
        assert "a NODE_ID of its own" in str(refused.value)


@pytest.mark.parametrize("disk", [None, replace(DISK, disk_id="d9")])
def test_the_command_for_a_disk_lost_for_good_is_named(disk: DiskIdentity | None) -> None:
    with pytest.raises(StartError, match="python -m dfs.admin decommission n1$"):
        check_disk(disk, HERE, CLUSTER, [NODE], [])
