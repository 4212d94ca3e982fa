#!/bin/sh
# Speaks the sentences, records the calls, and judges them. Everything is left in target/quality.
set -eu
cd "$(dirname "$0")/../.."
missing=""
command -v espeak-ng >/dev/null || missing="$missing espeak-ng"
command -v sox >/dev/null || missing="$missing sox"
# shellcheck disable=SC2086 # a list of words
[ -z "$missing" ] || ./tests/tools/install.sh $missing
# The package of PESQ is C source.
python3 -c 'import os, sysconfig as s, sys; sys.exit(not os.path.exists(s.get_paths()["include"] + "/Python.h"))' ||
    ./tests/tools/install.sh python3-dev gcc
./tests/tools/venv.sh -r tests/quality/requirements.txt

out=target/quality
rm -rf "$out"
mkdir -p "$out/sentences"
number=1
while IFS='|' read -r voice words; do
    espeak-ng -v "$voice" -s 155 -w "$out/spoken.wav" "$words"
    # Without dither every run says the same samples.
    sox -D "$out/spoken.wav" -r 16000 -b 16 -c 1 "$out/sentences/$number.wav" gain -n -3
    number=$((number + 1))
done <tests/quality/sentences.txt
rm "$out/spoken.wav"

"${CARGO:-cargo}" bench --locked --profile dev --bench quality -- "$PWD/$out"
export PYTHONPYCACHEPREFIX="$PWD/target/pycache"
exec target/venv/bin/python tests/quality/score.py "$out"
