#!/usr/bin/env bash
# The lock file of balancer/fuzz; cargo deny: bans, licences and sources always; advisories where the database is reached.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v cargo-deny >/dev/null; then
    echo "installing cargo-deny (once; some minutes)"
    cargo install cargo-deny --locked --quiet
fi
# The fuzz targets have a lock file of their own, which nobody else's build would miss.
cargo metadata --locked --format-version 1 --manifest-path balancer/fuzz/Cargo.toml >/dev/null
cargo deny --locked check bans licenses sources
if timeout 60 cargo deny --locked fetch db >/dev/null 2>&1; then
    cargo deny --locked check advisories
else
    echo "SKIPPED cargo deny check advisories: the RustSec database is not reachable from this machine"
fi
