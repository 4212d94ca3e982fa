#!/bin/sh
# The app of examples/twilio with Twilio's own Python SDK, against the real program and the simulator's Meta. It has an
# environment of its own, so that its packages keep their versions.
set -eu
cd "$(dirname "$0")/../../.."
./tests/tools/venv.sh -r tests/interop/requirements.txt
[ -x target/venv-twilio/bin/python ] || python3 -m venv target/venv-twilio
target/venv-twilio/bin/pip install --quiet --disable-pip-version-check -r examples/twilio/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache" PYTHONPATH="$PWD/tests/interop:$PWD/tests/interop/chromium"
exec target/venv/bin/python tests/interop/twilio/twilio_app.py "$@"
