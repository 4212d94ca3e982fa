#!/bin/sh
# The pywa bot of examples/pywa against the real program and the simulator's Meta. It has an environment of its own: its
# packages pin what others need in other versions.
set -eu
cd "$(dirname "$0")/../../.."
./tests/tools/venv.sh -r tests/interop/requirements.txt
[ -x target/venv-pywa/bin/python ] || python3 -m venv target/venv-pywa
target/venv-pywa/bin/pip install --quiet --disable-pip-version-check -r examples/pywa/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache" PYTHONPATH="$PWD/tests/interop:$PWD/tests/interop/chromium"
exec target/venv/bin/python tests/interop/pywa/pywa_bot.py "$@"
