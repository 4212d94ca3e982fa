#!/bin/sh
# WebRTC stacks that are neither ours nor aiortc's, as callers of the real program.
set -eu
cd "$(dirname "$0")/../../.."
./tests/tools/venv.sh -r tests/interop/requirements.txt
missing=""
command -v npm >/dev/null || missing="$missing npm"
/usr/bin/python3 -c 'import gi; gi.require_version("GstWebRTC", "1.0"); from gi.repository import GstWebRTC' 2>/dev/null ||
    missing="$missing python3-gst-1.0 gir1.2-gst-plugins-bad-1.0 gstreamer1.0-plugins-bad gstreamer1.0-plugins-good gstreamer1.0-nice"
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || ./tests/tools/install.sh $missing
# By the versions of the lock file, whatever is newest.
folder="target/interop-callers-npm"
mkdir -p "$folder"
cp tests/interop/callers/npm/package.json tests/interop/callers/npm/package-lock.json tests/interop/callers/*.mjs "$folder"
npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$folder"
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache"
export PYTHONPATH="$PWD/tests/interop:$PWD/tests/interop/sip"
exec target/venv/bin/python tests/interop/callers/callers.py "$@"
