#!/bin/sh
# The pages in Chromium: the console and the phone page. With --all also Chromium as the caller and as the agent of
# docs/browser.md, whose sound is compared sample by sample, and the console's figures: those want a machine that does
# nothing else.
set -eu
. "$(dirname "$0")/prepare.sh"
scenarios="phone_page console"
if [ "${1:-}" = --all ]; then
    shift
    scenarios="caller agent $scenarios crowd"
fi
for scenario in $scenarios; do
    target/venv/bin/python "tests/interop/chromium/$scenario.py" "$@"
done
