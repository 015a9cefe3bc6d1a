//! How patient the controllers are with each other: measured, chosen by the leader for all, and applied while they run.

mod choice;
mod flush;
mod measure;
mod pace;

pub(in crate::raft) use self::flush::FlushTimes;
pub use self::measure::TimingNow;
pub(in crate::raft) use self::measure::{Chosen, Measuring};
pub use self::pace::PacedInstant;
pub(in crate::raft) use self::pace::{Pace, real};
