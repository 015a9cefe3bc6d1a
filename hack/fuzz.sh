#!/usr/bin/env bash
# Feeds every fuzz target of the balancer, or those that are named, for a while: FUZZ_SECONDS each (60). What breaks one is kept in
# balancer/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../balancer"
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "installing cargo-fuzz (once; a minute)"
  cargo install cargo-fuzz --locked --quiet
fi
if ! command -v c++ >/dev/null; then
  echo "fuzzing needs a C++ compiler, to build libFuzzer itself (apt-get install g++)" >&2
  exit 1
fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list)
for target in "${targets[@]}"; do
  echo "== $target"
  # Without a sanitizer: there is no unsafe code of ours for one to watch, and the compiler that builds everything else will do.
  cargo fuzz run -s none "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -print_final_stats=1
done
