#!/bin/sh
# Foreign phones, SIPp and baresip, and Kamailio between them, against the real program and the simulated Meta.
set -eu
cd "$(dirname "$0")/../../.."
missing=""
command -v sipp >/dev/null || missing="$missing sip-tester"
command -v baresip >/dev/null || missing="$missing baresip-core"
command -v kamailio >/dev/null || missing="$missing kamailio"
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || ./tests/tools/install.sh $missing
./tests/tools/venv.sh -r tests/interop/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache" PYTHONPATH="$PWD/tests/interop"
exec target/venv/bin/python tests/interop/sip/phones.py "$@"
