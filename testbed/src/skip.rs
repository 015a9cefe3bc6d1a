//! What a machine lacks is said, never passed over in silence.

use crate::docker;

/// Set in CI: a test that needs Docker then fails instead of being skipped.
pub const REQUIRE_DOCKER: &str = "PONTOON_REQUIRE_DOCKER";

/// Whether Docker tests can run here; prints SKIPPED and the reason if not, and panics where they must run.
pub fn docker_or_skip(test: &str) -> bool {
    match docker::usable() {
        Ok(()) => true,
        Err(reason) if std::env::var_os(REQUIRE_DOCKER).is_some_and(|value| value == "1") => {
            panic!("{test} must run here ({REQUIRE_DOCKER}=1) but cannot: {reason:#}")
        }
        Err(reason) => {
            eprintln!("SKIPPED {test}: {reason:#}");
            false
        }
    }
}
