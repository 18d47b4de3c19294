"""A file of 3 GiB, there and back."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.client import Client
from tests.support.cluster import Cluster

MIB, GIB = 1 << 20, 1 << 30
BLOCK = random.Random(3).randbytes(8 * MIB)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with Cluster(tmp_path / "cluster") as running:
        yield running


def write_big(file: Path, size: int, seed: int) -> str:
    """Fill `file`, no two blocks alike; returns its SHA-256."""
    digest = hashlib.sha256()
    with open(file, "wb") as stream:
        for number in range(size // len(BLOCK)):
            block = b"%016d%016d" % (seed, number) + BLOCK[32:]
            digest.update(block)
            stream.write(block)
    return digest.hexdigest()


def sha256_of(file: Path) -> str:
    with open(file, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@pytest.mark.timeout(1800)
def test_3_gib_there_and_back(cluster: Cluster, tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    digest = write_big(source, 3 * GIB, 1)
    with Client(cluster.url) as client:
        assert client.put(source, "big").sha256 == digest
        source.unlink()
        client.get("big", out)
    assert sha256_of(out) == digest
