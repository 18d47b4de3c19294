"""Reads through real servers: what API servers keep in memory, and copies that rotted on a node's disk."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.support.caller import Answer, Caller, NoAnswer
from tests.support.cluster import Cluster, eventually

PIECE = 256 * 1024


@pytest.fixture
def pair(cluster: Cluster) -> tuple[Caller, Caller]:
    """Two API servers of one cluster, both keeping small chunks (the default)."""
    while len(cluster.apis) < 2:
        cluster.add_api()
    return cluster.caller(0), cluster.caller(1)


def path_of(request: pytest.FixtureRequest) -> str:
    return request.node.name  # type: ignore[no-any-return]


def shown(caller: Caller, path: str) -> bytes | int:
    answer = caller.file("GET", path)
    return answer.body if answer.status == 200 else answer.status


# --- what is kept never shows what its path does not show any more ---------------------------------------


def test_a_file_replaced_through_another_server_is_shown_replaced(
    pair: tuple[Caller, Caller], request: pytest.FixtureRequest
) -> None:
    here, there = pair
    path = path_of(request)
    for number in range(10):
        content = b"content %d" % number
        assert there.file("PUT", path, content).status == 201
        for caller in (here, there, here):
            answer = caller.file("GET", path)
            assert (answer.status, answer.body) == (200, content)
        here, there = there, here


@pytest.mark.parametrize("purge", ["0", "1"])
def test_a_file_deleted_through_another_server_is_gone(
    pair: tuple[Caller, Caller], request: pytest.FixtureRequest, purge: str
) -> None:
    here, there = pair
    path = path_of(request)
    file_id = there.file("PUT", path, b"content").etag
    assert (shown(here, path), shown(there, path)) == (b"content", b"content")
    assert here.call("GET", f"/content/{file_id}").body == b"content"
    assert there.file("DELETE", path, query={"purge": purge}).status == 204
    for caller in pair:
        assert shown(caller, path) == 404
        assert caller.call("GET", f"/content/{file_id}").status == 404
        assert caller.file("HEAD", path).status == 404
    assert there.file("PUT", path, b"another").status == 201
    assert (shown(here, path), shown(there, path)) == (b"another", b"another")


def test_a_file_moved_through_another_server_is_shown_where_it_is(
    pair: tuple[Caller, Caller], request: pytest.FixtureRequest
) -> None:
    here, there = pair
    one, two = path_of(request) + "/one", path_of(request) + "/two"
    etag = here.file("PUT", one, b"content").headers["etag"]
    here.file("PUT", two, b"in its way")
    assert (shown(there, one), shown(there, two)) == (b"content", b"in its way")
    assert here.file("POST", one, query={"move_to": two, "overwrite": "1"}).status == 200
    assert (shown(there, one), shown(there, two)) == (404, b"content")
    assert there.file("GET", two, If_None_Match=etag).status == 304
    assert there.file("GET", two, If_Match='"another"').status == 412
    assert there.file("GET", two, Range="bytes=3-5").body == b"ten"


# --- bit rot ---------------------------------------------------------------------------------------------


def copies(cluster: Cluster, start: bytes) -> dict[str, tuple[Path, int]]:
    """Where bytes that begin with `start` lie: volume file and offset, by node."""
    found = {}
    for node in cluster.nodes:
        for volume in sorted((cluster.directory / node.name / "volumes").glob("*.vol")):
            at = volume.read_bytes().find(start)
            if at >= 0:
                found[node.name] = volume, at
    return found


def flip(place: tuple[Path, int], offset: int) -> None:
    volume, at = place
    with volume.open("r+b") as file:
        file.seek(at + offset)
        byte = file.read(1)[0]
        file.seek(at + offset)
        file.write(bytes([byte ^ 1]))


def test_a_rotten_copy_is_never_served_and_its_node_sets_it_aside(
    fragile: Cluster, rng: random.Random
) -> None:
    fragile.apis[0].stop()
    caller = Caller(fragile.add_api(DFS_CACHE_BYTES="0").port)
    contents = {f"f{size}": rng.randbytes(size) for size in (1000, 64 * 1024, PIECE + 1, 3 * PIECE)}
    for path, content in contents.items():
        assert caller.file("PUT", path, content).status == 201
    for number, content in enumerate(contents.values()):
        held = copies(fragile, content[:64])
        assert len(held) == 2
        spoilt = sorted(held)[number % 2]
        flip(held[spoilt], len(content) - 7)
    for _ in range(3):
        for path, content in contents.items():
            assert caller.file("GET", path).body == content
            assert caller.file("GET", path, Range=f"bytes={len(content) - 9}-").body == content[-9:]
    # Reads begin at the copy that their file's id says; each copy that was asked is set aside by its node.
    asked = [line for line in fragile.apis[-1].said().splitlines() if "replica.bad" in line]
    looked = [line for line in fragile.apis[-1].said().splitlines() if "replica.looked_at" in line]
    eventually(
        lambda: len(aside(fragile)) >= len({line.split("file_id=")[1].split()[0] for line in asked}),
        f"what was found bad is set aside: {asked} {looked}",
    )


def aside(cluster: Cluster) -> list[str]:
    return [file.name for node in cluster.nodes for file in (cluster.directory / node.name / "set-aside").glob("*.bad")]


def test_a_file_whose_copies_all_rotted_is_an_error_or_a_body_cut_off(
    fragile: Cluster, rng: random.Random
) -> None:
    fragile.apis[0].stop()
    caller = Caller(fragile.add_api(DFS_CACHE_BYTES="0").port)
    content = rng.randbytes(3 * PIECE)
    for place, offset in (("small", 900), ("first", 5), ("last", 3 * PIECE - 1)):
        data = content[:1000] if place == "small" else content[:-1] + place[:1].encode()
        assert caller.file("PUT", place, data).status == 201
        # the node's own checks are not what is tried here: flip after all is stored
        for spoilt in copies(fragile, data).values():
            flip(spoilt, offset)
    for place in ("small", "first"):
        answer: Answer = caller.file("GET", place)
        assert (answer.status, answer.code) == (503, "no_replica")
    with pytest.raises(NoAnswer):
        caller.file("GET", "last")
    whole = caller.file("GET", "last", Range=f"bytes=0-{2 * PIECE - 1}")
    assert whole.body == content[: 2 * PIECE]
