"""`make test` finds its way to pip on a Python without ensurepip."""

from __future__ import annotations

import hashlib
import http.server
import importlib.util
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.cluster import ROOT

HIDDEN = """
import sys
if sys.prefix != {venv!r}:
    for name in {hidden!r}:
        sys.modules[name] = None
"""


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """A package index that has two releases of pip: the one that comes with Python, and a withdrawn one."""
    spec = importlib.util.find_spec("ensurepip")
    bundled = Path(spec.origin).parent.glob("_bundled/pip-*.whl") if spec and spec.origin else ()
    wheels = [*bundled, *Path("/usr/share/python-wheels").glob("pip-*.whl")]
    if not wheels:
        pytest.skip("this Python brings no pip wheel; to run: make deps")
    folder = tmp_path / "index" / "pip"
    folder.mkdir(parents=True)
    (folder / wheels[0].name).write_bytes(wheels[0].read_bytes())
    digest = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    (folder / "index.html").write_text(
        f'<a href="pip-999.0-py3-none-any.whl" data-yanked="broken">pip-999.0-py3-none-any.whl</a>\n'
        f'<a href="pip-999.1.tar.gz#sha256=0">pip-999.1.tar.gz</a>\n'
        f'<a href="../pip/{wheels[0].name}#sha256={digest}">{wheels[0].name}</a>\n'
    )

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path / "index"))  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def without(tmp_path: Path, *modules: str) -> dict[str, str]:
    """An environment in which no Python but the one in `venv` can import `modules`."""
    folder = tmp_path / "hidden"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HIDDEN.format(hidden=modules, venv=str(tmp_path / "venv")))
    return os.environ | {"PYTHONPATH": str(folder)}


def make_environment(venv: Path, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    code = "import sys, pathlib; sys.path.insert(0, sys.argv[2]); import bootstrap; "
    code += "bootstrap.make_environment(pathlib.Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(venv), str(ROOT / "tests" / "support")]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=200)


def pip_of(venv: Path) -> str:
    return subprocess.run(
        [str(venv / "bin" / "python"), "-m", "pip", "--version"], capture_output=True, text=True, check=True
    ).stdout


def test_without_ensurepip_and_pip_the_wheel_comes_from_the_index(tmp_path: Path, index: str) -> None:
    environ = without(tmp_path, "ensurepip", "pip") | {"PIP_INDEX_URL": index}
    done = make_environment(tmp_path / "venv", environ)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "venv") in pip_of(tmp_path / "venv")


def test_a_wheel_that_was_tampered_with_is_refused(tmp_path: Path, index: str) -> None:
    wheel = next((tmp_path / "index" / "pip").glob("*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    environ = without(tmp_path, "ensurepip", "pip") | {"PIP_INDEX_URL": index}
    done = make_environment(tmp_path / "venv", environ)
    assert done.returncode == 1
    assert "does not have the checksum" in done.stderr


def test_with_ensurepip_no_index_is_asked(tmp_path: Path) -> None:
    environ = dict(os.environ) | {"PIP_INDEX_URL": "http://127.0.0.1:9"}
    done = make_environment(tmp_path / "venv", environ)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "venv") in pip_of(tmp_path / "venv")
