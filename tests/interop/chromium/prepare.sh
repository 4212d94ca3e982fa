# Read by the scripts beside it: Chromium, axe-core, Python packages, the program.
cd "$(dirname "$0")/../../.."
command -v chromium-headless-shell >/dev/null || ./tests/tools/install.sh chromium-headless-shell
if [ ! -f target/npm/node_modules/axe-core/axe.min.js ]; then
    command -v npm >/dev/null || ./tests/tools/install.sh npm
    mkdir -p target/npm
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix target/npm axe-core@4.14.1
fi
./tests/tools/venv.sh -r tests/interop/requirements.txt -r tests/interop/chromium/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache" PYTHONPATH="$PWD/tests/interop"
