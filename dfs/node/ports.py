"""Which port a node listens on."""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence

from dfs import process
from dfs.errors import StartError
from dfs.settings import NodeSettings

AUTOMATIC = (*range(8081, 8091), 8080)
"""Tried in this order when NODE_PORT is not set."""


def choose(settings: NodeSettings, host: str, automatic: Sequence[int] = AUTOMATIC) -> socket.socket:
    """A socket that will be the node's: inherited from systemd, else on NODE_PORT (0: any free port),
    else on the first free of `automatic`. It may not listen yet, so that callers are refused, and
    not left waiting, while the disk recovers; see `open_for_calls`. Raises StartError."""
    inherited = process.inherited_listener()
    if inherited is not None:
        return inherited
    if settings.node_port is not None:
        return _bind(host, settings.node_port)
    for port in automatic:
        try:
            return _bind(host, port)
        except process.PortInUse:
            continue
    raise StartError(
        f"NODE_PORT is not set and all of its usual ports {', '.join(map(str, automatic))} are in use on {host}: "
        "set NODE_PORT, 0 for any free port"
    )


def open_for_calls(
    bound: socket.socket, settings: NodeSettings, host: str, automatic: Sequence[int] = AUTOMATIC
) -> socket.socket:
    """Let `bound` listen; or another in its place, when somebody else began to listen there first
    and NODE_PORT leaves the choice. Raises StartError."""
    while True:
        try:
            bound.listen(process.BACKLOG)
            return bound
        except OSError as error:
            port = bound.getsockname()[1]
            bound.close()
            if error.errno != errno.EADDRINUSE or settings.node_port:
                raise StartError(
                    f"NODE_PORT={port}: the port cannot be listened on, on {host}: {error.strerror}; "
                    "stop the process that holds it or choose another port"
                ) from error
        bound = choose(settings, host, automatic)


def _bind(host: str, port: int) -> socket.socket:
    return process.bind(host, port, port_setting="NODE_PORT", bind_setting="DFS_NODE_BIND")
