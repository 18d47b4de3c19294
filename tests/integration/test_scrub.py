"""Bit rot on a real node's disk: found by one scrub, remembered, healed; and what operators tell a node."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs import errors
from dfs.cluster.calls import NodeCalls
from dfs.cluster.nodeanswers import Verified
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.model import AdminState, NodeInfo
from dfs.store.disk import OsDisk
from dfs.store.record import Kind, Record
from dfs.store.scan import walk
from dfs.wire.client import HttpClient
from dfs.wire.deadline import Deadline
from tests.integration.test_node_process import Lab, call, chunk, content, new_id
from tests.support.cluster import Server, eventually

SIZES = (1, 700, 5_000, 70_000, 300_000)


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    yield made
    for server in made.servers:
        server.kill()
    made.metadata.close()


@pytest.fixture
def upkeep(lab: Lab) -> Iterator[UpkeepCalls]:
    http = HttpClient()
    yield UpkeepCalls(NodeCalls(http, lab.cluster_id, 5.0))
    http.close()


def soon() -> Deadline:
    return Deadline(60)


def records(directory: Path) -> Iterator[tuple[Path, Record]]:
    """The DATA records of a node's volume files."""
    disk = OsDisk()
    for path in sorted((directory / "volumes").glob("*.vol")):
        with contextlib.closing(disk.open(str(path))) as file:
            for item in walk(file, None, 0, file.size()):
                if isinstance(item, Record) and item.kind == Kind.DATA:
                    yield path, item


def flip(path: Path, offset: int, bit: int) -> None:
    descriptor = os.open(path, os.O_RDWR)
    try:
        byte = os.pread(descriptor, 1, offset)[0]
        os.pwrite(descriptor, bytes([byte ^ 1 << bit]), offset)
    finally:
        os.close(descriptor)


def scrubbed(node: Server, mbps: int = 10_000) -> dict[str, object]:
    """The scrubber's report after a pass over everything, begun now."""
    ordered = call(node, "POST", f"/scrub?mbps={mbps}").json["began_at"]

    def report() -> dict[str, object]:
        found: dict[str, object] = call(node, "GET", "/healthz").json["scrub"]
        return found

    eventually(lambda: report()["scrubbed_at"] == ordered, "the pass is complete")
    return report()


def bad(upkeep: UpkeepCalls, node: NodeInfo) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    after: tuple[str, int] | None = None
    while True:
        page = upkeep.bad_chunks(node, after=after, limit=3, deadline=soon())
        found += [(chunk.file_id, chunk.chunk_index) for chunk in page.chunks]
        if page.next is None:
            return found
        after = page.next


def test_one_scrub_finds_every_flipped_bit_and_nothing_else_and_pulling_heals(lab: Lab, upkeep: UpkeepCalls) -> None:
    first, second = lab.started("n1"), lab.started("n2")
    stored = {}
    for number in range(400):
        file_id, data = new_id(), content(SIZES[number % len(SIZES)] + number)
        for node in (first, second):
            assert call(node, "PUT", chunk(file_id), data).status == 201
        stored[file_id] = data
    seed = random.randrange(1 << 32)
    print("seed", seed)
    rng = random.Random(seed)
    everything = list(records(lab.directory / "n1"))
    assert len(everything) == 400
    chosen = rng.sample(everything, 4)
    for path, record in chosen:
        flip(path, record.offset + rng.randrange(record.size), rng.randrange(8))
    hurt = sorted((str(uuid.UUID(bytes=record.file_id)), 0) for _, record in chosen)

    report = scrubbed(first)
    assert (report["bad"], report["warning"]) == (4, None)
    row = lab.row("n1")
    assert bad(upkeep, row) == hurt
    assert len(list((lab.directory / "n1" / "set-aside").iterdir())) == 4
    eventually(lambda: lab.row("n1").bad_chunks == 4, "the registry knows")
    eventually(lambda: lab.row("n1").scrubbed_at == report["scrubbed_at"], "and when the scrub was")
    page = upkeep.inventory(row, 0, 1000, deadline=soon())
    assert sorted((entry.file_id, 0) for entry in page.chunks if entry.verified is None) == hurt

    first.kill()
    first.start()
    row = lab.row("n1")
    assert bad(upkeep, row) == hurt

    for file_id, index in hurt:
        data = stored[file_id]
        found = upkeep.verify_many(row, [(file_id, index)], deadline=soon())
        assert isinstance(found[0], errors.CorruptChunk)
        good = upkeep.verify(lab.row("n2"), file_id, index, deadline=soon())
        upkeep.pull(
            row, lab.row("n2"), file_id, index, checksum=good.checksum, length=len(data), chunk_size=1 << 20,
            file_size=None, fence=Fence("repair", 1, 1), deadline=soon(),
        )  # fmt: skip
        assert upkeep.verify_many(row, [(file_id, index)], deadline=soon()) == [Verified(good.checksum, len(data))]
    assert bad(upkeep, row) == []
    eventually(lambda: lab.row("n1").bad_chunks == 0, "the registry knows that all is well")
    assert scrubbed(first)["found"] == 0


def test_a_scrub_goes_on_where_kill_9_ended_it(lab: Lab) -> None:
    node = lab.started("n1")
    for _ in range(48):
        assert call(node, "PUT", chunk(new_id()), content(256 * 1024)).status == 201
    began = call(node, "POST", "/scrub?mbps=2").json

    def done() -> int:
        return int(call(node, "GET", "/healthz").json["scrub"]["done_bytes"])

    eventually(lambda: done() >= 7 << 20, "most of the pass is done")
    node.kill()
    node.start()
    eventually(lambda: done() >= 3 << 20, "it goes on")
    report = call(node, "GET", "/healthz").json["scrub"]
    assert report["began_at"] == began["began_at"], "the same pass"
    assert report["total_bytes"] == began["total_bytes"]
    assert "scrub.goes_on" in node.said()


def test_a_scrub_too_slow_for_its_period_is_said(lab: Lab) -> None:
    node = lab.started("n1", DFS_SCRUB_MBPS="1", DFS_SCRUB_PERIOD="1")
    assert call(node, "PUT", chunk(new_id()), content(3 << 20)).status == 201
    warning = call(node, "GET", "/healthz").json["scrub"]["warning"]
    assert "takes 4 MB/s, more than DFS_SCRUB_MBPS=1" in warning


def test_an_older_leader_is_refused_also_after_a_restart(lab: Lab, upkeep: UpkeepCalls) -> None:
    node, file_id = lab.started("n1"), new_id()
    call(node, "PUT", chunk(file_id), b"abc")
    assert not upkeep.drop(lab.row("n1"), new_id(), 0, fence=Fence("repair", 1, 5), deadline=soon())
    node.kill()
    node.start()
    row = lab.row("n1")
    for work in (
        lambda: upkeep.drop(row, file_id, 0, fence=Fence("repair", 1, 4), deadline=soon()),
        lambda: upkeep.set_aside(row, file_id, 0, fence=Fence("repair", 0, 9), deadline=soon()),
    ):
        with pytest.raises(errors.Fenced):
            work()
    with pytest.raises(errors.BadRequest):
        upkeep.drop(row, file_id, 0, fence=Fence("Repair!", 1, 9), deadline=soon())
    assert upkeep.set_aside(row, file_id, 0, fence=Fence("repair", 2, 1), deadline=soon())
    assert len(list((lab.directory / "n1" / "set-aside").iterdir())) == 1


def operators_say(lab: Lab, state: AdminState) -> None:
    with contextlib.closing(sqlite3.connect(lab.database)) as database:
        database.execute("UPDATE nodes SET admin_state = ?", (state.value,))
        database.commit()


def test_a_node_told_to_look_refuses_stores_and_pulls_at_once(lab: Lab, upkeep: UpkeepCalls) -> None:
    node = lab.started("n1", NODE_HEARTBEAT_INTERVAL="30", NODE_HEARTBEAT_TIMEOUT="60")
    file_id, row = new_id(), lab.row("n1")
    operators_say(lab, AdminState.DRAINING)
    assert upkeep.look(row, deadline=soon()) == "draining"
    assert call(node, "PUT", chunk(file_id), b"abc").status == 503
    with pytest.raises(errors.StoreReadOnly):
        upkeep.pull(
            row, row, file_id, 0, checksum="0" * 64, length=3, chunk_size=3, file_size=None, fence=None, deadline=soon()
        )
    operators_say(lab, AdminState.ACTIVE)
    assert upkeep.look(row, deadline=soon()) == "active"
    assert call(node, "PUT", chunk(file_id), b"abc").status == 201


def test_a_decommissioned_node_does_not_start_and_says_what_to_do(lab: Lab) -> None:
    node = lab.started("n1")
    node.stop()
    operators_say(lab, AdminState.DECOMMISSIONED)
    said = lab.refusal(node)
    assert "python -m dfs.admin activate n1" in said
    assert "NODE_ID of its own" in said
    operators_say(lab, AdminState.ACTIVE)
    node.start()


def test_an_empty_disk_under_a_known_id_is_refused_with_the_command_that_helps(lab: Lab) -> None:
    node = lab.started("n1")
    node.stop()
    said = lab.refusal(node, DFS_DATA_DIR=str(lab.directory / "new"))
    assert "python -m dfs.admin decommission n1" in said
    assert {each.name for each in (lab.directory / "new").iterdir()} <= {"lock"}
