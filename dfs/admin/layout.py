"""Laying out text on a screen of fixed width: styled pieces, bars, tables that give up columns. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field

Line = list[tuple[str, str]]
"""Pieces of one line: text and style."""

STYLES = {"": "", "good": "\x1b[32m", "bad": "\x1b[1;31m", "warn": "\x1b[33m", "dim": "\x1b[2m", "bold": "\x1b[1m"}
_PLAIN = "\x1b[0m"


@dataclass(frozen=True, slots=True)
class Glyphs:
    """Characters that a terminal may not have."""

    full: str
    empty: str
    dot: str
    more: str
    between: str


RICH = Glyphs("█", "░", "●", "…", " · ")
PLAIN = Glyphs("#", ".", "*", "...", ", ")


@dataclass(slots=True)
class Column:
    """A column of a table. The one with the lowest `weight` is given up first; weight 0 never is."""

    title: str
    weight: int
    right: bool = False
    gap: int = 2
    """Blanks after it."""
    cells: list[str] = field(default_factory=list)
    styles: list[str] = field(default_factory=list)

    def add(self, text: str, style: str = "") -> None:
        """One cell more."""
        self.cells.append(text)
        self.styles.append(style)

    @property
    def width(self) -> int:
        """Of its widest cell."""
        return max(len(self.title), *map(len, self.cells)) if self.cells else len(self.title)

    def varies(self) -> bool:
        """Whether its cells differ."""
        return len(set(self.cells)) > 1


def table(columns: Sequence[Column], width: int) -> list[Line]:
    """The columns that fit in `width`, below a line of titles."""
    kept = list(columns)
    while sum(column.width + column.gap for column in kept) - kept[-1].gap > width:
        spare = [column for column in kept if column.weight]
        if not spare:
            break
        # What is the same everywhere says least.
        kept.remove(min(spare, key=lambda column: (column.varies(), column.weight)))
    lines: list[Line] = [[(_titles(kept), "dim")]]
    for number in range(len(kept[0].cells)):
        line: Line = []
        for column in kept:
            text = column.cells[number]
            padding = " " * (column.width - len(text))
            line.append((padding + text if column.right else text + padding, column.styles[number]))
            line.append((" " * column.gap, ""))
        lines.append(line[:-1])
    return lines


def _titles(columns: Sequence[Column]) -> str:
    return "".join(
        (column.title.rjust(column.width) if column.right else column.title.ljust(column.width)) + " " * column.gap
        for column in columns
    ).rstrip()


def joined(parts: Sequence[str], width: int, between: str) -> str:
    """As many of `parts`, from the first on, as fit in `width`."""
    text = ""
    for part in parts:
        longer = f"{text}{between}{part}" if text else part
        if text and len(longer) > width:
            break
        text = longer
    return text


def bar(share: float, width: int, glyphs: Glyphs) -> str:
    """`share` (0 to 1) as a bar; something is never shown as nothing, nor almost all as all."""
    share = min(1.0, max(0.0, share))
    filled = round(share * width)
    filled = min(width - 1, filled) if share < 1 else width
    filled = max(1, filled) if share > 0 else 0
    return glyphs.full * filled + glyphs.empty * (width - filled)


def wrapped(text: str, width: int, style: str = "", *, indent: int = 0, most: int = 2) -> list[Line]:
    """`text` on at most `most` lines of `width`, indented."""
    lines = textwrap.wrap(text, max(10, width - indent), max_lines=most, placeholder=" ...")
    return [[(" " * indent, ""), (line, style)] for line in lines]


def plain(line: Line) -> str:
    """A line without its styles."""
    return "".join(text for text, _ in line).rstrip()


def paint(line: Line, width: int, *, colour: bool) -> str:
    """A line as it is written, cut at `width` columns."""
    left = width
    pieces = []
    for text, style in line:
        cut = text[:left]
        left -= len(cut)
        pieces.append(f"{STYLES[style]}{cut}{_PLAIN}" if colour and style and cut.strip() else cut)
    whole = "".join(pieces)
    return whole if colour else whole.rstrip()
