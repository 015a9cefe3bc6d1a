//! The decisions of Pontoon, pure: what the replicated state is, what a command does to it, what the
//! leader wants changed, and what each consumer may see.
//!
//! ```text
//!  Command ──► Entry ──► State::apply ──► State ──► view::{assignment, route_table} ──► agents, balancers
//!     ▲                                     │
//!     └──────── plan(State, Observed, PlanInput)      (leader only)
//! ```
//!
//! No IO, no clock, no randomness, no order that differs between replicas: this crate's manifest lacks
//! tokio and its `clippy.toml` bans the rest. Read [`command`], then [`mod@plan`], then a scenario in `tests/scenarios`.

pub mod apply;
pub mod certificates;
pub mod check;
pub mod command;
pub mod entry;
pub mod level;
pub mod observed;
pub mod placement;
pub mod plan;
pub mod state;
pub mod view;

pub use apply::apps::{MAX_SERVOS, check_env_value};
pub use apply::trust::CERTIFICATE_LIFE;
pub use command::Command;
pub use entry::{Entry, Outcome, Rejected, RejectedKind, Reply, Stamped, decode_outcome, encode_outcome};
pub use observed::{BalancerSign, HostSign, Observed};
pub use plan::{Op, Plan, PlanInput, plan};
pub use state::{Acme, Change, Edge, Row, RowKey, Settings, State, Trust};
