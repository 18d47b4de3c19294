"""Which connections wait for what, and whose time is over. Pure: the clock is an argument."""

from __future__ import annotations

from dfs.wire.connection import Connection, State


class Waiting:
    """Connections by state. A state has one time limit, so each queue is in the order of `due`."""

    def __init__(self, seconds: dict[State, float]) -> None:
        self._seconds = dict(seconds)
        self._queues: dict[State, dict[Connection, None]] = {state: {} for state in seconds}
        self.head_bytes = 0
        """All bytes of unfinished heads."""

    def enter(self, connection: Connection, state: State, now: float) -> None:
        """`connection`, which was nowhere, waits in `state` from `now` on."""
        connection.state = state
        connection.due = now + self._seconds[state]
        self._queues[state][connection] = None
        if state is State.HEAD:
            self.head_bytes += len(connection.link.data)

    def leave(self, connection: Connection) -> None:
        """`connection` waits no longer (its `link.data` is what it was on `enter`, or told to `grew`)."""
        state = connection.state
        connection.state = State.SERVED
        if state is not State.SERVED:
            del self._queues[state][connection]
            if state is State.HEAD:
                self.head_bytes -= len(connection.link.data)

    def grew(self, connection: Connection, count: int) -> None:
        """`count` bytes were added to what `connection` holds."""
        if connection.state is State.HEAD:
            self.head_bytes += count

    def shorten(self, state: State, seconds: float, now: float) -> None:
        """From `now` on, `state` lasts `seconds` at most, for those that are in it already too."""
        seconds = self._seconds[state] = min(seconds, self._seconds[state])
        for connection in self._queues[state]:
            connection.due = min(connection.due, now + seconds)

    def oldest(self, state: State) -> Connection | None:
        """Who has waited longest in `state`."""
        return next(iter(self._queues[state]), None)

    def since(self, connection: Connection) -> float:
        """When `connection` entered its state."""
        return connection.due - self._seconds[connection.state]

    def next_due(self) -> float | None:
        """When the next time limit is reached."""
        dues = [next(iter(queue)).due for queue in self._queues.values() if queue]
        return min(dues) if dues else None

    def overdue(self, now: float) -> list[Connection]:
        """Those whose time is over."""
        found: list[Connection] = []
        for queue in self._queues.values():
            for connection in queue:
                if connection.due > now:
                    break
                found.append(connection)
        return found

    def counts(self) -> dict[str, int]:
        """How many wait in each state."""
        return {state.value: len(queue) for state, queue in self._queues.items()}
