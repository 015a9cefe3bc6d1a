#!/usr/bin/env bash
# Feeds every fuzz target of the balancer for a while: FUZZ_SECONDS each (60). What breaks one is kept in balancer/fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/../balancer"
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "installing cargo-fuzz (once; a minute)"
  cargo install cargo-fuzz --locked --quiet
fi
if ! rustc +nightly --version >/dev/null 2>&1; then
  echo "SKIPPED fuzzing: it needs a nightly compiler (rustup toolchain install nightly)"
  exit 1
fi
for target in $(cargo +nightly fuzz list); do
  echo "== $target"
  # Without a sanitizer: there is no unsafe code of ours for one to watch, and not every compiler brings its runtime.
  cargo +nightly fuzz run -s none "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -max_len=4096 -print_final_stats=1
done
