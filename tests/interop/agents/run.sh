#!/bin/sh
# Clients that others wrote for other platforms are the agents of simulated WhatsApp calls. The Python ones have an
# environment of their own: their packages pin what the checks need in other versions.
set -eu
cd "$(dirname "$0")/../../.."
./tests/tools/venv.sh -r tests/interop/requirements.txt
[ -x target/venv-agents/bin/python ] || python3 -m venv target/venv-agents
target/venv-agents/bin/pip install --quiet --disable-pip-version-check -r examples/pipecat/requirements.txt \
    -r examples/plivo/requirements.txt -r examples/asterisk/requirements.txt -r examples/vonage/requirements.txt \
    -r tests/interop/agents/requirements.txt
# It asks for Python 3.12, and runs on 3.11 as well.
target/venv-agents/bin/pip install --quiet --disable-pip-version-check --ignore-requires-python --no-deps pipecat-asterisk==0.1.4
command -v npm >/dev/null || ./tests/tools/install.sh npm
# By the versions of the lock files, whatever is newest.
for example in jambonz openai-agents audiosocket; do
    folder="target/interop-agents-npm/$example"
    mkdir -p "$folder"
    cp "examples/$example"/*.mjs "examples/$example/package.json" "examples/$example/package-lock.json" "$folder"
    npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$folder"
done
checker=target/interop-agents-npm/elevenlabs
mkdir -p "$checker"
cp tests/interop/agents/elevenlabs/* "$checker"
npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$checker"
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache"
export PYTHONPATH="$PWD/tests/interop:$PWD/tests/interop/chromium:$PWD/tests/interop/sip"
for client in pipecat_bot jambonz_app plivo_app vonage_app asterisk_agent audiosocket_server openai_agents_app models; do
    target/venv/bin/python "tests/interop/agents/$client.py" "$@"
done
