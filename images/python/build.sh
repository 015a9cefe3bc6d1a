#!/bin/bash
# Builds a Python app: requirements.txt into /app/.venv, from the cache when nothing changed.
set -euo pipefail
# shellcheck source=../build-lib.sh source-path=SCRIPTDIR
. /pontoon/build-lib.sh

# True when requirements.txt alone does not say what is installed (it names other files or this directory).
names_local_files() {
    grep -qE '^[[:space:]]*(-r|-c|-e|--requirement|--constraint|--editable|\.|/)|file:|@[[:space:]]*\.' requirements.txt
}

# By its path: the image has the app's venv first on PATH, as the app wants it.
readonly python=/usr/bin/python3

install_requirements() {
    step "Installing requirements with pip"
    # The venv holds no pip of its own: it would triple the bundle of a small app.
    $python -m venv --without-pip .venv || fail "could not make the virtual environment /app/.venv"
    local -a options=(--no-input --disable-pip-version-check --quiet --no-cache-dir)
    ! has_cache || options[3]=--cache-dir=/cache/pip
    $python -m pip --python .venv install "${options[@]}" --requirement requirements.txt 2>&1 | indent ||
        fail "pip could not install requirements.txt; its message is above"
    $python -m pip --python .venv --disable-pip-version-check list --format freeze 2>/dev/null | indent
}

step "Python app, $($python --version)"
if ! grep -qsE '^[[:space:]]*[^#[:space:]]' requirements.txt; then
    note "no requirements.txt, or nothing in it: no packages to install"
else
    # A .venv that came with the source is another machine's.
    rm -rf .venv
    key=$({ $python -VV; cat requirements.txt; } | cache_key)
    if names_local_files; then
        install_requirements
    elif cache_restore .venv "$key"; then
        step "Requirements unchanged, restored from the build cache"
    else
        install_requirements
        cache_save .venv "$key"
    fi
fi
step "Build done"
