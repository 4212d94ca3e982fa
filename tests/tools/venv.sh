#!/bin/sh
# Makes target/venv with the Python packages named, once. Development only.
set -eu
if ! python3 -c 'import venv, ensurepip' 2>/dev/null; then
    "$(dirname "$0")/install.sh" python3-venv python3-pip
fi
[ -x target/venv/bin/python ] || python3 -m venv target/venv
target/venv/bin/pip install --quiet --disable-pip-version-check "$@"
