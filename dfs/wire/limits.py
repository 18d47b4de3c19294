"""What a server allows its clients, and what the process itself may open."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from dfs import logs


@dataclass(frozen=True)
class Limits:
    """Limits of one server; times in seconds, sizes in bytes."""

    head_bytes: int = 32 * 1024
    line_bytes: int = 16 * 1024
    header_lines: int = 100
    head_seconds: float = 10.0
    """From a head's first byte (on a new connection: from its acceptance) to its last."""
    heads_bytes: int = 32 * 1024 * 1024
    """All unfinished heads together; beyond it the oldest are cut off."""
    idle_seconds: float = 75.0
    workers: int = 256
    connections: int = 8192
    min_rate: float = 16 * 1024
    """Bytes a second of a body or an answer over `rate_window`, enforced while others wait."""
    rate_window: float = 10.0
    stall_seconds: float = 300.0
    """Without a single byte of progress in a body or an answer, whether others wait or not."""
    hot_seconds: float = 0.005
    """How long a worker keeps a connection that has gone quiet when more than half of them are taken;
    while they are plenty it is `link.PAUSE`."""
    skip_bytes: int = 1024 * 1024
    """The rest of an unread body up to which the connection is kept: more, and it is closed."""
    drain_bytes: int = 16 * 1024 * 1024
    """Read and thrown away after the last answer of a connection, so that the peer sees the answer."""
    drain_seconds: float = 5.0
    quiet_seconds: float = 0.5
    """While the server drains: how long a connection without a request is still listened to."""


def raise_file_limit() -> int:
    """Raise RLIMIT_NOFILE to its hard limit; returns how many files may be open now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError) as error:  # some systems refuse their own "unlimited"
            logs.warning("file_limit_kept", soft=soft, hard=hard, error=error)
    return soft if soft != resource.RLIM_INFINITY else 1 << 20
