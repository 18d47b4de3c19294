"""create-tables against a DynamoDB that is slow, half made, foreign, poor or silent."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from botocore.exceptions import EndpointConnectionError, ReadTimeoutError

from dfs import METADATA_FORMAT
from dfs.errors import StartError, Unavailable
from dfs.metadata import dynamo_items as items
from dfs.metadata.dynamo import judge
from dfs.metadata.dynamo_calls import Calls
from dfs.metadata.dynamo_tables import create, read_cluster
from dfs.metadata.tables import creation, tables_of
from dfs.settings import CommonSettings, load
from tests.support.fakes.chaos_dynamo import client_error

TABLES = tables_of(load(CommonSettings, environ={}))


class Account:
    """Just enough of DynamoDB: tables that take `slow` looks to become active."""

    def __init__(self, slow: int = 0) -> None:
        self.tables: dict[str, dict[str, Any]] = {}
        self.rows: dict[str, dict[str, Any]] = {}
        self.slow = slow
        self.done: list[str] = []
        self.broken: dict[str, Exception] = {}

    def close(self) -> None: ...

    def __getattribute__(self, name: str) -> Any:
        broken = object.__getattribute__(self, "broken")
        if name in broken:
            error = broken[name]

            def fail(**parameters: Any) -> Any:
                raise error

            return fail
        return object.__getattribute__(self, name)

    def describe_table(self, TableName: str) -> Any:
        if TableName not in self.tables:
            raise client_error("ResourceNotFoundException", "op")
        table = self.tables[TableName]
        table["looks"] += 1
        if table["looks"] > self.slow and table["TableStatus"] == "CREATING":
            table["TableStatus"] = "ACTIVE"
        return {"Table": table}

    def create_table(self, **request: Any) -> Any:
        if request["TableName"] in self.tables:
            raise client_error("ResourceInUseException", "op")
        self.tables[request["TableName"]] = {**request, "TableStatus": "CREATING", "looks": 0, "pitr": False}
        return {}

    def update_table(self, TableName: str, **changes: Any) -> Any:
        self.done.append(f"protect {TableName}")
        self.tables[TableName].update(changes)
        return {}

    def describe_continuous_backups(self, TableName: str) -> Any:
        status = "ENABLED" if self.tables[TableName]["pitr"] else "DISABLED"
        recovery = {"PointInTimeRecoveryStatus": status}
        return {"ContinuousBackupsDescription": {"PointInTimeRecoveryDescription": recovery}}

    def update_continuous_backups(self, TableName: str, **more: Any) -> Any:
        self.done.append(f"recovery {TableName}")
        self.tables[TableName]["pitr"] = True
        return {}

    def describe_time_to_live(self, TableName: str) -> Any:
        return {
            "TimeToLiveDescription": {"TimeToLiveStatus": self.tables[TableName].get("expiry", "DISABLED")}
        }

    def update_time_to_live(self, TableName: str, TimeToLiveSpecification: Any) -> Any:
        assert TimeToLiveSpecification["AttributeName"] == "ttl"
        self.done.append(f"expiry {TableName}")
        self.tables[TableName]["expiry"] = "ENABLED"
        return {}

    @staticmethod
    def _name(table: str, key: dict[str, Any]) -> str:
        return f"{table} {sorted(key.items())}"

    def put_item(self, TableName: str, Item: Any, **condition: Any) -> Any:
        keys = {name: Item[name] for name in ("bucket", "path", "node_id") if name in Item}
        if self._name(TableName, keys) in self.rows:
            raise client_error("ConditionalCheckFailedException", "op")
        self.rows[self._name(TableName, keys)] = Item
        return {}

    def get_item(self, TableName: str, Key: Any, **more: Any) -> Any:
        if TableName not in self.tables:
            raise client_error("ResourceNotFoundException", "op")
        row = self.rows.get(self._name(TableName, Key))
        return {"Item": row} if row else {}


def on(account: Any) -> Calls:
    ticks = count()
    return Calls(lambda: account, judge, pause=lambda seconds: None, clock=lambda: next(ticks))


def make(account: Any, *, protect: bool = True, clock: Callable[[], float] = lambda: 0.0) -> None:
    create(on(account), TABLES, 1, protect=protect, pause=lambda seconds: None, clock=clock)


def test_everything_is_made_waited_for_and_completed() -> None:
    account = Account(slow=3)
    make(account)
    assert set(account.tables) == {table.name for table in TABLES.all()}
    assert all(table["TableStatus"] == "ACTIVE" and table["pitr"] for table in account.tables.values())
    assert all(table["DeletionProtectionEnabled"] for table in account.tables.values())
    assert account.tables[TABLES.registry.name]["expiry"] == "ENABLED"
    identity = read_cluster(on(account), TABLES)
    account.done.clear()
    make(account)
    assert account.done == [] and read_cluster(on(account), TABLES) == identity


def test_existing_tables_are_completed_and_protected_only_when_asked() -> None:
    account = Account()
    make(account, protect=False)
    assert not any(table["DeletionProtectionEnabled"] for table in account.tables.values())
    account.tables[TABLES.paths.name]["pitr"] = False
    account.done.clear()
    make(account, protect=True)
    assert sorted(account.done) == sorted(
        [*(f"protect {table.name}" for table in TABLES.all()), f"recovery {TABLES.paths.name}"]
    )


def test_another_create_tables_at_the_same_time_is_no_error() -> None:
    account = Account()
    make(account)
    real = account.describe_table
    first: list[str] = []

    def describe(TableName: str) -> Any:
        if TableName not in first:
            first.append(TableName)
            raise client_error("ResourceNotFoundException", "op")
        return real(TableName)

    account.describe_table = describe  # type: ignore[method-assign]
    make(account)


def test_a_new_table_that_is_not_seen_at_once_is_waited_for() -> None:
    account = Account()
    real, hidden = account.describe_table, [2, 2, 2, 2]

    def describe(TableName: str) -> Any:
        if TableName in account.tables and hidden:
            hidden.pop()
            raise client_error("ResourceNotFoundException", "op")
        return real(TableName)

    account.describe_table = describe  # type: ignore[method-assign]
    make(account)
    assert not hidden


def test_a_table_that_never_becomes_active_is_named() -> None:
    times = iter(range(0, 10**6, 100))
    with pytest.raises(StartError, match="still not active after 300 s"):
        make(Account(slow=10**9), clock=lambda: next(times))


def test_tables_that_do_not_fit_or_are_going_are_named_and_left_alone() -> None:
    account = Account()
    account.create_table(**creation(TABLES.paths, protect=False) | {"TableName": TABLES.chunks.name})
    with pytest.raises(StartError, match=r"dfs-chunk-metadata \(CHUNK_METADATA_TABLE\) has the keys bucket"):
        make(account)
    account.tables[TABLES.chunks.name]["TableStatus"] = "DELETING"
    with pytest.raises(StartError, match="being deleted"):
        make(account)


def test_a_table_made_by_another_meanwhile_is_checked_too() -> None:
    account = Account()
    real = account.create_table

    def create_table(**request: Any) -> Any:
        real(**creation(TABLES.registry, protect=False) | {"TableName": request["TableName"]})
        raise client_error("ResourceInUseException", "op")

    account.create_table = create_table  # type: ignore[method-assign]
    with pytest.raises(StartError, match="has the keys"):
        make(account)


def test_an_endpoint_that_lacks_recovery_and_expiry_is_used_without() -> None:
    account = Account()
    account.broken["describe_continuous_backups"] = client_error("UnknownOperationException", "op")
    make(account)
    assert read_cluster(on(account), TABLES).generation == 1


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (client_error("UnrecognizedClientException", "op"), "access key is not known"),
        (client_error("AccessDeniedException", "op"), "may not do that"),
        (EndpointConnectionError(endpoint_url="http://x"), "cannot be reached.*AWS_ENDPOINT_URL"),
        (client_error("ThrottlingException", "op"), "busy.*AWS_ENDPOINT_URL"),
        (client_error("ValidationException", "op"), "refused the request"),
    ],
)
def test_refusals_and_silence_are_one_sentence(error: Exception, text: str) -> None:
    account = Account()
    account.broken["describe_table"] = error
    with pytest.raises(StartError, match=text):
        make(account)


def test_a_start_may_wait_for_an_endpoint_and_not_for_credentials() -> None:
    account = Account()
    make(account)
    account.broken["get_item"] = client_error("AccessDeniedException", "op")
    with pytest.raises(StartError, match="may not do that"):
        read_cluster(on(account), TABLES)
    for passing in (EndpointConnectionError(endpoint_url="http://x"), client_error("ThrottlingException", "op")):
        account.broken["get_item"] = passing
        with pytest.raises(Unavailable):
            read_cluster(on(account), TABLES)
        account.broken.clear()
        assert read_cluster(on(account), TABLES).generation == 1
        account.broken["get_item"] = passing
        with pytest.raises(StartError):
            make(account)


@pytest.mark.parametrize("call", ["update_table", "update_continuous_backups", "update_time_to_live"])
@pytest.mark.parametrize("code", ["ResourceInUseException", "ContinuousBackupsUnavailableException"])
def test_a_table_that_takes_no_change_yet_is_waited_for(call: str, code: str) -> None:
    account = Account()
    make(account, protect=False)
    for table in account.tables.values():
        table |= {"pitr": False, "expiry": "DISABLED"}
    real, refusals = getattr(account, call), [client_error(code, "op")] * 3

    def update(**parameters: Any) -> Any:
        if refusals:
            raise refusals.pop()
        return real(**parameters)

    setattr(account, call, update)
    make(account)
    assert not refusals and all(table["pitr"] for table in account.tables.values())
    assert all(table["DeletionProtectionEnabled"] for table in account.tables.values())
    assert account.tables[TABLES.registry.name]["expiry"] == "ENABLED"


def test_a_table_that_never_takes_a_change_is_named() -> None:
    account, times = Account(), count(step=50)
    account.broken["update_continuous_backups"] = client_error("ContinuousBackupsUnavailableException", "op")
    with pytest.raises(StartError, match=r"dfs-chunk-metadata \(CHUNK_METADATA_TABLE\) takes no change"):
        make(account, clock=lambda: next(times))


@pytest.mark.parametrize("faster", [True, False])
def test_expiry_that_another_create_tables_switched_on_is_no_error(faster: bool) -> None:
    account = Account()

    def update_time_to_live(TableName: str, **more: Any) -> Any:
        if faster:
            account.tables[TableName]["expiry"] = "ENABLING"
        raise client_error("ValidationException", "op")

    account.update_time_to_live = update_time_to_live  # type: ignore[method-assign]
    if faster:
        make(account)
    else:
        with pytest.raises(StartError, match="refused the request"):
            make(account)


def test_a_lost_answer_says_to_run_it_again() -> None:
    account = Account()
    account.broken["create_table"] = ReadTimeoutError(endpoint_url="http://x")
    with pytest.raises(StartError, match="run create-tables again"):
        make(account)


def test_a_node_that_may_only_read_the_registry_finds_its_cluster() -> None:
    account = Account()
    make(account)
    real = account.get_item

    def get_item(TableName: str, **more: Any) -> Any:
        if TableName != TABLES.registry.name:
            raise client_error("AccessDeniedException", "op")
        return real(TableName, **more)

    account.get_item = get_item  # type: ignore[method-assign]
    assert read_cluster(on(account), TABLES).format == METADATA_FORMAT


def test_a_missing_table_an_absent_identity_and_a_newer_format_are_named() -> None:
    account = Account()
    make(account)
    identity = account._name(TABLES.registry.name, items.node_key(items.CLUSTER_KEY))
    account.rows[identity]["format"] = {"N": str(METADATA_FORMAT + 1)}
    with pytest.raises(StartError, match="newer release"):
        read_cluster(on(account), TABLES)
    account.rows[identity]["format"] = {"N": str(METADATA_FORMAT)}
    table = account.tables.pop(TABLES.paths.name)
    with pytest.raises(StartError, match=r"dfs-paths \(DFS_PATHS_TABLE\) does not exist.*create-tables"):
        read_cluster(on(account), TABLES)
    account.tables[TABLES.paths.name] = table
    del account.rows[identity]
    with pytest.raises(StartError, match="holds no cluster"):
        read_cluster(on(account), TABLES)
