//! Values that are kept sealed: the keys in this controller's file, sealing before anything is proposed, opening where values leave.
//!
//! The state names the keys and holds what is sealed, never a key (docs/decisions/0025). [`keys`] has this controller's,
//! [`keeper`] gets them from the others, makes the next one and has everything sealed with it.

mod keeper;
mod keys;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use keeper::id_of_sent;
pub use keeper::{SealingKeeper, whole};
pub use keys::{SealError, SealingKeys};
