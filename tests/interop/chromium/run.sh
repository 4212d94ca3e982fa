#!/bin/sh
# Chromium as the caller, as an agent, with the phone page, and with the console. Not part of the gate: it installs
# 300 MB.
set -eu
. "$(dirname "$0")/prepare.sh"
target/venv/bin/python tests/interop/chromium/caller.py "$@"
target/venv/bin/python tests/interop/chromium/agent.py "$@"
target/venv/bin/python tests/interop/chromium/phone_page.py "$@"
target/venv/bin/python tests/interop/chromium/console.py "$@"
target/venv/bin/python tests/interop/chromium/crowd.py "$@"
