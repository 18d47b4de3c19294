"""What every test shares: a clean environment, seeds, and an honest account of what was skipped.

A test that a machine cannot run calls `tests.support.needs`, which skips with the reason and the
command that would run it. Both are listed at the end. With `REQUIRE_ALL=1` a skip is a failure,
unless its reason begins with "needs real AWS".
"""

from __future__ import annotations

import logging
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from dfs import logs
from tests.support import cluster

REAL_AWS = "needs real AWS"
REQUIRE_ALL = os.environ.get("REQUIRE_ALL") == "1"
LONG_TESTS = Path(__file__).resolve().parent / "long"
SEED = int(os.environ.get("SEED", "1"))

# A developer's own settings and credentials must decide no test.
for _name in list(os.environ):
    if _name.startswith(("DFS_", "NODE_", "REPLICATION_", "AWS_")) or _name.endswith("_TABLE"):
        del os.environ[_name]
os.environ.update(
    AWS_ACCESS_KEY_ID="test",
    AWS_SECRET_ACCESS_KEY="test",
    AWS_DEFAULT_REGION="us-east-1",
    AWS_EC2_METADATA_DISABLED="true",
    AWS_CONFIG_FILE=os.devnull,
    AWS_SHARED_CREDENTIALS_FILE=os.devnull,
)

hypothesis.settings.register_profile("dfs", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.load_profile("dfs")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the sweeps of `make test-long`, and tests/long")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--long"):
        # For the sweeps, which choose their sizes by it, in the workers of xdist too.
        os.environ["LONG"] = "1"


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """`tests/long` belongs to `make test-long`."""
    return True if collection_path == LONG_TESTS and not config.getoption("--long") else None


def pytest_report_header() -> str:
    return f"seed: {SEED} (replay another with SEED=N)"


@pytest.fixture(autouse=True)
def _stop_signals() -> Iterator[None]:
    """Each test begins with the signal handlers that a process has in the foreground of a terminal.

    The commands under test would inherit an ignored SIGINT: from a shell that runs the tests in the
    background, or from a test that calls a server's `main`, which ignores it at its end.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield


@pytest.fixture(autouse=True)
def _log_lines() -> None:
    """Each test begins with log lines going where pytest captures them: a `main` sends them to stderr."""
    logs.LOGGER.handlers[:] = []
    logs.LOGGER.propagate = True
    logs.LOGGER.setLevel(logging.NOTSET)


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """A random source of the test's own, the same in every run with one SEED."""
    name = f"{SEED}:{request.node.nodeid}"
    print(f"rng {name} (replay: SEED={SEED} pytest '{request.node.nodeid}')")
    return random.Random(name)


def skip_reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Why the report's test was skipped."""
    text = str(report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr)
    return text.removeprefix("Skipped: ")


def must_run(report: pytest.TestReport | pytest.CollectReport) -> bool:
    """Whether this skip is a failure here."""
    expected = hasattr(report, "wasxfail")
    return REQUIRE_ALL and report.outcome == "skipped" and not expected and not skip_reason(report).startswith(REAL_AWS)


@pytest.fixture(scope="session", autouse=True)
def _state_home(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The client remembers uploads in a directory of the tests' own."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Iterator[None]:
    report = yield
    if report.failed:
        for running in cluster.RUNNING:
            report.sections += [(f"log of {name}", text[-4000:]) for name, text in running.logs().items()]
    if must_run(report):
        report.longrepr = f"skipped, which REQUIRE_ALL=1 forbids: {skip_reason(report)}"
        report.outcome = "failed"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Iterator[None]:
    report = yield
    if must_run(report):
        report.longrepr = f"skipped, which REQUIRE_ALL=1 forbids: {skip_reason(report)}"
        report.outcome = "failed"
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    skipped = Counter(skip_reason(report) for report in terminalreporter.stats.get("skipped", []))
    if not skipped:
        return
    terminalreporter.section("not run on this machine")
    for reason, count in sorted(skipped.items()):
        terminalreporter.write_line(f"{count} test{'s' if count > 1 else ''}: {reason}")
