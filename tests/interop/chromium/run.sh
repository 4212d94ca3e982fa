#!/bin/sh
# Chromium as the caller. Not part of the gate: it installs 300 MB.
set -eu
cd "$(dirname "$0")/../../.."
command -v chromium-headless-shell >/dev/null || ./tests/tools/install.sh chromium-headless-shell
./tests/tools/venv.sh -r tests/interop/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache" PYTHONPATH="$PWD/tests/interop"
exec target/venv/bin/python tests/interop/chromium/caller.py "$@"
