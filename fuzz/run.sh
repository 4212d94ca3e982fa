#!/bin/sh
# Builds every target for libFuzzer and runs each for SECONDS_EACH seconds (60). TARGETS names some of them only.
set -eu
cd "$(dirname "$0")/.."
seconds=${SECONDS_EACH:-60}
targets=${TARGETS:-$(sed -n 's/^name = "\([a-z_]*\)"$/\1/p' fuzz/Cargo.toml)}
out=target/fuzz

command -v c++ >/dev/null || ./tests/tools/install.sh g++
# The dependencies that are fuzzed are those of the product.
cp Cargo.lock fuzz/Cargo.lock
CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export CARGO_TARGET_DIR
RUSTC_WRAPPER=$PWD/fuzz/rustc.sh "${CARGO:-cargo}" build --manifest-path fuzz/Cargo.toml

# What real ones look like, beside what earlier runs found worth keeping in target/fuzz/corpus.
seeds_of() {
    case $1 in
    sdp_offer) echo media/tests/fixtures ;;
    webhook) echo tests/fixtures/whatsapp ;;
    prompt_file) echo fuzz/seeds/prompt_file media/src/prompt/fixtures ;;
    *) [ ! -d "fuzz/seeds/$1" ] || echo "fuzz/seeds/$1" ;;
    esac
}

found=0
for target in $targets; do
    mkdir -p "$out/corpus/$target" "$out/findings/$target"
    # shellcheck disable=SC2046 # a list of words
    if "$CARGO_TARGET_DIR/debug/$target" "$out/corpus/$target" $(seeds_of "$target") \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$out/findings/$target/" >"$out/$target.log" 2>&1; then
        finding="no finding"
    else
        finding="FOUND: see $out/$target.log"
        found=1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$out/$target.log")
    printf '%-14s %10s runs   %s\n' "$target" "${runs:-?}" "$finding"
done
exit "$found"
