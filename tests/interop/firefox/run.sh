#!/bin/sh
# The console in Firefox. The caller is a Chromium, as in the other scenarios of the console.
set -eu
. "$(dirname "$0")/../chromium/prepare.sh"
if ! command -v firefox-esr >/dev/null && ! command -v firefox >/dev/null; then
    # Debian's. Ubuntu has Firefox as a snap alone, which runs in no container.
    ./tests/tools/install.sh firefox-esr
fi
command -v pulseaudio >/dev/null || ./tests/tools/install.sh pulseaudio
export PYTHONPATH="$PYTHONPATH:$PWD/tests/interop/chromium"
exec target/venv/bin/python tests/interop/firefox/console.py "$@"
