//! What only the leading controller does: remember who was heard, and plan.

mod memory;
mod planner;
mod waiting;

pub use memory::LeaderMemory;
pub use planner::Planner;
pub use waiting::Waiting;
