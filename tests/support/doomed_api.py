"""API servers that do something fatal to themselves at a step, forked from one process that has imported
everything already: a start costs milliseconds.

`python -m tests.support.doomed_api` reads a command a line. `{"path", "step", "act", "settings"}` starts a server
and is answered with its process id and port; a process id alone is answered with how that server ended, once it
has. When the input ends, all of them are killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import ExitStack
from typing import Any

from dfs import process
from dfs.api.assembly import assemble, make_server
from dfs.settings import ApiSettings
from tests.support.faults import Gate
from tests.support.memory_node import QUIET_SETTINGS


def serve(path: str, step: str, act: str, settings: dict[str, Any], tell: int) -> None:
    """Serve until killed; writes the port to `tell`."""
    gate = Gate(path)
    if step:
        gate.arm(step, act)
    chosen = QUIET_SETTINGS | settings | {"metadata_url": f"sqlite:///{path}"}
    with ExitStack() as closing:
        service = assemble(ApiSettings(**chosen), gate, gate.cluster_info(), closing)  # type: ignore[arg-type]
        listener = process.listen("127.0.0.1", 0, port_setting="DFS_API_PORT", bind_setting="DFS_API_BIND")
        server = make_server(service, listener)
        closing.callback(server.close)
        server.start()
        os.write(tell, f"{server.port}\n".encode())
        while True:
            signal.pause()


def start(order: dict[str, Any]) -> tuple[int, int]:
    """Process id and port of a new server; port 0 when it died before it had one."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            sys.stdin.close()
            serve(**order, tell=write)
        finally:
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as told:
        return child, int(told.readline() or 0)


def main() -> None:
    running: set[int] = set()
    for line in sys.stdin:
        order = json.loads(line)
        if isinstance(order, dict):
            child, port = start(order)
            running.add(child)
            print(child, port, flush=True)
        else:
            running.discard(order)
            print(os.waitstatus_to_exitcode(os.waitpid(order, 0)[1]), flush=True)
    for child in running:
        os.kill(child, signal.SIGKILL)


if __name__ == "__main__":
    main()
