#!/bin/sh
# Every screen as a picture in target/screenshots.
set -eu
. "$(dirname "$0")/prepare.sh"
target/venv/bin/python tests/interop/chromium/screenshots.py "$@"
target/venv/bin/python tests/interop/chromium/console_screenshots.py "$@"
