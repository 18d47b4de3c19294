"""Putting figures into a document that explains them, between two marks."""

from __future__ import annotations

from pathlib import Path

BEGIN = "<!-- figures: written by `python -m tests.bench --markdown`, not by hand -->"
END = "<!-- end of figures -->"


def replaced(document: str, figures: str) -> str:
    """`document` with `figures` between its marks. Raises ValueError when it has them not once each, in order."""
    begin, end = document.find(BEGIN), document.find(END)
    if not 0 <= begin < end or document.count(BEGIN) != 1 or document.count(END) != 1:
        raise ValueError(f"the document must have, once and in this order, {BEGIN!r} and {END!r}")
    return document[: begin + len(BEGIN)] + "\n\n" + figures + "\n\n" + document[end:]


def refresh(path: Path, figures: str) -> None:
    """Write `figures` to `path`: between the marks of a document that has them, else as the whole file."""
    document = path.read_text(encoding="utf-8") if path.exists() else ""
    path.write_text(replaced(document, figures) if BEGIN in document else figures + "\n", encoding="utf-8")
