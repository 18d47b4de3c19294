"""Long JSON arrays, read item by item: a plan of 131,072 chunks is some 30 MB of text."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Iterator
from typing import Any

from dfs.client.failures import LocalFailure

_PIECE = 64 << 10
_LONGEST_VALUE = 1 << 20
_AFTER_VALUE = frozenset(" \t\r\n,:]}")


class ArrayReader:
    """The items of one array in a JSON text.

    `member` names the array in a top-level object, None says that the text is the array itself. The
    object's other members are in `others` once the items have been read to the end. Memory: one
    piece and one value. Raises LocalFailure when the text is not that.
    """

    def __init__(self, read: Callable[[int], bytes], member: str | None = None) -> None:
        self._read = read
        self._member = member
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._json = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._ended = False
        self.others: dict[str, Any] = {}

    def __iter__(self) -> Iterator[Any]:
        if self._member is None:
            yield from self._items()
        else:
            yield from self._object()
        if self._peek():
            raise _nonsense()

    def _object(self) -> Iterator[Any]:
        self._expect("{")
        found = False
        while self._peek() != "}":
            name = self._value()
            self._expect(":")
            if name == self._member and not found:
                found = True
                yield from self._items()
            elif isinstance(name, str):
                self._peek()
                self.others[name] = self._value()
            else:
                raise _nonsense()
            if self._peek() != "}":
                self._expect(",")
        self._expect("}")
        if not found:
            raise _nonsense()

    def _items(self) -> Iterator[Any]:
        self._expect("[")
        while self._peek() != "]":
            yield self._value()
            if self._peek() != "]":
                self._expect(",")
        self._expect("]")

    def _fill(self) -> bool:
        if self._ended:
            return False
        piece = self._read(_PIECE)
        self._ended = not piece
        try:
            text = self._utf8.decode(piece, final=self._ended)
        except UnicodeDecodeError:
            raise _nonsense() from None
        self._text = self._text[self._at :] + text
        self._at = 0
        return True

    def _peek(self) -> str:
        """The next character that is not white space; empty at the end of the text."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in " \t\r\n":
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def _expect(self, char: str) -> None:
        if self._peek() != char:
            raise _nonsense()
        self._at += 1

    def _value(self) -> Any:
        while True:
            try:
                value, end = self._json.raw_decode(self._text, self._at)
            except (ValueError, RecursionError):
                value, end = None, None
            # A number at the end of what was read so far may go on (12 of 1234, 1. of 1.5).
            if end is not None and (self._text[end : end + 1] in _AFTER_VALUE or self._ended):
                self._at = end
                return value
            if len(self._text) - self._at > _LONGEST_VALUE or not self._fill():
                raise _nonsense()


def _nonsense() -> LocalFailure:
    return LocalFailure("the server's answer is not the JSON expected: is that URL a dfs API server?")
