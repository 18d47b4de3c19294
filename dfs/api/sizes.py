"""What sizes an upload may have: pure, and told before its body is sent."""

from __future__ import annotations

from dfs.errors import BadRequest, TooManyChunks
from dfs.model import chunk_count


def check_chunk_size(value: int, largest: int, name: str) -> int:
    """`value` if a chunk may be so large."""
    if not 1 <= value <= largest:
        raise BadRequest(f"{name} must be from 1 to {largest} bytes, not {value if abs(value) < 1 << 64 else 'that'}")
    return value


def check_chunks(size: int, chunk_size: int, most: int, largest: int) -> int:
    """The number of chunks of a file of `size` bytes. Raises TooManyChunks, saying what would do."""
    count = chunk_count(size, chunk_size)
    if count > most:
        fits = -(-size // most)
        advice = (
            f"the smallest chunk size that fits is {fits}"
            if fits <= largest
            else f"the largest file this cluster takes has {most * largest} bytes"
        )
        raise TooManyChunks(f"the file would have more than {most} chunks of {chunk_size} bytes; {advice}")
    return count
