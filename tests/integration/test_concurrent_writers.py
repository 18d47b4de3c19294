"""Many clients, one path, two API servers: exactly one winner."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.caller import Answer
from tests.support.cluster import Cluster

WRITERS = 32


@pytest.fixture(scope="module")
def two_apis(cluster: Cluster) -> Cluster:
    second = cluster.add_api()
    cluster.wait_alive({"node1", "node2", "node3"}, api=cluster.apis.index(second))
    return cluster


def race(cluster: Cluster, path: str, body: str, **headers: str) -> list[Answer]:
    """All writers put their own content at once, half of them through each API server."""
    barrier = threading.Barrier(WRITERS)

    def write(number: int) -> Answer:
        caller = cluster.caller(number % 2)
        barrier.wait(60)
        try:
            return caller.file("PUT", path, f"{body} {number}".encode(), **headers)
        finally:
            caller.close()

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(write, range(WRITERS)))


@pytest.mark.parametrize("round_", range(3))
def test_32_creators_of_one_path_have_exactly_one_winner(two_apis: Cluster, round_: int) -> None:
    path = f"create/{round_}"
    answers = race(two_apis, path, "created by", If_None_Match="*")
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [201] + [412] * (WRITERS - 1), statuses
    winner = next(number for number, answer in enumerate(answers) if answer.status == 201)
    for api in (0, 1):
        caller = two_apis.caller(api)
        seen = caller.file("GET", path)
        assert (seen.body, seen.etag) == (f"created by {winner}".encode(), answers[winner].etag)
        caller.close()


def test_32_updaters_of_one_version_have_exactly_one_winner(two_apis: Cluster) -> None:
    caller = two_apis.caller()
    first = caller.file("PUT", "update", b"first")
    assert first.status == 201
    answers = race(two_apis, "update", "updated by", If_Match=f'"{first.etag}"')
    statuses = sorted(answer.status for answer in answers)
    assert statuses == [201] + [412] * (WRITERS - 1), statuses
    winner = next(number for number, answer in enumerate(answers) if answer.status == 201)
    assert caller.file("GET", "update").body == f"updated by {winner}".encode()
    caller.close()


def test_unconditional_writers_all_succeed_and_one_whole_content_stays(two_apis: Cluster) -> None:
    answers = race(two_apis, "overwrite", "written by")
    # Eight lost races in a row are answered with "busy": legal, told, and nothing of it is seen.
    assert {answer.status for answer in answers} <= {201, 503}
    written = {f"written by {n}".encode() for n, answer in enumerate(answers) if answer.status == 201}
    caller = two_apis.caller(1)
    assert caller.file("GET", "overwrite").body in written
    caller.close()
