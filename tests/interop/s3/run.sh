#!/bin/sh
# Uploads to a foreign S3 server (moto): starts it on a free port, makes the bucket, runs the one test that needs it.
set -eu
cd "$(dirname "$0")/../../.."
./tests/tools/venv.sh -r tests/interop/s3/requirements.txt
"${CARGO:-cargo}" test --locked -p patchcord --lib --no-run
exec target/venv/bin/python tests/interop/s3/server.py "${CARGO:-cargo}" test --locked -p patchcord --lib -- \
    --ignored --exact recordings::tests::an_s3_server_takes_small_and_large_recordings
