from __future__ import annotations

import hashlib
import random

import pytest

from dfs.client.failures import VerifyFailed
from dfs.client.verify import ChunkVerifier, WholeVerifier


def digests(data: bytes, size: int) -> bytes:
    return b"".join(hashlib.sha256(data[at : at + size]).digest() for at in range(0, len(data), size))


def test_the_whole_content_verifies_or_not() -> None:
    good = WholeVerifier(hashlib.sha256(b"abc").hexdigest(), "f")
    good.feed(b"a")
    good.feed(b"bc")
    good.finish()
    bad = WholeVerifier(hashlib.sha256(b"abc").hexdigest(), "f")
    bad.feed(b"abd")
    with pytest.raises(VerifyFailed, match="f: the content received does not verify"):
        bad.finish()


def test_chunks_verify_however_the_pieces_fall() -> None:
    seed = random.randrange(1 << 30)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        data, size = rng.randbytes(rng.randrange(0, 40)), rng.randrange(1, 9)
        verifier = ChunkVerifier(digests(data, size), size, len(data), "f")
        broken = rng.randrange(len(data)) if data and rng.random() < 0.5 else None
        sent = bytearray(data)
        if broken is not None:
            sent[broken] ^= 1
        try:
            at = 0
            while at < len(sent):
                step = rng.randrange(1, 12)
                verifier.feed(bytes(sent[at : at + step]))
                at += step
            verifier.finish()
            assert broken is None
        except VerifyFailed as error:
            assert broken is not None and f"chunk {broken // size} " in error.message


def test_too_much_and_too_little_do_not_verify() -> None:
    verifier = ChunkVerifier(digests(b"abcd", 2), 2, 4, "f")
    verifier.feed(b"ab")
    with pytest.raises(VerifyFailed, match="fewer"):
        verifier.finish()
    verifier.feed(b"cd")
    verifier.finish()
    with pytest.raises(VerifyFailed, match="more"):
        verifier.feed(b"e")


def test_a_plan_of_the_wrong_length_does_not_verify() -> None:
    verifier = ChunkVerifier(digests(b"abcdef", 2), 2, 4, "f")
    verifier.feed(b"abcd")
    with pytest.raises(VerifyFailed):
        verifier.finish()
