"""The progress bar: one line on a terminal, redrawn at most ten times a second."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from typing import TextIO

from dfs.notation import format_size

_REDRAW_SECONDS = 0.1
_RATE_SECONDS = 5.0
_WIDEST_NAME = 32


def format_seconds(seconds: float) -> str:
    """`0:07`, `12:34`, `3:00:00`."""
    whole = int(seconds + 0.5)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def render(name: str, done: int, total: int | None, rate: float, width: int) -> str:
    """The line for `done` of `total` bytes (None: not known) at `rate` bytes a second.

    Never longer than `width` characters.
    """
    name = name if len(name) <= _WIDEST_NAME else "…" + name[-(_WIDEST_NAME - 1) :]
    speed = f"{format_size(rate)}/s"
    if total is None:
        return f"{name}  {format_size(done)}  {speed}"[:width]
    share = min(1.0, done / total) if total else 1.0
    left = format_seconds((total - done) / rate) if rate > 0 and done < total else "0:00" if done >= total else "-:--"
    facts = f"{share:4.0%}  {format_size(done)} of {format_size(total)}  {speed}  {left} left"
    room = width - len(name) - len(facts) - 6
    if room < 5:
        shorter = (f"{name}  {facts}", f"{name}  {share:4.0%}  {speed}", f"{name}  {share:4.0%}", f"{share:4.0%}")
        return next((line for line in shorter if len(line) <= width), "")
    room = min(room, 40)
    filled = int(share * room)
    return f"{name}  [{'=' * filled}{' ' * (room - filled)}]  {facts}"[:width]


def terminal_width(stream: TextIO) -> int:
    """Columns of the terminal behind `stream`, 80 when it does not say."""
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        return 80


class Meter:
    """Draws the progress of one transfer on `stream`; `update` is a `Progress`.

    Wipe it with `clear` before writing anything else there.
    """

    def __init__(self, stream: TextIO, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream
        self._name = name
        self._clock = clock
        self._drawn_at: float | None = None
        self._drawn = False
        self._samples: deque[tuple[float, int]] = deque()

    def update(self, done: int, total: int | None) -> None:
        """Redraw, if the last time was long enough ago."""
        now = self._clock()
        if self._samples and done < self._samples[-1][1]:
            self._samples.clear()  # it began again
        if self._drawn_at is not None and now - self._drawn_at < _REDRAW_SECONDS and done != total:
            return
        self._samples.append((now, done))
        while now - self._samples[0][0] > _RATE_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
        began, before = self._samples[0]
        rate = (done - before) / (now - began) if now > began else 0.0
        line = render(self._name, done, total, rate, terminal_width(self._stream) - 1)
        self._stream.write(f"\r\x1b[K{line}")
        self._stream.flush()
        self._drawn_at = now
        self._drawn = True

    def clear(self) -> None:
        """Wipe the line."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False
