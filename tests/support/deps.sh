#!/bin/sh
# Installs the programs that some tests use and a bare system lacks. Does nothing when all are there.
set -eu
wanted=""
for program in curl git; do
    command -v "$program" >/dev/null 2>&1 || wanted="$wanted $program"
done
# A test serves the pip wheel of the interpreter; Debian packs it apart.
python3 -c 'import ensurepip' 2>/dev/null || ls /usr/share/python-wheels/pip-*.whl >/dev/null 2>&1 ||
    wanted="$wanted python3-venv"
[ -n "$wanted" ] || { echo "deps: nothing is missing"; exit 0; }
command -v apt-get >/dev/null 2>&1 || { echo "deps: please install:$wanted"; exit 1; }
[ "$(id -u)" = 0 ] || { echo "deps: as root: apt-get install$wanted"; exit 1; }
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
# shellcheck disable=SC2086
apt-get install -q -y --no-install-recommends $wanted
