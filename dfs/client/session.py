"""One conversation with the API servers: each in turn, again while that may help.

Every call of the client goes through `Session.run`. An attempt is one full try against one server,
answer included, so that an answer lost half way counts as a failed attempt.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dfs import errors
from dfs.client.endpoint import Endpoint
from dfs.client.failures import Unreachable
from dfs.client.retry import Patience, RetryPolicy
from dfs.client.transport import Answer, Body, Transport, read_json, refusal, translate
from dfs.errors import DfsError
from dfs.wire.client import TransportError
from dfs.wire.deadline import Deadline

T = TypeVar("T")

STREAM_SECONDS = 30 * 86400.0
"""Bodies have no total time, only a limit on standing still (`timeout`)."""

RetryHook = Callable[[DfsError, float], None]


@dataclass(frozen=True, slots=True)
class Call:
    """A request, whichever server it goes to. `what` names its object in error messages."""

    method: str
    target: str
    what: str
    headers: tuple[tuple[str, str], ...] = ()
    body: Body = None
    length: int | None = None
    writes: bool = False
    streams: bool = False
    expect_continue: bool = False


class Session:
    """Thread-safe. `timeout` (seconds) bounds a short call, and for a stream the time without progress.

    `pause` and `clock` are the seam for tests; `on_retry` hears of every wait (error, seconds).
    """

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        transport: Transport,
        *,
        timeout: float = 60.0,
        policy: RetryPolicy | None = None,
        rng: random.Random | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], object] | None = None,
        on_retry: RetryHook | None = None,
    ) -> None:
        self._endpoints = tuple(endpoints)
        self._transport = transport
        self._timeout = timeout
        self._policy = policy or RetryPolicy()
        self._rng = rng or random.Random()
        self._clock = clock
        self._closed = threading.Event()
        self._pause = pause or self._closed.wait
        self._on_retry = on_retry
        self._first = 0

    def close(self) -> None:
        """End all waiting and drop idle connections."""
        self._closed.set()
        self._transport.close()

    @property
    def urls(self) -> tuple[str, ...]:
        """The API servers, in the order they were named."""
        return tuple(endpoint.url for endpoint in self._endpoints)

    def patience(self) -> Patience:
        """A fresh count of retries."""
        return Patience(self._policy, self._rng)

    def send(self, endpoint: Endpoint, call: Call) -> Answer:
        """One attempt: the answer if it is 2xx.

        Raises what the server answered as a DfsError, and TransportError.
        """
        answer = self._transport.request(
            endpoint.host,
            endpoint.port,
            call.method,
            call.target,
            headers=call.headers,
            body=call.body,
            length=call.length,
            deadline=Deadline(STREAM_SECONDS if call.streams else self._timeout),
            stall=self._timeout,
            expect_continue=call.expect_continue,
            repeatable=call.body is None or isinstance(call.body, (bytes, memoryview)),
        )
        if 200 <= answer.status < 300:
            return answer
        raise refusal(answer, call.what)

    def json(self, call: Call) -> Any:
        """The JSON value that `call` is answered with; None for an answer without a body."""

        def attempt(endpoint: Endpoint) -> Any:
            answer = self.send(endpoint, call)
            if answer.status == 204 or answer.length == 0:
                answer.close()
                return None
            return read_json(answer)

        return self.run(attempt, writes=call.writes)

    def run(
        self,
        attempt: Callable[[Endpoint], T],
        *,
        writes: bool,
        streams: bool = False,
        may_repeat: Callable[[], bool] = lambda: True,
        patience: Patience | None = None,
        server: int | None = None,
    ) -> T:
        """`attempt` until it succeeds, fails for good, or patience ends.

        `server` is the one to begin with; without it that is the one which answered last. `may_repeat` is asked after a failure: False ends it (the body cannot be sent again). Once an
        outcome was unknown, giving up raises `Unknown`, whatever the later attempts met.
        """
        patience = patience or self.patience()
        began = self._clock()
        unsure: DfsError | None = None
        while True:
            worst: DfsError | None = None
            for index, endpoint in self._in_turn(self._first if server is None else server):
                try:
                    result = attempt(endpoint)
                except TransportError as error:
                    failure = translate(error, endpoint, writes=writes)
                except DfsError as error:
                    failure = error
                else:
                    if server is None:
                        self._first = index
                    return result
                unsure = failure if isinstance(failure, errors.Unknown) else unsure
                if not failure.retryable or not may_repeat():
                    raise failure
                worst = failure if worst is None or isinstance(worst, Unreachable) else worst
            assert worst is not None  # there is at least one endpoint
            slow = not streams and self._clock() - began > 2 * self._timeout + self._policy.total
            if slow or not self.wait(worst, patience):
                raise _verdict(worst, unsure)

    def wait(self, error: DfsError, patience: Patience) -> bool:
        """Pause before trying again after `error`; False when it is time to give up."""
        delay = patience.next_delay(error, error.retry_after)
        if delay is None or self._closed.is_set():
            return False
        if self._on_retry is not None:
            self._on_retry(error, delay)
        self._pause(delay)
        return not self._closed.is_set()

    def turn_away(self, endpoint: Endpoint) -> None:
        """Begin the next call with the server after `endpoint`."""
        self._first = self.after(endpoint)

    def after(self, endpoint: Endpoint) -> int:
        """The number of the server after `endpoint`."""
        return (self.number_of(endpoint) + 1) % len(self._endpoints)

    def number_of(self, endpoint: Endpoint) -> int:
        """The number of this server."""
        return self._endpoints.index(endpoint)

    def nth(self, number: int) -> int:
        """The server for the connection `number` of several, so that they spread over all servers."""
        return (self._first + number) % len(self._endpoints)

    def _in_turn(self, first: int) -> list[tuple[int, Endpoint]]:
        numbered = list(enumerate(self._endpoints))
        return numbered[first:] + numbered[:first]


def _verdict(last: DfsError, unsure: DfsError | None) -> DfsError:
    if unsure is None or isinstance(last, errors.Unknown):
        return last
    return errors.Unknown(f"{unsure.message}; after that: {last.message}")
