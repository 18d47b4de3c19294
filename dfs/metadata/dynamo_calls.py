"""Calling DynamoDB: what each failure means, and which calls are tried again. Knows no boto3.

A failure is one of: nothing happened for good (`RAISED`), nothing happened and trying again helps
(`CONTENDED`), nothing was sent (`NOT_SENT`), or the answer was lost (`LOST`). The SDK's own retries
are off: it would repeat a conditional write whose answer was lost, see its own write as a conflict,
and hide which of the two happened.

What did nothing (CONTENDED, NOT_SENT), and reads in any case, are tried again for REACHING_SECONDS:
clients that never repeat a request must not see a hiccup of the network or of a table.
"""

from __future__ import annotations

import os
import random
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import count
from typing import Any

from dfs.errors import Busy, Unavailable
from dfs.metadata.contract import OutcomeUnknown

CONTENDED_TRIES = 8
"""Most tries of a contended write: what it is conditioned on has probably changed by then."""

REACHING_SECONDS = 5.0
"""No call is tried again later than this after its first try."""

_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0
_READS = frozenset(
    {"get_item", "query", "scan", "describe_table", "describe_continuous_backups", "describe_time_to_live"}
)


class Refused(Exception):
    """A condition does not hold. `item` is the item as it was, where it was asked for."""

    def __init__(self, message: str, item: dict[str, Any] | None = None) -> None:
        super().__init__(message)
        self.item = item


class Missing(Exception):
    """The table does not exist."""


class InUse(Exception):
    """The table exists already, or is being changed."""


class NotOffered(Exception):
    """The endpoint (an emulator) does not know this operation."""


class Rejected(RuntimeError):
    """DynamoDB refuses the request itself: a bug, or a table that is not what it should be."""


class AccessRefused(Unavailable):
    """The credentials are missing, wrong or not sufficient."""


class Kind(Enum):
    """What a failure means; see the module's text."""

    RAISED = "raised"
    CONTENDED = "contended"
    NOT_SENT = "not sent"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call. `error` is raised for RAISED; `text` explains the others."""

    kind: Kind
    text: str
    error: Exception | None = None


def _longest_pause(number: int) -> float:
    return min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(number, 10))


class Calls:
    """Calls on one client per process, made when first needed (so after any fork).

    `make_client` builds a client; `judge` turns what it raises into a Failure, or None for what is
    no failure of a call.
    """

    def __init__(
        self,
        make_client: Callable[[], Any],
        judge: Callable[[BaseException], Failure | None],
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._make_client = make_client
        self._judge = judge
        self._pause = pause
        self._clock = clock
        self._guard = threading.Lock()
        self._pid = 0
        self._client: Any = None

    def __call__(self, operation: str, **parameters: Any) -> dict[str, Any]:
        """The answer of an operation.

        Raises Refused, Missing, InUse, NotOffered, Busy (contended too long), Unavailable, and for
        writes OutcomeUnknown.
        """
        began = self._clock()
        contended = 0
        for number in count():
            if number:
                self._pause(random.uniform(0, _longest_pause(number)))
            if operation == "transact_write_items":
                parameters["ClientRequestToken"] = str(uuid.uuid4())
            try:
                answer: dict[str, Any] = getattr(self._here(), operation)(**parameters)
                return answer
            except Exception as error:
                failure = self._judge(error)
                if failure is None:
                    raise
                if failure.error is not None:
                    raise failure.error from error
                if failure.kind is Kind.LOST and operation not in _READS:
                    raise OutcomeUnknown(f"the answer of DynamoDB was lost: {failure.text}") from error
                contended += failure.kind is Kind.CONTENDED
                worn_out = contended >= CONTENDED_TRIES and operation not in _READS
                if worn_out or self._clock() - began >= REACHING_SECONDS:
                    if failure.kind is Kind.CONTENDED:
                        raise Busy(f"DynamoDB is busy: {failure.text}") from error
                    raise Unavailable(f"DynamoDB cannot be reached: {failure.text}") from error
        raise AssertionError("unreachable")

    def items(self, operation: str, **parameters: Any) -> Iterator[dict[str, Any]]:
        """The items of every page of a `query` or `scan`; empty pages are normal."""
        while True:
            answer = self(operation, **parameters)
            yield from answer.get("Items", [])
            if not answer.get("LastEvaluatedKey"):
                return
            parameters["ExclusiveStartKey"] = answer["LastEvaluatedKey"]

    def until_processed(self, operation: str, unprocessed: str, requests: dict[str, Any]) -> None:
        """A batch, repeated for what the answer names as unprocessed. Raises Busy when some stays so."""
        for number in range(CONTENDED_TRIES):
            if number:
                self._pause(random.uniform(0, _longest_pause(number)))
            requests = self(operation, RequestItems=requests).get(unprocessed) or {}
            if not requests:
                return
        raise Busy("DynamoDB left part of a batch unprocessed")

    def close(self) -> None:
        """Close the connections of this process."""
        with self._guard:
            if self._client is not None and self._pid == os.getpid():
                self._client.close()
            self._client = None

    def _here(self) -> Any:
        if self._pid != os.getpid():
            self._guard = threading.Lock()  # A lock held in the parent at the fork stays held here.
            self._client = None
            self._pid = os.getpid()
        client = self._client
        if client is None:
            with self._guard:
                if self._client is None:
                    self._client = self._make_client()
                client = self._client
        return client
