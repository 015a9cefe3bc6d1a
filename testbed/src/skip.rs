//! What a machine lacks is said, never passed over in silence.

use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::disk::Disk;
use crate::docker;
use crate::pebble::Pebble;

/// Set in CI: a test that needs Docker then fails instead of being skipped.
pub const REQUIRE_DOCKER: &str = "PONTOON_REQUIRE_DOCKER";

/// Set where loop devices can be mounted: a test that needs them then fails instead of being skipped.
pub const REQUIRE_DISKS: &str = "PONTOON_REQUIRE_DISKS";

/// Set in CI: a test that needs a process with a wrong clock then fails instead of being skipped.
pub const REQUIRE_CLOCK: &str = "PONTOON_REQUIRE_CLOCK";

/// Set in CI: a test that needs an ACME authority then fails instead of being skipped.
pub const REQUIRE_ACME: &str = "PONTOON_REQUIRE_ACME";

/// What gives a process a clock that is wrong by `offset` (`+1h`), as variables of its environment; the monotonic clock goes
/// right, as on a machine whose time was set wrong. None, and SKIPPED with the reason, where it cannot be done; panics where
/// it must be.
pub fn wrong_clock_or_skip(test: &str, offset: &str) -> Option<Vec<(String, String)>> {
    let library = faketime();
    let usable = library.as_ref().map(drop).map_err(|error| anyhow::anyhow!("{error:#}"));
    or_skip(test, usable, REQUIRE_CLOCK).then(|| {
        let variable = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let library = library.unwrap_or_default();
        let dont = variable("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        vec![variable("LD_PRELOAD", &library.display().to_string()), variable("FAKETIME", offset), dont]
    })
}

/// The library of the package faketime.
fn faketime() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").context("no /usr/lib")?.flatten();
    let library = |folder: std::fs::DirEntry| folder.path().join("faketime/libfaketime.so.1");
    folders.map(library).find(|path| path.exists()).context("the package faketime is not installed")
}

/// Whether Docker tests can run here; prints SKIPPED and the reason if not, and panics where they must run.
pub fn docker_or_skip(test: &str) -> bool {
    or_skip(test, docker::usable(), REQUIRE_DOCKER)
}

/// Whether tests with an ACME authority can run here; as [`docker_or_skip`].
pub fn acme_or_skip(test: &str) -> bool {
    or_skip(test, Pebble::usable(), REQUIRE_ACME)
}

/// Whether tests with disks of their own can run here; as [`docker_or_skip`].
pub fn disks_or_skip(test: &str) -> bool {
    or_skip(test, Disk::usable(), REQUIRE_DISKS)
}

fn or_skip(test: &str, usable: Result<()>, require: &str) -> bool {
    match usable {
        Ok(()) => true,
        Err(reason) if std::env::var_os(require).is_some_and(|value| value == "1") => {
            panic!("{test} must run here ({require}=1) but cannot: {reason:#}")
        }
        Err(reason) => {
            eprintln!("SKIPPED {test}: {reason:#}");
            false
        }
    }
}
