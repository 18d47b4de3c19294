# Works with GNU make 3.81 and newer. Nothing here touches the machine outside this directory,
# but `make deps`, which asks the system's package manager (Debian, Ubuntu; as root).

WORKERS ?= 2
VENV := .venv
RUN := $(VENV)/bin/python
PEERS ?=
# More arguments for the bench, such as BENCH="--quick --only '1 KiB*'".
BENCH ?=

# The first interpreter that is Python 3.11 or newer and complete; `make test PYTHON=...` overrides.
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python \
	/opt/homebrew/bin/python3 /usr/local/bin/python3 /usr/bin/python3 $$HOME/.pyenv/versions/3.*/bin/python3; do \
	if "$$p" -c 'import sys, sqlite3, ssl; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then command -v "$$p"; break; fi; done)

.PHONY: help venv test test-long bench simulate lint deps clean

help:  ## say what can be made
	@sed -n 's/^\([a-z-]*\):.*## /make \1 - /p' Makefile

venv:  ## make or refresh .venv, from PyPI
	@test -n "$(PYTHON)" || { echo "dfs needs Python 3.11 or newer, with sqlite3 and ssl: none found; set PYTHON=/path/to/python3"; exit 1; }
	@"$(PYTHON)" tests/support/bootstrap.py $(VENV)

lint: venv  ## ruff, and mypy --strict on dfs/
	$(RUN) -m ruff check dfs tests
	$(RUN) -m mypy

test: lint  ## everything this machine can run, in under 20 minutes
	$(RUN) -m pytest -n $(WORKERS) --durations=20

test-long: venv  ## the slow sweeps, and big files (hours)
	$(RUN) -m pytest -n $(WORKERS) --durations=20 --timeout=0 --long

bench: venv  ## figures beside nginx's and the machine's (PEERS=1: SeaweedFS's and Swift's too): bench.json, bench.svg, tables
	$(RUN) -m tests.bench $(if $(filter 1,$(PEERS)),--peers) --json bench.json --svg bench.svg $(BENCH)

simulate: venv  ## a thousand nodes in virtual time: balance, time to repair, probability of loss (docs/durability.md)
	$(RUN) -m tests.sim

deps:  ## (root, apt) what tests want from the system
	@sh tests/support/deps.sh

clean:  ## remove what the targets above made
	rm -rf $(VENV) .venv-bench build dist dfs.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find dfs tests -name __pycache__ -type d -prune -exec rm -rf {} +
