"""`python -m dfs.admin create-tables` as a process, on a DynamoDB stand-in."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import boto3
import pytest

from dfs.settings import CommonSettings, load
from tests.support.moto_server import MotoServer


@pytest.fixture(scope="module")
def moto() -> Iterator[MotoServer]:
    with MotoServer() as server:
        yield server


def run(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "dfs.admin", "create-tables", *arguments],
        env=os.environ | environ,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_three_at_once_make_protected_recoverable_tables_of_one_cluster(moto: MotoServer) -> None:
    environ = moto.environment()
    with ThreadPoolExecutor(3) as pool:
        done = list(pool.map(lambda _: run(environ), range(3)))
    assert [one.returncode for one in done] == [0, 0, 0], done
    assert len({one.stdout for one in done}) == 1
    settings = load(CommonSettings, environ=environ)
    client = boto3.client("dynamodb", endpoint_url=moto.url, region_name="us-east-1")
    for name in (settings.chunk_metadata_table, settings.node_registry_table, settings.paths_table):
        table = client.describe_table(TableName=name)["Table"]
        assert table["DeletionProtectionEnabled"] and table["SSEDescription"]["Status"] == "ENABLED"
        assert table["BillingModeSummary"]["BillingMode"] == "PAY_PER_REQUEST"
        backups = client.describe_continuous_backups(TableName=name)["ContinuousBackupsDescription"]
        assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    expiry = client.describe_time_to_live(TableName=settings.node_registry_table)["TimeToLiveDescription"]
    assert (expiry["TimeToLiveStatus"], expiry["AttributeName"]) == ("ENABLED", "ttl")


@pytest.mark.parametrize(
    ("change", "code", "text"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "cannot be reached"),
        ({"AWS_ENDPOINT_URL": "not a url"}, 1, "AWS_ENDPOINT_URL"),
        ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, 1, "credentials"),
        ({"AWS_PROFILE": "absent"}, 1, "credentials"),
        ({"AWS_REGION": "Not A Region"}, 2, "AWS_REGION"),
        ({"DFS_PATHS_TABLE": "x"}, 2, "DFS_PATHS_TABLE"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    moto: MotoServer, change: dict[str, str], code: int, text: str
) -> None:
    done = run(moto.environment() | change)
    assert (done.returncode, done.stdout) == (code, "")
    assert len(done.stderr.splitlines()) == 1 and text in done.stderr, done.stderr


def test_a_table_with_other_keys_is_named(moto: MotoServer) -> None:
    environ = moto.environment()
    client = boto3.client("dynamodb", endpoint_url=moto.url, region_name="us-east-1")
    client.create_table(
        TableName=environ["DFS_PATHS_TABLE"],
        KeySchema=[{"AttributeName": "x", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "x", "AttributeType": "N"}],
        BillingMode="PAY_PER_REQUEST",
    )
    done = run(environ)
    assert done.returncode == 1 and "(DFS_PATHS_TABLE) has the keys x (HASH, N)" in done.stderr
