"""Clusters for the integration tests, on both metadata stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dfs.metadata import open_metadata
from dfs.metadata.contract import MetadataStore
from dfs.settings import CommonSettings, load
from tests.support.cluster import Cluster
from tests.support.moto_server import MotoServer

METADATA = ("sqlite", "dynamodb")

FreshMetadata = Callable[[], dict[str, str]]


@pytest.fixture(scope="session")
def dynamodb() -> Iterator[MotoServer]:
    """A stand-in for DynamoDB, one for each test process."""
    with MotoServer() as server:
        yield server


@pytest.fixture(scope="module", params=METADATA)
def metadata(request: pytest.FixtureRequest) -> FreshMetadata:
    """Makes settings of a metadata store that nothing has used."""
    if request.param == "sqlite":
        return dict  # a Cluster's own default: a file in its directory
    server: MotoServer = request.getfixturevalue("dynamodb")
    return server.environment


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, metadata: FreshMetadata) -> Iterator[Cluster]:
    """Three nodes, factor 2, shared by the tests of a module: leave it whole."""
    with Cluster(tmp_path_factory.mktemp("cluster"), environ=metadata()) as running:
        yield running


@pytest.fixture
def fragile(tmp_path: Path, metadata: FreshMetadata) -> Iterator[Cluster]:
    """Three nodes, factor 2, for one test to break."""
    with Cluster(tmp_path / "cluster", environ=metadata()) as running:
        yield running


@pytest.fixture(params=METADATA)
def settings(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> CommonSettings:
    """Settings of a metadata store that nothing has used, for use within the test's process."""
    if request.param == "sqlite":
        return load(CommonSettings, environ={"DFS_METADATA_URL": f"sqlite:///{tmp_path}/metadata.sqlite"})
    server: MotoServer = request.getfixturevalue("dynamodb")
    environment = server.environment()
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    return load(CommonSettings, environ=environment)


@pytest.fixture
def bare(settings: CommonSettings) -> Iterator[MetadataStore]:
    """A metadata store before `create`."""
    opened = open_metadata(settings)
    yield opened
    opened.close()


@pytest.fixture
def store(bare: MetadataStore) -> MetadataStore:
    """An empty metadata store."""
    bare.create(protect=False)
    return bare
