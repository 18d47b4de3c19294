"""The package's structure: who may import whom, who reads the environment, who knows AWS."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "dfs"

GROUND = {"", "errors", "model", "chunkbatch", "logs", "notation", "settings"}
"""What every layer may use (`""` is `dfs/__init__.py`: the version numbers)."""

MAY_IMPORT: dict[str, set[str]] = {
    "": set(),
    "errors": set(),
    "model": {"errors"},
    "chunkbatch": {"errors"},
    "logs": set(),
    "notation": {"model"},
    "settings": {"errors", "notation"},
    "wire": {"", "errors", "logs"},
    "store": {"", "errors", "model", "chunkbatch", "logs"},
    "metadata": GROUND,
    "process": GROUND,
    "prefork": GROUND | {"process"},
    "cluster": GROUND | {"wire", "metadata"},
    "repair": GROUND | {"wire", "metadata", "cluster"},
    "api": GROUND | {"wire", "metadata", "cluster", "repair", "process", "prefork"},
    "node": GROUND | {"wire", "metadata", "store", "process"},
    "client": GROUND | {"wire"},
    "admin": GROUND | {"wire", "metadata", "cluster", "repair", "client"},
    "local": GROUND | {"wire", "metadata", "client", "process"},
    "__main__": {""},
}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def layer_of(parts: tuple[str, ...]) -> str:
    """The layer of a dotted name under `dfs`, given as its parts after `dfs`."""
    return parts[0] if (parts and (PACKAGE / parts[0]).is_dir()) or (parts and parts[0] in MAY_IMPORT) else ""


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Every imported dotted name, with its line; relative imports are not used here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"a relative import in line {node.lineno}"
            for alias in node.names:
                yield f"{node.module}.{alias.name}", node.lineno


def problems() -> list[str]:
    found = []
    for file in modules():
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        own = layer_of(parts) if parts != ("__init__",) else ""
        for name, line in imports(ast.parse(file.read_text(encoding="utf-8"))):
            head, *rest = name.split(".")
            place = f"{file.relative_to(ROOT)}:{line}"
            if head == "dfs":
                other = layer_of(tuple(rest))
                if other != own and other not in MAY_IMPORT[own]:
                    found.append(f"{place}: {own or 'dfs'} must not import {other or 'dfs'}")
            elif head in ("boto3", "botocore"):
                if file != PACKAGE / "metadata" / "dynamo.py":
                    found.append(f"{place}: only metadata/dynamo.py knows {head}")
            elif head not in sys.stdlib_module_names:
                found.append(f"{place}: {head} is not in the standard library")
    return found


def test_every_module_belongs_to_a_layer() -> None:
    layers = {layer_of(file.relative_to(PACKAGE).with_suffix("").parts) for file in modules()}
    assert layers <= set(MAY_IMPORT)


def test_imports_go_downward_only_and_stay_in_the_standard_library() -> None:
    assert problems() == []


def test_the_layers_have_no_cycle() -> None:
    done: set[str] = set()
    while len(done) < len(MAY_IMPORT):
        ready = {layer for layer, below in MAY_IMPORT.items() if layer not in done and below <= done}
        assert ready, f"a cycle among {sorted(set(MAY_IMPORT) - done)}"
        done |= ready


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_only_settings_reads_the_environment(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    reads = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
        and node.attr in ("environ", "environb", "getenv", "putenv", "unsetenv")
    ]
    reads += [line for name, line in imports(tree) if name in ("os.environ", "os.getenv")]
    assert not reads or file == PACKAGE / "settings.py", f"lines {reads}"


@pytest.mark.parametrize("file", modules(), ids=lambda file: str(file.relative_to(ROOT)))
def test_a_module_fits_in_one_head(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 450, "split it before 400 lines"
