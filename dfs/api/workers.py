"""The processes of one API server: one that does everything, or several workers on one socket.

Workers share the listening socket and a table of who holds how many connections. All else (metadata,
node calls, notes, caches) each makes for itself, as several API servers do: whatever holds for those
holds for workers. Background work is done by whichever worker has its lease.
"""

from __future__ import annotations

import socket
import time
from typing import Any

from dfs import logs, prefork
from dfs.api import assembly
from dfs.process import Lifetime, PortInUse
from dfs.settings import ApiSettings
from dfs.wire.balance import Balance
from dfs.wire.deadline import Deadline

_PORT_SECONDS = 2.0
"""How long a start waits for the workers of a killed predecessor to let go of the port."""


def forks(settings: ApiSettings) -> bool:
    """Whether `serve` makes several processes."""
    return settings.workers > 1


def serve(settings: ApiSettings, lifetime: Lifetime) -> None:
    """Run the API server until `lifetime` ends. Raises StartError when it cannot start."""
    if not forks(settings):
        assembly.serve(settings, lifetime)
        return
    count, own = settings.workers, settings.of_one_worker()
    listener = _open_listener(settings)
    balance = Balance(count)

    def work(number: int, worker: Lifetime) -> None:
        logs.configure(settings.role, settings.log_format, settings.log_level, worker=number)
        assembly.serve(own, worker, assembly.Place(listener, balance.seat(number)))

    def on_ready(facts: dict[str, Any]) -> None:
        assembly.tell(settings, facts["cluster_id"], facts["port"])
        lifetime.ready(port=facts["port"])

    prefork.Crew(
        lifetime,
        prefork.Forks(lifetime, work),
        count,
        patience=settings.drain_timeout + prefork.GRACE_SECONDS,
        on_ready=on_ready,
        on_gone=balance.vacate,
        # Before the workers leave it: the last one to do so answers all who are in its queue.
        on_stop=listener.close,
    ).run()
    logs.event("api.stopped", reason=lifetime.reason)


def _open_listener(settings: ApiSettings) -> socket.socket:
    deadline = Deadline(_PORT_SECONDS)
    while True:
        try:
            return assembly.open_listener(settings)
        except PortInUse:
            if deadline.expired():
                raise
            time.sleep(0.05)
