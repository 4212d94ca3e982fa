#!/bin/sh
# Foreign phones, SIPp and baresip, and Kamailio between them, and JsSIP in Chromium, against the real program and the
# simulated Meta.
set -eu
. "$(dirname "$0")/../chromium/prepare.sh"
missing=""
command -v sipp >/dev/null || missing="$missing sip-tester"
command -v baresip >/dev/null || missing="$missing baresip-core"
command -v kamailio >/dev/null || missing="$missing kamailio"
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || ./tests/tools/install.sh $missing
# By the versions of the lock file, whatever is newest.
mkdir -p target/interop-npm
cp tests/interop/sip/npm/package.json tests/interop/sip/npm/package-lock.json target/interop-npm
npm ci --silent --no-audit --no-fund --ignore-scripts --prefix target/interop-npm
target/venv/bin/python tests/interop/sip/phones.py "$@"
target/venv/bin/python tests/interop/sip/trunks.py "$@"
target/venv/bin/python tests/interop/sip/twiml_dial.py "$@"
exec target/venv/bin/python tests/interop/sip/jssip_phone.py "$@"
