"""Log lines: an event word and key=value pairs (or one JSON object a line), to stderr."""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

LOGGER = logging.getLogger("dfs")


def _quote(value: object) -> str:
    text = str(value)
    if text and all(char.isprintable() and char not in ' "=\\' for char in text):
        return text
    return json.dumps(text, ensure_ascii=True)


class _Formatter(logging.Formatter):
    def __init__(self, role: str, as_json: bool, always: dict[str, Any]) -> None:
        super().__init__()
        self._always = always
        self._role = role
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        stamp = f"{stamp}.{int(record.msecs):03d}Z"
        fields: dict[str, Any] = self._always | getattr(record, "fields", {})
        if record.exc_info:
            fields = fields | {"traceback": self.formatException(record.exc_info)}
        level = record.levelname.lower()
        if self._as_json:
            head = {"at": stamp, "level": level, "role": self._role, "event": record.getMessage()}
            return json.dumps(head | fields, default=str)
        pairs = "".join(f" {name}={_quote(value)}" for name, value in fields.items())
        return f"{stamp} {level} {self._role} {record.getMessage()}{pairs}"


def configure(role: str, log_format: str, level: str, **always: object) -> None:
    """Send log lines of `level` and above to stderr in `log_format` (`text` or `json`), each with the
    fields `always`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(role, log_format == "json", always))
    LOGGER.handlers[:] = [handler]
    LOGGER.setLevel(level.upper())
    LOGGER.propagate = False


def event(word: str, /, *, level: int = logging.INFO, exc: BaseException | None = None, **fields: object) -> None:
    """Log `word` with `fields`; `exc` adds its traceback."""
    LOGGER.log(level, word, extra={"fields": fields}, exc_info=exc)


def warning(word: str, /, *, exc: BaseException | None = None, **fields: object) -> None:
    """`event` at level WARNING."""
    event(word, level=logging.WARNING, exc=exc, **fields)


def error(word: str, /, *, exc: BaseException | None = None, **fields: object) -> None:
    """`event` at level ERROR."""
    event(word, level=logging.ERROR, exc=exc, **fields)
