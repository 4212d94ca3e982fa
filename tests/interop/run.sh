#!/bin/sh
# A foreign caller, and a foreign bot, against the real program: builds it, makes target/venv, places the calls.
set -eu
cd "$(dirname "$0")/../.."
if command -v python3 >/dev/null && ! python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "aiortc needs Python 3.11 or newer; this is $(python3 --version)" >&2
    exit 1
fi
./tests/tools/venv.sh -r tests/interop/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache"
target/venv/bin/python tests/interop/aiortc_caller.py "$@"
exec target/venv/bin/python tests/interop/aiortc_answerer.py "$@"
