//! `pontoon`: the client's verbs and every role of the server.

use std::process::ExitCode;

/// A write passes some hundred small allocations, on one thread and freed on another; glibc's arenas take a third of a
/// controller's processor time for that, and never give memory back from their middle.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    pontoon_cli::main()
}
