#!/bin/sh
# The control API against its own document: builds the service, makes target/venv, asks for everything in every way.
set -eu
cd "$(dirname "$0")/../../.."
./tests/tools/venv.sh -r tests/interop/requirements.txt -r tests/interop/contract/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache"
export PYTHONPATH="$PWD/tests/interop"
exec target/venv/bin/python tests/interop/contract/contract.py "$@"
