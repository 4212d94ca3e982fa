#!/usr/bin/env bash
# Runs every drill, one after the other, and prints their figures; the whole log is left in target/drills.log.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p target
"${CARGO:-cargo}" test --locked -p patchcord --test integration -- --include-ignored --nocapture --test-threads=1 \
    drills:: descriptors:: standstill:: overload:: slow_clients:: stalled_log:: restarts:: 2>&1 |
    tee target/drills.log |
    sed -u -E 's/^test .* \.\.\. (drill |DRILL_SEED)/\1/' |
    grep --line-buffered -E "^drill |^DRILL_SEED|FAILED|panicked|^test result|^error"
