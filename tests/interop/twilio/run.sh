#!/bin/sh
# The apps of examples/twilio with Twilio's own SDKs for Python and Node, against the real program and the simulator's Meta.
# The packages stay apart from others', so that they keep their versions.
set -eu
cd "$(dirname "$0")/../../.."
./tests/tools/venv.sh -r tests/interop/requirements.txt
[ -x target/venv-twilio/bin/python ] || python3 -m venv target/venv-twilio
target/venv-twilio/bin/pip install --quiet --disable-pip-version-check -r examples/twilio/requirements.txt
command -v npm >/dev/null || ./tests/tools/install.sh npm
# By the versions of the lock file, whatever is newest.
folder=target/interop-twilio-npm
mkdir -p "$folder"
cp examples/twilio/app.mjs examples/twilio/package.json examples/twilio/package-lock.json tests/interop/twilio/sdk.mjs "$folder"
npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$folder"
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache"
export PYTHONPATH="$PWD/tests/interop:$PWD/tests/interop/chromium:$PWD/tests/interop/agents:$PWD/tests/interop/sip"
exec target/venv/bin/python tests/interop/twilio/twilio_app.py "$@"
