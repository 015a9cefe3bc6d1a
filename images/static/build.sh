#!/bin/bash
# Builds a static site: the files are served as they are.
set -euo pipefail
# shellcheck source=../build-lib.sh source-path=SCRIPTDIR
. /pontoon/build-lib.sh

step "Static site, $(find . -type f | wc -l) files, nothing to build"
step "Build done"
