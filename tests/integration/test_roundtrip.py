"""What goes in comes out: every way in and out, every size at which something changes."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.client import Client
from tests.support import needs
from tests.support.cluster import ROOT, Cluster

KIB, MIB = 1 << 10, 1 << 20
SIZES = (0, 1, 1023, 1024, 1025, 64 * MIB)
CHUNK_SIZES = (1, KIB, MIB, 8 * MIB)
MOST_CHUNKS = 8192
CASES = [(size, chunk) for size in SIZES for chunk in CHUNK_SIZES if -(-size // chunk) <= MOST_CHUNKS]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """A file of each size."""
    folder = tmp_path_factory.mktemp("sources")
    source = random.Random(20)
    files = {}
    for size in SIZES:
        files[size] = folder / f"{size}.bin"
        files[size].write_bytes(source.randbytes(size))
    return files


@pytest.fixture(scope="module")
def client(cluster: Cluster) -> Iterator[Client]:
    with Client(cluster.url) as made:
        yield made


def fresh_path() -> str:
    return f"round/{uuid.uuid4().hex}"


def curl(*arguments: str) -> str:
    """Run curl; an answer of 4xx or 5xx fails the test. Returns what it printed."""
    command = [needs.curl(), "--silent", "--show-error", "--fail-with-body", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def dfs(*arguments: str) -> str:
    """Run `python -m dfs client`; returns what it printed."""
    command = [sys.executable, "-m", "dfs", "client", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("size", "chunk_size"), CASES)
def test_library(client: Client, sources: dict[int, Path], tmp_path: Path, size: int, chunk_size: int) -> None:
    path, out = fresh_path(), tmp_path / "out"
    stored = client.put(sources[size], path, chunk_size=chunk_size)
    assert (stored.size, stored.chunk_size, stored.chunks) == (size, chunk_size, -(-size // chunk_size))
    assert stored.sha256 == hashlib.sha256(sources[size].read_bytes()).hexdigest()
    client.get(path, out)
    assert out.read_bytes() == sources[size].read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_command_line(cluster: Cluster, sources: dict[int, Path], tmp_path: Path, size: int) -> None:
    path, out = fresh_path(), tmp_path / "out"
    dfs("--api", cluster.url, "put", str(sources[size]), path)
    dfs("--api", cluster.url, "get", path, str(out))
    assert out.read_bytes() == sources[size].read_bytes()


@pytest.mark.parametrize(("size", "chunk_size"), CASES)
def test_curl(cluster: Cluster, sources: dict[int, Path], tmp_path: Path, size: int, chunk_size: int) -> None:
    url, out = f"{cluster.url}/files/{fresh_path()}", tmp_path / "out"
    curl("-T", str(sources[size]), "-H", f"X-Chunk-Size: {chunk_size}", url)
    curl("-o", str(out), url)
    assert (out.read_bytes() if out.exists() else b"") == sources[size].read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_curl_with_a_chunked_body(cluster: Cluster, sources: dict[int, Path], tmp_path: Path, size: int) -> None:
    url, out = f"{cluster.url}/files/{fresh_path()}", tmp_path / "out"
    with open(sources[size], "rb") as source:
        command = [needs.curl(), "-sS", "--fail-with-body", "-T", "-", "-H", "Transfer-Encoding: chunked", url]
        done = subprocess.run(command, stdin=source, capture_output=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    curl("-o", str(out), url)
    assert (out.read_bytes() if out.exists() else b"") == sources[size].read_bytes()


@pytest.mark.parametrize(
    ("size", "chunk_size"),
    # Thousands of chunks: test_seed_client.py.
    [(0, 1), (1, 1), (1, KIB), (1023, 64), (1023, KIB), (1024, KIB), (1025, KIB), (1025, MIB), (64 * MIB, 8 * MIB)],
)
def test_seed_forms(
    cluster: Cluster, sources: dict[int, Path], tmp_path: Path, size: int, chunk_size: int
) -> None:
    out = tmp_path / "out"
    said = dfs("upload", f"-chunk-size={chunk_size}", cluster.url, str(sources[size]))
    file_id = next(word for word in reversed(said.split()) if _is_uuid(word))
    dfs("download", cluster.url, file_id, str(out))
    assert out.read_bytes() == sources[size].read_bytes()


def _is_uuid(word: str) -> bool:
    try:
        return str(uuid.UUID(word)) == word
    except ValueError:
        return False


def test_what_one_way_stores_every_other_way_fetches(
    cluster: Cluster, client: Client, sources: dict[int, Path], tmp_path: Path
) -> None:
    data = sources[1025].read_bytes()
    path = fresh_path()
    stored = client.put(sources[1025], path, chunk_size=100)
    for number, fetch in enumerate(
        (
            lambda out: curl("-o", out, f"{cluster.url}/files/{path}"),
            lambda out: curl("-o", out, f"{cluster.url}/content/{stored.file_id}"),
            lambda out: dfs("download", cluster.url, stored.file_id, out),
            lambda out: dfs("--api", cluster.url, "get", stored.file_id, out),
        )
    ):
        out = tmp_path / f"out{number}"
        fetch(str(out))
        assert out.read_bytes() == data, number


@pytest.mark.parametrize("chunk_size", [7, 1024, 4 * MIB])
def test_ranges_equal_the_slices_of_the_file(cluster: Cluster, tmp_path: Path, chunk_size: int) -> None:
    source = random.Random(chunk_size)
    data = source.randbytes(5000)
    file = tmp_path / "source"
    file.write_bytes(data)
    url = f"{cluster.url}/files/{fresh_path()}"
    curl("-T", str(file), "-H", f"X-Chunk-Size: {chunk_size}", url)
    caller = cluster.caller()
    target = url.removeprefix(cluster.url)
    ranges = ["0-0", "0-6", "6-7", "7-", "4999-", "4999-9999", "-1", "-5000", "-9999", "1023-1024", "0-"]
    ranges += ["{}-{}".format(*sorted((source.randrange(5000), source.randrange(5000)))) for _ in range(20)]
    for asked in ranges:
        first, last = asked.split("-")
        low = int(first) if first else max(0, 5000 - int(last))
        high = min(4999, int(last)) if first and last else 4999
        answer = caller.call("GET", target, Range=f"bytes={asked}")
        assert answer.status == 206, asked
        assert answer.body == data[low : high + 1], asked
        assert answer.headers["content-range"] == f"bytes {low}-{high}/5000"
    out = tmp_path / "slice"
    curl("-r", "1000-1999", "-o", str(out), url)
    assert out.read_bytes() == data[1000:2000]
    for asked in ("5000-", "9999-10000", "-0"):
        refused = caller.call("GET", target, Range=f"bytes={asked}")
        assert (refused.status, refused.headers["content-range"]) == (416, "bytes */5000")
    for asked in ("bytes=5-4", "bytes=a-b", "lines=0-1", "bytes=0-1,3-4"):
        whole = caller.call("GET", target, Range=asked)
        assert (whole.status, whole.body) == (200, data), asked
    caller.close()


def test_everything_is_found_again_after_all_processes_were_killed(fragile: Cluster, rng: random.Random) -> None:
    caller = fragile.caller()
    data = {f"kept/{number}": rng.randbytes(10_000 * number) for number in range(8)}
    for path, content in data.items():
        assert caller.file("PUT", path, content, X_Chunk_Size="4096").status == 201
    caller.close()
    for server in [*fragile.nodes, *fragile.apis]:
        server.kill()
    for node in fragile.nodes:
        node.spawn()
    for node in fragile.nodes:
        node.wait_ready()
    fragile.apis[0].start()
    fragile.wait_alive({"node1", "node2", "node3"})
    caller = fragile.caller()
    for path, content in data.items():
        assert caller.file("GET", path).body == content
    caller.close()
