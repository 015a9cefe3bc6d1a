//! Every method that machines call on each other, and who may. Made from the same table as the services, so that a method
//! without a row does not exist.

/// Who may call a method, by the role in its certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MayCall {
    /// Also who has no certificate.
    Anybody,
    /// An agent; whether it speaks for its own host is seen where its first message is.
    Agent,
    /// A balancer; the same.
    Balancer,
    /// A controller.
    Controller,
}

#[allow(missing_docs)]
mod table {
    use super::MayCall;

    include!(concat!(env!("OUT_DIR"), "/methods.rs"));
}

/// Every method's path and who may call it.
pub const METHODS: &[(&str, MayCall)] = table::METHODS;

/// Who may call the method at `path`; none if there is no such method.
pub fn may_call(path: &str) -> Option<MayCall> {
    METHODS.iter().find(|row| row.0 == path).map(|row| row.1)
}
