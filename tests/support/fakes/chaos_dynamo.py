"""A boto3 DynamoDB client that misbehaves as AWS may, and moto never does.

Lost replies (the write applied, or not, or applied *later*), throttling, unprocessed batch items,
short and empty pages, transaction conflicts, index reads that lag behind.
"""

from __future__ import annotations

import copy
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError, ConnectionClosedError, ReadTimeoutError

_WRITES = {"put_item", "update_item", "delete_item", "transact_write_items", "batch_write_item"}
_PAGED = {"query", "scan"}
_SENTINEL = "chaos"


@dataclass(frozen=True)
class Rates:
    """Probability of each fault, per call."""

    lost_after: float = 0.03
    lost_before: float = 0.01
    late: float = 0.02
    throttled: float = 0.03
    conflict: float = 0.04
    failed_read: float = 0.02
    empty_page: float = 0.1
    short_page: float = 0.3
    unprocessed: float = 0.3
    stale_index: float = 0.3


CALM = Rates(0, 0, 0, 0, 0, 0, 0, 0, 0, 0)


def client_error(code: str, operation: str, status: int = 400, **more: Any) -> ClientError:
    """What boto3 raises for an error answer."""
    answer = {
        "Error": {"Code": code, "Message": "injected"},
        "ResponseMetadata": {"HTTPStatusCode": status},
        **more,
    }
    return ClientError(answer, operation)  # type: ignore[arg-type]


class Weather:
    """The faults of all clients of a test: rates (which a test may change), counts, late writes."""

    def __init__(self, rng: random.Random, rates: Rates) -> None:
        self.rates = rates
        self.counts: dict[str, int] = {}
        self._rng = rng
        self._guard = threading.Lock()
        self._late: list[Callable[[], object]] = []

    def strikes(self, fault: str) -> bool:
        """Whether the fault happens now."""
        with self._guard:
            hit = self._rng.random() < getattr(self.rates, fault)
            if hit:
                self.counts[fault] = self.counts.get(fault, 0) + 1
            return hit

    def pick(self, most: int) -> int:
        """A number from 0 to `most`."""
        with self._guard:
            return self._rng.randint(0, most)

    def postpone(self, write: Callable[[], object]) -> None:
        """Have a write applied later, by some other call."""
        with self._guard:
            self._late.append(write)

    def arrive(self, *, all_of_them: bool = False) -> None:
        """Apply late writes: one now and then, or all."""
        while True:
            with self._guard:
                if not self._late or not (all_of_them or self._rng.random() < 0.03):
                    return
                write = self._late.pop(self._rng.randrange(len(self._late)))
            try:
                write()
            except ClientError:
                pass  # Refused when it arrived: nobody is there to be told.


class ChaosClient:
    """Wraps a client; see the module's text."""

    def __init__(self, client: Any, weather: Weather) -> None:
        self._client = client
        self._weather = weather
        self._index_answers: dict[str, dict[str, Any]] = {}

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def __getattr__(self, operation: str) -> Callable[..., Any]:
        call = getattr(self._client, operation)
        if operation in _WRITES:
            return lambda **parameters: self._write(operation, call, parameters)
        if operation in _PAGED:
            return lambda **parameters: self._page(operation, call, parameters)
        return lambda **parameters: self._read(operation, call, parameters)

    def _write(self, operation: str, call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
        weather = self._weather
        weather.arrive()
        if weather.strikes("throttled"):
            raise client_error("ThrottlingException", operation)
        if operation == "transact_write_items" and weather.strikes("conflict"):
            codes = ["None"] * len(parameters["TransactItems"])
            codes[weather.pick(len(codes) - 1)] = "TransactionConflict"
            raise client_error(
                "TransactionCanceledException",
                operation,
                CancellationReasons=[{"Code": code} for code in codes],
            )
        if weather.strikes("lost_before"):
            raise ConnectionClosedError(endpoint_url="http://chaos")
        if weather.strikes("late"):
            frozen = copy.deepcopy(parameters)
            weather.postpone(lambda: call(**frozen))
            raise ReadTimeoutError(endpoint_url="http://chaos")
        lost = weather.strikes("lost_after")
        left: list[Any] = []
        if operation == "batch_write_item" and weather.strikes("unprocessed"):
            ((table, requests),) = parameters["RequestItems"].items()
            keep = weather.pick(len(requests) - 1)
            left = requests[keep:]
            if not keep:
                return {"UnprocessedItems": {table: left}}
            parameters = parameters | {"RequestItems": {table: requests[:keep]}}
        try:
            answer = call(**parameters)
        except ClientError:
            if lost:
                raise ReadTimeoutError(endpoint_url="http://chaos") from None
            raise
        if lost:
            raise ReadTimeoutError(endpoint_url="http://chaos")
        return answer | {"UnprocessedItems": {table: left}} if left else answer

    def _read(self, operation: str, call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
        self._weather.arrive()
        if self._weather.strikes("throttled"):
            raise client_error("ProvisionedThroughputExceededException", operation)
        if self._weather.strikes("failed_read"):
            if self._weather.pick(1):
                raise client_error("InternalServerError", operation, status=500)
            raise ReadTimeoutError(endpoint_url="http://chaos")
        return call(**parameters)

    def _page(self, operation: str, call: Callable[..., Any], parameters: dict[str, Any]) -> Any:
        start = parameters.get("ExclusiveStartKey", {})
        if _SENTINEL in start:
            parameters = {name: value for name, value in parameters.items() if name != "ExclusiveStartKey"}
            if start[_SENTINEL]:
                parameters["ExclusiveStartKey"] = start[_SENTINEL]
        elif self._weather.strikes("empty_page"):
            return {"Items": [], "Count": 0, "LastEvaluatedKey": {_SENTINEL: start}}
        if self._weather.strikes("short_page"):
            parameters = parameters | {"Limit": 1}
        answer = self._read(operation, call, parameters)
        if "IndexName" in parameters:
            key = repr(sorted(parameters.items(), key=repr))
            if key in self._index_answers and self._weather.strikes("stale_index"):
                return copy.deepcopy(self._index_answers[key])
            self._index_answers[key] = copy.deepcopy(answer)
        return answer
