#!/usr/bin/env bash
# Prints where ansible-playbook is; ansible-core goes into a virtual environment below target/ where it is not installed.
set -euo pipefail
cd "$(dirname "$0")/.."
playbook=$(command -v ansible-playbook || true)
if [ -z "$playbook" ]; then
    venv=target/ansible
    playbook=$PWD/$venv/bin/ansible-playbook
    if [ ! -x "$playbook" ]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check ansible-core >&2
    fi
fi
echo "$playbook"
