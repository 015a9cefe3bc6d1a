#!/usr/bin/env bash
# The playbook parses: ansible-playbook --syntax-check, with ansible-core in a virtual environment below target/.
set -euo pipefail
cd "$(dirname "$0")/.."
playbook=$(command -v ansible-playbook || true)
if [ -z "$playbook" ]; then
    venv=target/ansible
    playbook=$venv/bin/ansible-playbook
    if [ ! -x "$playbook" ]; then
        python3 -m venv "$venv"
        "$venv/bin/pip" install --quiet --disable-pip-version-check ansible-core
    fi
    playbook=$PWD/$playbook
fi
cd ansible
"$playbook" --syntax-check -i inventory.example.yml site.yml
