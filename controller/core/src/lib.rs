//! placeholder; the lead writes this crate
