"""What the machine itself can do, measured in the same run: the yardsticks of the table."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
import time
import zlib
from collections.abc import Callable
from pathlib import Path

BLOCK = 1 << 20
RAW_WRITE = "raw sequential write + fdatasync, MB/s"


def disk_write_rate(directory: Path, size: int) -> float:
    """Bytes per second of a sequential write and one fdatasync."""
    path = directory / "raw"
    block = os.urandom(BLOCK)
    began = time.perf_counter()
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
    for _ in range(size // BLOCK):
        os.write(descriptor, block)
    getattr(os, "fdatasync", os.fsync)(descriptor)
    os.close(descriptor)
    seconds = time.perf_counter() - began
    path.unlink()
    return size / seconds


def sync_rate(directory: Path, count: int) -> float:
    """4 KiB appends per second, each with its own fdatasync."""
    path = directory / "sync"
    descriptor = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    began = time.perf_counter()
    for _ in range(count):
        os.write(descriptor, b"x" * 4096)
        getattr(os, "fdatasync", os.fsync)(descriptor)
    seconds = time.perf_counter() - began
    os.close(descriptor)
    path.unlink()
    return count / seconds


def _rate_over(update: Callable[[bytes], object], size: int) -> float:
    block = os.urandom(BLOCK)
    began = time.perf_counter()
    for _ in range(size // BLOCK):
        update(block)
    return size / (time.perf_counter() - began)


def hash_rate(size: int) -> float:
    """Bytes per second of SHA-256 on one core."""
    return _rate_over(hashlib.sha256().update, size)


def crc_rate(size: int) -> float:
    """Bytes per second of CRC-32 (zlib's) on one core."""
    return _rate_over(zlib.crc32, size)


def loopback_rate(size: int) -> float:
    """Bytes per second through one loopback connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    block = os.urandom(BLOCK)

    def send() -> None:
        with socket.create_connection(listener.getsockname()) as sender:
            for _ in range(size // BLOCK):
                sender.sendall(block)

    thread = threading.Thread(target=send)
    began = time.perf_counter()
    thread.start()
    receiver, _ = listener.accept()
    scratch = bytearray(BLOCK)
    with receiver:
        while receiver.recv_into(scratch):
            pass
    seconds = time.perf_counter() - began
    thread.join()
    listener.close()
    return size / seconds


def measure(directory: Path, size: int) -> dict[str, float]:
    """All of them: what they are, with their unit, and how much."""
    return {
        RAW_WRITE: disk_write_rate(directory, size) / 1e6,
        "4 KiB append + fdatasync, 1/s": sync_rate(directory, 200),
        "SHA-256, one core, MB/s": hash_rate(size) / 1e6,
        "CRC-32, one core, MB/s": crc_rate(size) / 1e6,
        "loopback copy, one connection, MB/s": loopback_rate(size) / 1e6,
    }
