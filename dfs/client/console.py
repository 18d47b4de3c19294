"""What a command writes: results to stdout, everything else to stderr."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, BinaryIO, TextIO

from dfs.client.exits import advice, exit_code
from dfs.client.failures import printable
from dfs.client.progress import Meter
from dfs.client.source import Progress, no_progress
from dfs.errors import DfsError


class Console:
    """stdin, stdout and stderr of a command.

    With `as_json` every result, failures included, is one JSON object on a line of stdout; where
    stdout carries a file's content (`content_on_stdout`), on stderr.
    """

    def __init__(self, stdin: TextIO, stdout: TextIO, stderr: TextIO, *, as_json: bool, quiet: bool) -> None:
        self._stdin = stdin
        self._stdout = stdout
        self._stderr = stderr
        self._json = as_json
        self._quiet = quiet
        self._meter: Meter | None = None
        self._last_notice = ""
        self.content_on_stdout = False

    @property
    def binary_in(self) -> BinaryIO:
        """stdin as bytes."""
        return self._stdin.buffer

    @property
    def binary_out(self) -> BinaryIO:
        """stdout as bytes."""
        return self._stdout.buffer

    def result(self, fields: Mapping[str, Any], text: str | None = None) -> None:
        """A result: `fields` as JSON, or `text` for people (None: nothing)."""
        self._clear()
        out = self._stderr if self.content_on_stdout else self._stdout
        if self._json:
            print(json.dumps(fields), file=out)
        elif text is not None:
            print(self._shown(text), file=out)

    def header(self, text: str) -> None:
        """The first line of a table, for people."""
        if not self._json:
            self._clear()
            print(self._shown(text), file=self._stdout)

    def done(self, fields: Mapping[str, Any], text: str) -> None:
        """A result that is news only to those who want to know: not said with --quiet."""
        self.result(fields, None if self._quiet or self.content_on_stdout else text)

    def failure(self, error: DfsError, subject: str | None = None, hint: str | None = None) -> None:
        """One line on stderr: what failed, why, what to do."""
        message = error.message or error.code
        if subject is not None and subject not in message:
            message = f"{subject}: {message}"
        hint = hint or advice(error)
        self.complain(f"{message}; {hint}" if hint else message)
        if self._json:
            found = {"code": error.code, "message": error.message, "exit": int(exit_code(error))}
            self.result({"subject": subject, "error": found} if subject is not None else {"error": found})

    def complain(self, text: str) -> None:
        """A line on stderr, in any case."""
        self._clear()
        print(f"dfs: {printable(text)}", file=self._stderr, flush=True)

    def notice(self, text: str) -> None:
        """A line on stderr for somebody who is watching; the same one is not said twice running."""
        if not self._quiet and self._stderr.isatty() and text != self._last_notice:
            self._last_notice = text
            self.complain(text)

    @contextlib.contextmanager
    def progress(self, name: str) -> Iterator[Progress]:
        """A progress bar while the block runs: only on a terminal, not with --quiet or --json."""
        if self._quiet or self._json or not self._stderr.isatty():
            yield no_progress
            return
        self._meter = Meter(self._stderr, printable(name))
        try:
            yield self._meter.update
        finally:
            self._clear()
            self._meter = None

    def _shown(self, text: str) -> str:
        """A terminal gets no characters that would act on it; a program gets names as they are."""
        return "\n".join(map(printable, text.split("\n"))) if self._stdout.isatty() else text

    def _clear(self) -> None:
        if self._meter is not None:
            self._meter.clear()

