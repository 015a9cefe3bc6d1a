//! What a host offers to servos.

use pontoon_model::{Capacity, CpuMillis, MemoryBytes};
use sysinfo::System;

/// Kept for the system, the engine, the agent: at least this …
const RESERVE_LEAST: MemoryBytes = MemoryBytes::mib(256);
/// … or this part of the whole.
const RESERVE_PART: u64 = 10;

/// Memory and cores for servos. `configured` is taken as it is, as far as the machine has it; otherwise it is the
/// machine's (or the agent's cgroup's), less a reserve and less what is `foreign`.
pub(crate) fn detect(configured: Option<MemoryBytes>, foreign: MemoryBytes) -> Capacity {
    let total = refreshed().map_or(0, |system| {
        // Of cgroup v1 or v2, whichever bounds this process.
        let bounded = system.cgroup_limits().map(|limits| limits.total_memory).filter(|total| *total > 0);
        bounded.map_or(system.total_memory(), |bounded| bounded.min(system.total_memory()))
    });
    let cores = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    Capacity { memory: offered(MemoryBytes(total), configured, foreign), cpu: CpuMillis(cores.saturating_mul(1000)) }
}

/// Memory that no process uses.
pub(crate) fn free_memory() -> MemoryBytes {
    MemoryBytes(refreshed().map_or(0, |system| system.available_memory()))
}

/// None where the kernel does not say: then this host offers nothing, and the log says why.
fn refreshed() -> Option<System> {
    let system = System::new().map(|mut system| {
        system.refresh_memory();
        system
    });
    system.inspect_err(|error| tracing::error!(%error, "cannot read this machine's memory")).ok()
}

fn offered(total: MemoryBytes, configured: Option<MemoryBytes>, foreign: MemoryBytes) -> MemoryBytes {
    match configured {
        Some(configured) => configured.min(total),
        None => {
            let reserve = RESERVE_LEAST.max(MemoryBytes(total.0 / RESERVE_PART));
            total.saturating_sub(reserve).saturating_sub(foreign)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserve_and_what_is_not_ours_are_taken_off() {
        let gib = |n: u64| MemoryBytes::mib(n * 1024);
        for (total, configured, foreign, expected) in [
            (gib(1), None, MemoryBytes(0), MemoryBytes::mib(768)),
            (gib(10), None, gib(2), gib(7)),
            (gib(1), None, gib(2), MemoryBytes(0)),
            (gib(10), Some(gib(2)), gib(5), gib(2)),
            (gib(1), Some(gib(2)), MemoryBytes(0), gib(1)),
        ] {
            assert_eq!(offered(total, configured, foreign), expected, "{total} {configured:?} {foreign}");
        }
    }

    #[test]
    fn this_machine_has_something() {
        let capacity = detect(None, MemoryBytes(0));
        assert!(capacity.cpu.0 >= 1000 && free_memory().0 > 0, "{capacity:?}");
    }
}
