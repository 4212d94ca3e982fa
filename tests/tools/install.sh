#!/bin/sh
# Installs Debian packages where that needs no question, and says in one line what to install where it does.
set -eu
if [ "$(id -u)" = 0 ]; then
    as_root=""
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    as_root="sudo"
else
    echo "Missing: $*. Install with: sudo apt-get install -y $*" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "Missing: $*. Install them with this system's package manager." >&2
    exit 1
fi
echo "Installing $* ..." >&2
$as_root apt-get update -qq >/dev/null
DEBIAN_FRONTEND=noninteractive $as_root apt-get install -y -qq "$@" >/dev/null
