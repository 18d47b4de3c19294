"""What each failure of boto3 means, what is tried again, and what limits are asserted."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import count
from typing import Any

import pytest
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from dfs.errors import Busy, StartError, Unavailable
from dfs.metadata import dynamo_items as items
from dfs.metadata.contract import OutcomeUnknown, StepsRefused
from dfs.metadata.dynamo import judge, open_dynamo
from dfs.metadata.dynamo_calls import (
    CONTENDED_TRIES,
    REACHING_SECONDS,
    AccessRefused,
    Calls,
    InUse,
    Kind,
    Missing,
    NotOffered,
    Refused,
    Rejected,
)
from dfs.metadata.dynamo_replicas import PATIENCE, ROWS_PER_TRANSACTION, ReplicaAdder
from dfs.metadata.dynamo_steps import action
from dfs.metadata.steps import CheckFile, PutFile, PutOperation, PutReplica, PutShort, Step
from dfs.metadata.tables import creation, is_active, mismatch, tables_of
from dfs.settings import CommonSettings, load
from tests.support.fakes.chaos_dynamo import client_error
from tests.support.metadata_records import NOW, a_record, a_replica, put

SETTINGS = load(CommonSettings, environ={})
TABLES = tables_of(SETTINGS)


def cancelled(*codes: str) -> Exception:
    reasons = [{"Code": code} for code in codes]
    return client_error("TransactionCanceledException", "op", CancellationReasons=reasons)


TIMEOUT = aws.ReadTimeoutError(endpoint_url="http://x")
CLOSED = aws.ConnectionClosedError(endpoint_url="http://x")
NO_ROUTE = aws.EndpointConnectionError(endpoint_url="http://x")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (client_error("ThrottlingException", "op"), Kind.CONTENDED),
        (client_error("ProvisionedThroughputExceededException", "op"), Kind.CONTENDED),
        (client_error("RequestLimitExceeded", "op"), Kind.CONTENDED),
        (client_error("TransactionConflictException", "op"), Kind.CONTENDED),
        (cancelled("None", "TransactionConflict"), Kind.CONTENDED),
        (cancelled("ThrottlingError", "None"), Kind.CONTENDED),
        (client_error("InternalServerError", "op", status=500), Kind.LOST),
        (client_error("ServiceUnavailable", "op", status=503), Kind.LOST),
        (client_error("TransactionInProgressException", "op"), Kind.LOST),
        (TIMEOUT, Kind.LOST),
        (CLOSED, Kind.LOST),
        (aws.SSLError(endpoint_url="http://x", error="x"), Kind.LOST),
        (aws.IncompleteReadError(actual_bytes=1, expected_bytes=2), Kind.LOST),
        (aws.HTTPClientError(error="x"), Kind.LOST),
        (ResponseParserError("half an answer"), Kind.LOST),
        (NO_ROUTE, Kind.NOT_SENT),
        (aws.ConnectTimeoutError(endpoint_url="http://x"), Kind.NOT_SENT),
        (aws.ProxyConnectionError(proxy_url="http://x"), Kind.NOT_SENT),
    ],
)
def test_failures_that_are_not_final(error: Exception, kind: Kind) -> None:
    failure = judge(error)
    assert failure is not None and failure.kind is kind and failure.error is None and failure.text


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (client_error("ConditionalCheckFailedException", "op"), Refused),
        (cancelled("None", "ConditionalCheckFailed"), StepsRefused),
        (cancelled("TransactionConflict", "ConditionalCheckFailed"), StepsRefused),
        (cancelled("ValidationError"), Rejected),
        (cancelled(), Rejected),
        (client_error("ResourceNotFoundException", "op"), Missing),
        (client_error("ResourceInUseException", "op"), InUse),
        (client_error("ContinuousBackupsUnavailableException", "op"), InUse),
        (client_error("UnknownOperationException", "op"), NotOffered),
        (client_error("ValidationException", "op"), Rejected),
        (client_error("AccessDeniedException", "op"), AccessRefused),
        (client_error("UnrecognizedClientException", "op"), AccessRefused),
        (client_error("InvalidSignatureException", "op"), AccessRefused),
        (client_error("ExpiredTokenException", "op"), AccessRefused),
        (aws.NoCredentialsError(), AccessRefused),
        (aws.PartialCredentialsError(provider="env", cred_var="x"), AccessRefused),
        (aws.ProfileNotFound(profile="x"), AccessRefused),
        (aws.NoRegionError(), StartError),
        (ValueError("Invalid endpoint: foo"), StartError),
    ],
)
def test_failures_that_are_final(error: Exception, meaning: type[Exception]) -> None:
    failure = judge(error)
    assert failure is not None and failure.kind is Kind.RAISED and type(failure.error) is meaning


@pytest.mark.parametrize("error", [KeyError("x"), ValueError("x"), aws.ParamValidationError(report="x")])
def test_bugs_are_not_failures(error: Exception) -> None:
    assert judge(error) is None


class Client:
    """Answers each call with the next outcome; remembers what was asked."""

    def __init__(self, *outcomes: Any) -> None:
        self.outcomes = list(outcomes)
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.closed = 0

    def close(self) -> None:
        self.closed += 1

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        def call(**parameters: Any) -> Any:
            self.asked.append((operation, dict(parameters)))
            outcome = self.outcomes.pop(0)
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        return call


def calls_on(*outcomes: Any) -> tuple[Calls, Client]:
    """Calls for which a second passes with every failure."""
    client = Client(*outcomes)
    seconds = count()
    return Calls(lambda: client, judge, pause=lambda _: None, clock=lambda: next(seconds)), client


LAST_TRY = int(REACHING_SECONDS)


def test_contention_is_tried_again_and_then_busy() -> None:
    throttled = client_error("ThrottlingException", "op")
    calls, client = calls_on(throttled, cancelled("TransactionConflict"), {"ok": 1})
    assert calls("transact_write_items") == {"ok": 1}
    tokens = [parameters["ClientRequestToken"] for _, parameters in client.asked]
    assert len(set(tokens)) == 3
    calls, client = calls_on(*[throttled] * LAST_TRY)
    with pytest.raises(Busy):
        calls("get_item")
    assert len(client.asked) == LAST_TRY


def test_a_contended_write_is_not_tried_for_ever_and_a_read_for_as_long_as_there_is_time() -> None:
    throttled = [client_error("ThrottlingException", "op")] * CONTENDED_TRIES
    for operation in ("put_item", "get_item"):
        client = Client(*throttled, {"done": 1})
        calls = Calls(lambda client=client: client, judge, pause=lambda _: None, clock=lambda: 0.0)  # type: ignore[misc]
        if operation == "get_item":
            assert calls(operation) == {"done": 1}
        else:
            with pytest.raises(Busy):
                calls(operation)


@pytest.mark.parametrize("lost", [TIMEOUT, CLOSED, client_error("InternalServerError", "op", status=500)])
def test_a_lost_answer_is_unknown_for_writes_and_reads_are_repeated_for_a_while(lost: Exception) -> None:
    calls, client = calls_on(lost)
    with pytest.raises(OutcomeUnknown):
        calls("transact_write_items")
    assert len(client.asked) == 1
    calls, _ = calls_on(*[lost] * (LAST_TRY - 1), {"Item": 1})
    assert calls("get_item") == {"Item": 1}
    calls, _ = calls_on(*[lost] * LAST_TRY)
    with pytest.raises(Unavailable) as caught:
        calls("query")
    assert not isinstance(caught.value, OutcomeUnknown)


def test_what_was_not_sent_was_not_done() -> None:
    calls, _ = calls_on(*[NO_ROUTE] * (LAST_TRY - 1), {"ok": 1})
    assert calls("put_item") == {"ok": 1}
    calls, _ = calls_on(*[NO_ROUTE] * LAST_TRY)
    with pytest.raises(Unavailable, match="reached") as caught:
        calls("put_item")
    assert not isinstance(caught.value, OutcomeUnknown)


def test_bugs_and_refusals_come_through() -> None:
    for error, meaning in ((KeyError("x"), KeyError), (cancelled("ConditionalCheckFailed"), StepsRefused)):
        calls, _ = calls_on(error)
        with pytest.raises(meaning):
            calls("put_item")


def test_pages_are_followed_also_empty_ones() -> None:
    calls, client = calls_on(
        {"Items": [], "LastEvaluatedKey": {"k": 1}},
        {"Items": [1, 2], "LastEvaluatedKey": {"k": 2}},
        {},
        {"Items": []},
    )
    assert list(calls.items("query", TableName="t")) == [1, 2]
    assert [p.get("ExclusiveStartKey") for _, p in client.asked] == [None, {"k": 1}, {"k": 2}]


def test_unprocessed_requests_are_sent_again_and_then_busy() -> None:
    calls, client = calls_on({"UnprocessedItems": {"t": [2]}}, {"UnprocessedItems": {}})
    calls.until_processed("batch_write_item", "UnprocessedItems", {"t": [1, 2]})
    assert [p["RequestItems"] for _, p in client.asked] == [{"t": [1, 2]}, {"t": [2]}]
    calls, _ = calls_on(*[{"UnprocessedItems": {"t": [1]}}] * CONTENDED_TRIES)
    with pytest.raises(Busy):
        calls.until_processed("batch_write_item", "UnprocessedItems", {"t": [1]})


def test_a_client_is_made_once_and_anew_in_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Client] = []

    def make() -> Client:
        made.append(Client({}, {}, {}))
        return made[-1]

    calls = Calls(make, judge)
    calls("get_item"), calls("get_item")
    assert len(made) == 1
    monkeypatch.setattr(os, "getpid", lambda: -5)
    calls("get_item")
    assert len(made) == 2
    calls.close()
    calls.close()
    assert [client.closed for client in made] == [0, 1]


# --- adding rows -------------------------------------------------------------------------------------


def adder(*outcomes: Exception | None) -> tuple[ReplicaAdder, list[list[Step]]]:
    """An adder for which a second passes with every failure."""
    waiting, sent = list(outcomes), []
    seconds = count()

    def transact(steps: Any) -> None:
        sent.append(list(steps))
        error = waiting.pop(0) if waiting else None
        if error is not None:
            raise error

    return ReplicaAdder(transact, pause=lambda _: None, clock=lambda: next(seconds)), sent


def test_rows_go_in_transactions_that_check_the_file() -> None:
    adding, sent = adder()
    rows = [PutReplica(a_replica("f", index)) for index in range(250)]
    adding.add("f", rows)
    assert [len(steps) for steps in sent] == [100, 100, 53]
    for steps in sent:
        assert isinstance(steps[0], CheckFile)
    adding.add("f", [])
    assert len(sent[-1]) == 1
    assert adding._files == {}


def test_the_last_of_two_rows_of_one_item_counts() -> None:
    adding, sent = adder()
    adding.add("f", [PutShort("f", 0, 1), PutShort("f", 0, 2)])
    assert sent[0][1:] == [PutShort("f", 0, 2)]


def test_rows_are_put_again_for_a_while_when_the_answer_is_lost_or_the_file_contended() -> None:
    row = PutReplica(a_replica("f"))
    for error in (OutcomeUnknown("x"), Busy("x")):
        adding, sent = adder(*[error] * (int(PATIENCE) - 1))
        adding.add("f", [row])
        assert len(sent) == int(PATIENCE)
        adding, _ = adder(*[error] * int(PATIENCE))
        with pytest.raises(type(error)):
            adding.add("f", [row])
    for error in (StepsRefused("x"), Unavailable("x")):
        adding, _ = adder(error)
        with pytest.raises(type(error)):
            adding.add("f", [row])


def test_jobs_that_do_not_fit_one_transaction_take_the_next() -> None:
    from dfs.metadata.batch import Job

    adding, sent = adder(StepsRefused("x"))
    rows = [[PutReplica(a_replica("f", 60 * part + index)) for index in range(60)] for part in range(2)]
    jobs = [Job(part) for part in rows]
    adding._run("f", jobs)  # type: ignore[arg-type]
    assert [len(steps) for steps in sent] == [61, 61]
    assert isinstance(jobs[0].error, StepsRefused) and jobs[1].result is True
    assert ROWS_PER_TRANSACTION == 99


# --- limits ------------------------------------------------------------------------------------------


def test_limits_of_keys_items_batches_and_transactions() -> None:
    for bad in (
        items.path_key("b", "é" * 513),
        items.path_key("b", ""),
        items.node_key("x" * 2049),
        items.file_key("f") | items.attributes({"gc_key": "x" * 1025}),
        items.file_key("f") | items.attributes({"content_type": "x" * (400 << 10)}),
    ):
        with pytest.raises(ValueError):
            items.check_item(bad)
    items.check_item(items.path_key("b", "é" * 512))
    for many in (0, 26):
        with pytest.raises(ValueError):
            items.check_batch([{}] * many)
    for many in (0, 101):
        with pytest.raises(ValueError):
            items.check_transaction([action(TABLES, PutReplica(a_replica("f")))] * many)
    big = action(TABLES, PutOperation("x", {"text": "x" * 200_000}, NOW))
    items.check_transaction([big] * 20)
    with pytest.raises(ValueError, match="transaction of"):
        items.check_transaction([big] * 21)


def test_the_longest_path_fits_every_item() -> None:
    record = a_record("é" * 512)
    items.check_transaction([action(TABLES, PutFile(record))])


# --- tables ------------------------------------------------------------------------------------------


def described(table: Any) -> dict[str, Any]:
    description: dict[str, Any] = {**creation(table, protect=True), "TableStatus": "ACTIVE"}
    return description


@pytest.mark.parametrize("table", TABLES.all(), ids=lambda table: table.setting)
def test_a_table_is_asked_for_safe_and_fits_its_own_description(table: Any) -> None:
    request = creation(table, protect=True)
    assert request["BillingMode"] == "PAY_PER_REQUEST" and request["DeletionProtectionEnabled"]
    assert request["SSESpecification"] == {"Enabled": True, "SSEType": "KMS"}
    assert mismatch(table, described(table)) is None
    for index in request.get("GlobalSecondaryIndexes", []):
        assert index["Projection"] == {"ProjectionType": "KEYS_ONLY"}


def test_tables_that_do_not_fit_are_named() -> None:
    chunks = described(TABLES.chunks)
    assert "CHUNK_METADATA_TABLE" in str(mismatch(TABLES.chunks, described(TABLES.paths)))
    assert "node-id-index" in str(mismatch(TABLES.chunks, chunks | {"GlobalSecondaryIndexes": []}))
    other = [
        index | {"KeySchema": [{"AttributeName": "file_id", "KeyType": "HASH"}]}
        for index in chunks["GlobalSecondaryIndexes"]
    ]
    assert "is needed" in str(mismatch(TABLES.chunks, chunks | {"GlobalSecondaryIndexes": other}))
    numeric = [entry | {"AttributeType": "N"} for entry in chunks["AttributeDefinitions"]]
    assert "keys" in str(mismatch(TABLES.chunks, chunks | {"AttributeDefinitions": numeric}))


def test_a_table_is_active_when_its_indexes_are() -> None:
    ready = {"TableStatus": "ACTIVE", "GlobalSecondaryIndexes": [{"IndexStatus": "ACTIVE"}]}
    assert is_active(ready)
    assert not is_active(ready | {"TableStatus": "CREATING"})
    assert not is_active(ready | {"GlobalSecondaryIndexes": [{"IndexStatus": "CREATING"}]})


# --- the store ---------------------------------------------------------------------------------------


def test_a_heartbeats_conflict_shows_the_row_even_without_boto_returning_it() -> None:
    from dfs.metadata.contract import NodeConflict
    from tests.support.metadata_records import a_node

    refused = client_error("ConditionalCheckFailedException", "op", Item=items.node_attributes(a_node()))
    client = Client(refused)
    store = open_dynamo(SETTINGS, wrap=lambda real: client)
    with pytest.raises(NodeConflict) as conflict:
        store.heartbeat(a_node(boot_id="x"))
    assert conflict.value.current == a_node()


def test_a_commit_sends_one_transaction() -> None:
    client = Client({}, {})
    store = open_dynamo(SETTINGS, wrap=lambda real: client)
    done = put(store, "p")
    assert [operation for operation, _ in client.asked] == ["get_item", "transact_write_items"]
    assert client.asked[0][1]["ConsistentRead"] is True
    kinds = [next(iter(entry)) for entry in client.asked[1][1]["TransactItems"]]
    assert kinds == ["Put"] * 4 and not done.repeated
