#!/bin/sh
# Makes .venv and installs Turnwise into it, with the extras named as the first argument.
# Usage: PYTHON=python3.12 sh deploy/setup.sh local
# Whatever goes wrong ends in one line that says what to do; the whole story is in .venv/setup.log.
set -eu

extras=$1
venv=.venv
need_mb=${TURNWISE_NEED_MB:-3000}

say() { printf '%s\n' "$*" >&2; }
fail() { say "setup: $*"; exit 1; }

is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if is_new_enough "$candidate"; then
            printf '%s' "$candidate"
            return
        fi
    done
}

explain() {
    log=$venv/setup.log
    if grep -qi 'no space left on device' "$log"; then
        fail "the disk is full; free some space and run it again (details: $log)"
    fi
    if grep -qiE "unable to execute '?(g?cc|c\+\+)|command '?[^ ]*(g?cc|c\+\+)'? (failed|not found)|No such file or directory: '(g?cc|make)'|(gcc|cc|make): (command )?not found|Python\.h: No such file" "$log"; then
        fail "a C compiler and Python's headers are needed: apt-get install build-essential python3-dev, or xcode-select --install (details: $log)"
    fi
    if grep -qiE 'connection (refused|broken)|name or service not known|temporary failure in name resolution|read timed out' "$log"; then
        fail "the package index cannot be reached (details: $log)"
    fi
    tail -n 15 "$log" >&2
    fail "pip could not install Turnwise; the lines above say why (all of it: $log)"
}

install() {
    status=0
    if [ -t 2 ]; then
        "$venv/bin/python" -m pip install --disable-pip-version-check "$@" --log "$venv/setup.log" \
            || status=$?
    else
        "$venv/bin/python" -m pip install --disable-pip-version-check --quiet "$@" \
            >"$venv/setup.log" 2>&1 || status=$?
    fi
    [ "$status" -eq 0 ] || explain
}

# onnxruntime and onnxruntime-gpu exclude each other: both provide the same module.
has_package() { "$venv/bin/python" -m pip show --quiet "$1" >/dev/null 2>&1; }

remove() {
    "$venv/bin/python" -m pip uninstall --quiet --yes "$@" >>"$venv/setup.log" 2>&1 || true
}

prefer_gpu() {
    nvidia-smi -L >/dev/null 2>&1 || return 0
    if has_package onnxruntime-gpu && ! has_package onnxruntime; then return 0; fi
    say "setup: an NVIDIA GPU is here, installing onnxruntime-gpu in place of onnxruntime"
    remove onnxruntime onnxruntime-gpu
    if "$venv/bin/python" -m pip install --disable-pip-version-check --quiet -c constraints.txt \
        onnxruntime-gpu >>"$venv/setup.log" 2>&1 \
        && "$venv/bin/python" -c 'import onnxruntime' >>"$venv/setup.log" 2>&1; then
        return 0
    fi
    say "setup: onnxruntime-gpu does not work here, going back to onnxruntime"
    remove onnxruntime-gpu
    install --no-deps -c constraints.txt onnxruntime
}

python=$(find_python)
if [ -z "$python" ] && [ -n "${PYTHON:-}" ]; then
    fail "$PYTHON is not there, or is older than Python 3.11"
fi
[ -n "$python" ] || fail "Python 3.11 or newer is needed; name it with PYTHON=/path/to/python3"
[ -w . ] || fail "nothing can be written in $(pwd); it is read-only, or another user's"

free_mb=$(df -Pk . | awk 'NR == 2 { print int($4 / 1024) }')
if [ ! -d "$venv" ] && [ "$free_mb" -lt "$need_mb" ]; then
    fail "the disk is full: $free_mb MB are free here, about $need_mb MB are needed"
fi

if ! is_new_enough "$venv/bin/python"; then
    rm -rf "$venv"
    mkdir -p "$venv"
    "$python" -m venv "$venv" >"$venv/setup.log" 2>&1 || {
        grep -qi 'no space left' "$venv/setup.log" && fail "the disk is full; free some space"
        tail -n 3 "$venv/setup.log" >&2
        fail "$python cannot make a virtual environment; on Debian: apt-get install python3-venv"
    }
fi

: >"$venv/setup.log"
say "setup: installing turnwise[$extras] into $venv (once; a few minutes where nothing is cached)"
# Not compiled ahead: most of it is never imported, and what is compiles on its first import.
install --no-compile -c constraints.txt -e ".[$extras]"
prefer_gpu
