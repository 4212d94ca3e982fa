# Read by the scripts beside it: Chromium, axe-core, Python packages, the program.
cd "$(dirname "$0")/../../.."
has_chromium() {
    for program in chromium-headless-shell chromium chromium-browser google-chrome; do
        command -v "$program" >/dev/null && return
    done
    return 1
}
if ! has_chromium; then
    # Debian's. Ubuntu has Chromium as a snap alone, which runs in no container.
    ./tests/tools/install.sh chromium-headless-shell || {
        echo "The pages are tested in Chromium, which could not be installed: install it, or Google Chrome." >&2
        exit 1
    }
fi
if [ ! -f target/npm/node_modules/axe-core/axe.min.js ]; then
    command -v npm >/dev/null || ./tests/tools/install.sh npm
    mkdir -p target/npm
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix target/npm axe-core@4.14.1
fi
./tests/tools/venv.sh -r tests/interop/requirements.txt -r tests/interop/chromium/requirements.txt
"${CARGO:-cargo}" build --locked
export PYTHONPYCACHEPREFIX="$PWD/target/pycache" PYTHONPATH="$PWD/tests/interop"
