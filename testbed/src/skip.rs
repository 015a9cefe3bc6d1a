//! What a machine lacks is said, never passed over in silence.

use anyhow::Result;

use crate::disk::Disk;
use crate::docker;

/// Set in CI: a test that needs Docker then fails instead of being skipped.
pub const REQUIRE_DOCKER: &str = "PONTOON_REQUIRE_DOCKER";

/// Set where loop devices can be mounted: a test that needs them then fails instead of being skipped.
pub const REQUIRE_DISKS: &str = "PONTOON_REQUIRE_DISKS";

/// Whether Docker tests can run here; prints SKIPPED and the reason if not, and panics where they must run.
pub fn docker_or_skip(test: &str) -> bool {
    or_skip(test, docker::usable(), REQUIRE_DOCKER)
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
