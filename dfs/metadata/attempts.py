"""The tries of one operation on metadata: what is known, what is in doubt, when to give up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from dfs.errors import Busy, Unavailable, Unknown
from dfs.metadata.contract import MetadataStore, OutcomeUnknown, StepsRefused
from dfs.metadata.steps import Step
from dfs.model import Head

TRIES = 8
PATIENCE = 30.0
"""Seconds after which an operation is not tried again: its client has long asked elsewhere."""

_FIRST_PAUSE = 0.005
_LONGEST_PAUSE = 0.25


class Attempts:
    """Iterate over it for the tries; use it as a context so that doubt is never reported as failure.

    Inside `with`, an `Unavailable` leaves as `Unknown` once some transaction's answer was lost.
    """

    def __init__(
        self,
        store: MetadataStore,
        *,
        pause: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pause = pause
        self._clock = clock
        self._began = clock()
        self.in_doubt = False

    def __enter__(self) -> Attempts:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self.in_doubt and isinstance(error, Unavailable) and not isinstance(error, Unknown):
            raise self._unknown() from error

    def __iter__(self) -> Iterator[int]:
        """Numbers of the tries, with random pauses between; raises Busy or Unknown after the last."""
        for number in range(TRIES):
            if number:
                self._pause(random.uniform(0, min(_LONGEST_PAUSE, _FIRST_PAUSE * 2**number)))
                if self._clock() - self._began > PATIENCE:
                    break
            yield number
        if self.in_doubt:
            raise self._unknown()
        raise Busy("others keep changing the same path; try again")

    def send(self, steps: Sequence[Step]) -> bool:
        """Whether `transact(steps)` is known to have been applied by this attempt.

        False: refused, or the answer was lost (then `in_doubt` stays set). Raises Unavailable when
        metadata cannot be reached.
        """
        return self._sent(lambda: self._store.transact(steps))

    def send_on(self, bucket: str, path: str, build: Callable[[Head | None], Sequence[Step]]) -> bool:
        """As `send` of `transact_on(bucket, path, build)`; what `build` raises passes through."""
        return self._sent(lambda: self._store.transact_on(bucket, path, build))

    def _sent(self, transact: Callable[[], None]) -> bool:
        try:
            transact()
        except StepsRefused:
            return False
        except OutcomeUnknown:
            self.in_doubt = True
            return False
        except Busy:
            return False
        return True

    def _unknown(self) -> Unknown:
        return Unknown(
            "the answer of the metadata store was lost; repeat with the same operation id to find out"
        )
