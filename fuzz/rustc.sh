#!/bin/sh
# Cargo's RUSTC_WRAPPER: counts edges, which libFuzzer steers by, in our own crates only. The dependencies stay as any
# other build has made them, and so need not be built again.
case " $* " in
*" --crate-name patchcord"* | *" -p patchcord"*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
        -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing -Ccodegen-units=1 ;;
esac
exec "$@"
