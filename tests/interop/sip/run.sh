#!/bin/sh
# Foreign phones, SIPp and baresip, against the real program and the simulated Meta. Installs nothing: says what is missing.
set -eu
cd "$(dirname "$0")/../../.."
for program in sipp baresip; do
    if ! command -v "$program" >/dev/null; then
        echo "$program is missing: apt-get install --no-install-recommends sip-tester baresip-core" >&2
        exit 1
    fi
done
./tests/tools/venv.sh -r tests/interop/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache" PYTHONPATH="$PWD/tests/interop"
exec target/venv/bin/python tests/interop/sip/phones.py "$@"
