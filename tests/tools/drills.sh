#!/usr/bin/env bash
# Runs every drill, or with "sip" those of SIP, one after the other, and prints their figures; the whole log is left in
# target/drills.log.
set -euo pipefail
cd "$(dirname "$0")/../.."
mkdir -p target
drills() {
    "${CARGO:-cargo}" test --locked -p patchcord "$@" 2>&1
}
integration() {
    drills --test integration -- --include-ignored --nocapture --test-threads=1 "$@"
}
{
    if [ "${1:-}" = sip ]; then
        integration drills::hostile_sip drills::phone_clock
    else
        integration drills:: descriptors:: standstill:: overload:: slow_clients:: stalled_log:: restarts:: pacing::no_queued_call \
            webhook::a_fast_clock
        drills --lib -- --nocapture --test-threads=1 worker::tests::a_worker_that_is_stuck
    fi
} |
    tee target/drills.log |
    sed -u -E 's/^test .* \.\.\. (drill |DRILL_SEED)/\1/' |
    grep --line-buffered -E "^drill |^DRILL_SEED|FAILED|panicked|^test result|^error"
