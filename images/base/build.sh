#!/bin/bash
# Builds a Procfile app: runs its own bin/build, if it has one.
set -euo pipefail
# shellcheck source=../build-lib.sh source-path=SCRIPTDIR
. /pontoon/build-lib.sh

if [ -x bin/build ] && [ -f bin/build ]; then
    step "Running bin/build"
    ./bin/build 2>&1 | indent || fail "bin/build ended with an error; its output is above"
elif [ -e bin/build ]; then
    fail "bin/build is not executable: run 'chmod +x bin/build' and deploy again"
else
    step "Nothing to build (no bin/build)"
fi
step "Build done"
