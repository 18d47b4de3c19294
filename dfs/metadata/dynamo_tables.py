"""Making and checking the DynamoDB tables."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable

from dfs import METADATA_FORMAT
from dfs.errors import StartError, Unavailable
from dfs.logs import event, warning
from dfs.metadata import dynamo_items as items
from dfs.metadata.contract import OutcomeUnknown
from dfs.metadata.dynamo_calls import AccessRefused, Calls, InUse, Missing, NotOffered, Refused, Rejected
from dfs.metadata.tables import Table, Tables, creation, is_active, mismatch
from dfs.model import DEFAULT_BUCKET, UPLOADS_BUCKET, ClusterInfo

ACTIVE_SECONDS = 300.0
_POLL_SECONDS = 0.5
MAKE_THEM = "make it with python -m dfs.admin create-tables"


def create(
    calls: Calls,
    tables: Tables,
    now_ms: int,
    *,
    protect: bool,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> ClusterInfo:
    """Make what is missing and wait until all is active; existing tables are checked, and given
    point-in-time recovery, expiry and (if `protect`) deletion protection where they lack it.

    Raises StartError, saying in one sentence what is wrong.
    """
    try:
        made = [table for table in tables.all() if _make(calls, table, protect=protect)]
        deadline = clock() + ACTIVE_SECONDS
        for table in tables.all():
            _wait(calls, table, deadline, pause, clock)
            _complete(calls, table, deadline, pause, clock, protect=protect and table not in made)
        _put_once(calls, tables.paths, items.path_key(items.BUCKETS, DEFAULT_BUCKET), now_ms)
        _put_once(calls, tables.paths, items.path_key(items.BUCKETS, UPLOADS_BUCKET), now_ms)
        identity: dict[str, str | int | None] = {
            "cluster_id": str(uuid.uuid4()),
            "generation": 1,
            "format": METADATA_FORMAT,
        }
        _put_once(
            calls, tables.registry, items.node_key(items.CLUSTER_KEY) | items.attributes(identity), now_ms
        )
        return read_cluster(calls, tables)
    except OutcomeUnknown as error:
        raise StartError(f"{error.message}: run create-tables again, which is harmless") from error
    except (AccessRefused, Rejected) as error:
        raise StartError(str(error)) from error
    except Unavailable as error:
        raise StartError(f"{error.message}: check AWS_REGION, AWS_ENDPOINT_URL and the network") from error


def read_cluster(calls: Calls, tables: Tables) -> ClusterInfo:
    """The cluster's identity, having seen that every table is there.

    A node's rights end at the registry: another table that it may not read is passed over. Raises
    StartError for what waiting does not mend, Unavailable when DynamoDB does not answer.
    """
    try:
        row = _get(calls, tables.registry, items.node_key(items.CLUSTER_KEY))
    except AccessRefused as error:
        raise StartError(error.message) from error
    _probe(calls, tables.chunks, items.file_key("probe"))
    _probe(calls, tables.paths, items.path_key(items.BUCKETS, DEFAULT_BUCKET))
    if row is None:
        raise StartError(
            f"table {tables.registry.name} ({tables.registry.setting}) holds no cluster: {MAKE_THEM}"
        )
    found = ClusterInfo(*(items.decode(row, name) for name in ("cluster_id", "generation", "format")))
    if found.format > METADATA_FORMAT:
        raise StartError(
            f"the tables have metadata format {found.format}; this release reads up to {METADATA_FORMAT}: "
            "run the newer release of dfs that wrote it"
        )
    return found


def _get(calls: Calls, table: Table, key: items.Item) -> items.Item | None:
    try:
        row: items.Item | None = calls("get_item", TableName=table.name, Key=key, ConsistentRead=True).get(
            "Item"
        )
    except Missing:
        raise StartError(f"table {table.name} ({table.setting}) does not exist: {MAKE_THEM}") from None
    return row


def _probe(calls: Calls, table: Table, key: items.Item) -> None:
    try:
        _get(calls, table, key)
    except AccessRefused:
        return


def _make(calls: Calls, table: Table, *, protect: bool) -> bool:
    """Whether the table was missing and is being made now. Raises StartError for one that does not fit."""
    try:
        description = calls("describe_table", TableName=table.name)["Table"]
    except Missing:
        pass
    else:
        if description["TableStatus"] == "DELETING":
            raise StartError(f"table {table.name} ({table.setting}) is being deleted: wait, then try again")
        wrong = mismatch(table, description)
        if wrong is not None:
            raise StartError(wrong)
        return False
    try:
        calls("create_table", **creation(table, protect=protect))
    except InUse:
        return False  # Another create-tables was faster; waiting for it checks the keys.
    event("table_made", table=table.name)
    return True


def _wait(
    calls: Calls, table: Table, deadline: float, pause: Callable[[float], None], clock: Callable[[], float]
) -> None:
    while True:
        try:
            description = calls("describe_table", TableName=table.name)["Table"]
            if is_active(description):
                break
        except Missing:
            pass  # DescribeTable is eventually consistent: a new table may not be seen yet.
        if clock() >= deadline:
            raise StartError(
                f"table {table.name} ({table.setting}) is still not active after {ACTIVE_SECONDS:g} s"
            )
        pause(_POLL_SECONDS)
    wrong = mismatch(table, description)
    if wrong is not None:
        raise StartError(wrong)


def _complete(
    calls: Calls,
    table: Table,
    deadline: float,
    pause: Callable[[float], None],
    clock: Callable[[], float],
    *,
    protect: bool,
) -> None:
    """Protection, recovery and expiry: what CreateTable does not take, or an older table lacks.

    A table that was just made or changed, here or by another create-tables, is waited for.
    """
    for settle in (_protect, _recover, _expire) if protect else (_recover, _expire):
        while True:
            try:
                settle(calls, table)
                break
            except InUse as error:
                if clock() >= deadline:
                    raise StartError(
                        f"table {table.name} ({table.setting}) takes no change: {error}: run create-tables again"
                    ) from error
                pause(_POLL_SECONDS)
            except NotOffered as error:
                warning("endpoint_lacks_operation", table=table.name, error=error)
                break


def _protect(calls: Calls, table: Table) -> None:
    if not calls("describe_table", TableName=table.name)["Table"].get("DeletionProtectionEnabled"):
        calls("update_table", TableName=table.name, DeletionProtectionEnabled=True)


def _recover(calls: Calls, table: Table) -> None:
    recovery = calls("describe_continuous_backups", TableName=table.name)["ContinuousBackupsDescription"]
    if recovery.get("PointInTimeRecoveryDescription", {}).get("PointInTimeRecoveryStatus") != "ENABLED":
        calls(
            "update_continuous_backups",
            TableName=table.name,
            PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True},
        )


def _expire(calls: Calls, table: Table) -> None:
    if table.ttl is None or _expires(calls, table):
        return
    try:
        calls(
            "update_time_to_live",
            TableName=table.name,
            TimeToLiveSpecification={"Enabled": True, "AttributeName": table.ttl},
        )
    except Rejected:
        if not _expires(calls, table):  # else another create-tables was faster
            raise


def _expires(calls: Calls, table: Table) -> bool:
    expiry = calls("describe_time_to_live", TableName=table.name)["TimeToLiveDescription"]
    return expiry.get("TimeToLiveStatus") in ("ENABLED", "ENABLING")


def _put_once(calls: Calls, table: Table, item: items.Item, now_ms: int) -> None:
    try:
        calls(
            "put_item",
            TableName=table.name,
            Item=item | items.attributes({"created_at": now_ms}),
            ConditionExpression="attribute_not_exists(#key)",
            ExpressionAttributeNames={"#key": table.partition},
        )
    except Refused:
        return
