"""Makes a virtual environment with this checkout and its test tools, on the standard library alone.

`python3 tests/support/bootstrap.py .venv`: does nothing when the environment is up to date. Where
the interpreter has no `ensurepip` (Debian without python3-venv), pip comes from the interpreter's
own pip, else as a wheel from the package index that pip's environment variables name.
"""

from __future__ import annotations

import hashlib
import html.parser
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PYPI = "https://pypi.org/simple"
WHEEL_TAG = "-py3-none-any.whl"


def fingerprint(extras: str) -> str:
    """Changes whenever the environment must be made anew."""
    parts = [sys.version, sys.executable, str(ROOT), extras, "3"]
    parts += [(ROOT / name).read_text(encoding="utf-8") for name in ("setup.cfg", "pyproject.toml")]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


class _Links(html.parser.HTMLParser):
    """The links of a simple-index page, with whether each was withdrawn."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag == "a" and values.get("href") and "data-yanked" not in values:
            self.found.append(str(values["href"]))


def fetch(url: str) -> bytes:
    """The body of `url`; certificates are checked (against PIP_CERT where set)."""
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    with urllib.request.urlopen(url, timeout=60, context=context if url.startswith("https") else None) as answer:
        body: bytes = answer.read()
        return body


def pip_wheel(index: str, folder: Path) -> Path:
    """Download the newest released pip wheel of `index` into `folder`, checked by its SHA-256."""
    page = index.rstrip("/") + "/pip/"
    links = _Links()
    links.feed(fetch(page).decode())
    wheels: dict[tuple[int, ...], str] = {}
    for link in links.found:
        name = urllib.parse.unquote(urllib.parse.urlsplit(link).path.rpartition("/")[2])
        version = name.removeprefix("pip-").removesuffix(WHEEL_TAG)
        if name == f"pip-{version}{WHEEL_TAG}" and version.replace(".", "").isdigit():
            wheels[tuple(int(part) for part in version.split("."))] = urllib.parse.urljoin(page, link)
    if not wheels:
        raise SystemExit(f"{page} offers no wheel of pip")
    url = wheels[max(wheels)]
    address, _, fragment = url.partition("#")
    body = fetch(address)
    algorithm, _, digest = fragment.partition("=")
    if algorithm == "sha256" and hashlib.sha256(body).hexdigest() != digest:
        raise SystemExit(f"{address} does not have the checksum that {page} names")
    target = folder / urllib.parse.unquote(urllib.parse.urlsplit(address).path.rpartition("/")[2])
    target.write_bytes(body)
    return target


def works(command: list[str]) -> bool:
    """Whether `command` runs and exits 0; its output is dropped."""
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def make_environment(venv: Path) -> None:
    """An empty environment with pip at `venv`, by the first way that this interpreter allows."""
    python = str(venv / "bin" / "python")
    if works([sys.executable, "-c", "import ensurepip"]) and works([sys.executable, "-m", "venv", str(venv)]):
        return
    shutil.rmtree(venv, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    if works([sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "pip"]):
        return
    with tempfile.TemporaryDirectory() as folder:
        wheel = pip_wheel(os.environ.get("PIP_INDEX_URL") or PYPI, Path(folder))
        subprocess.run([python, f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel)], check=True)


def main(arguments: list[str]) -> int:
    """Make `arguments[0]` hold this checkout with the extras `arguments[1]` (default: all)."""
    venv = Path(arguments[0]).absolute()
    extras = arguments[1] if len(arguments) > 1 else "aws,test,dev"
    stamp = venv / "made-from"
    wanted = fingerprint(extras)
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted:
        return 0
    print(f"making {venv} with {sys.executable} ({sys.version.split()[0]})", flush=True)
    shutil.rmtree(venv, ignore_errors=True)
    make_environment(venv)
    install = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "--editable", f"{ROOT}[{extras}]" if extras else str(ROOT)], check=True)
    stamp.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
