"""A client of the first release works unchanged: 8 MiB as 8,192 chunks, without one error."""

from __future__ import annotations

import random

from tests.support import seed_client
from tests.support.cluster import Cluster

KIB = 1 << 10


def test_every_chunk_over_a_connection_of_its_own(cluster: Cluster, rng: random.Random) -> None:
    # The stand-in for DynamoDB serves a few hundred requests a second, one at a time: there fewer
    # chunks tell as much.
    stand_in = cluster.environ["DFS_METADATA_URL"] == "dynamodb://"
    chunks, at_once = (2048, 64) if stand_in else (8192, 300)
    data = rng.randbytes(chunks * KIB)
    file_id = seed_client.upload(cluster.url, "many.bin", data, chunk_size=KIB, at_once=at_once)
    assert seed_client.download(cluster.url, file_id, at_once=at_once) == data


def test_the_file_is_bound_to_a_path_of_the_uploads_bucket(cluster: Cluster, rng: random.Random) -> None:
    data = rng.randbytes(2500)
    file_id = seed_client.upload(cluster.url, "three.bin", data, chunk_size=1024, at_once=3)
    caller = cluster.caller()
    answer = caller.file("GET", f"{file_id}/three.bin", query={"bucket": "uploads"})
    assert (answer.status, answer.body, answer.etag) == (200, data, file_id)
    caller.close()
