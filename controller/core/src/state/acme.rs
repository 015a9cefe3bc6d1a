//! Where certificates are ordered, and how far each order is: what controllers know and balancers need not.

use std::sync::Arc;

use imbl::OrdMap;
use pontoon_model::{AcmeRow, OrderRow};

/// Settings, account and orders.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Acme {
    /// None while nothing is ordered.
    pub(crate) row: Option<Arc<AcmeRow>>,
    /// By host name; those that are under way or have failed.
    pub(crate) orders: OrdMap<String, Arc<OrderRow>>,
}

impl Acme {
    /// The settings and the account; none while nothing is ordered.
    pub fn row(&self) -> Option<&Arc<AcmeRow>> {
        self.row.as_ref()
    }

    /// The order for a host name, if it is under way or has failed.
    pub fn order(&self, host: &str) -> Option<&Arc<OrderRow>> {
        self.orders.get(host)
    }

    /// All of those, by host name.
    pub fn orders(&self) -> impl Iterator<Item = &Arc<OrderRow>> {
        self.orders.values()
    }

    /// What does not hold together, where `is_served` says which host names apps have.
    pub(crate) fn violations(&self, index: u64, is_served: impl Fn(&str) -> bool) -> Vec<String> {
        let mut found = Vec::new();
        if let Some(row) = &self.row {
            found.extend(row.settings.check().err().map(|why| format!("settings of certificates: {why}")));
            if row.version > index {
                found.push(format!("settings of certificates are of {}, ahead of index {index}", row.version));
            }
        } else if !self.orders.is_empty() {
            found.push("there are orders of certificates, but no directory".to_owned());
        }
        let of_nobody = self.orders.keys().filter(|host| !is_served(host));
        found.extend(of_nobody.map(|host| format!("there is an order for {host}, which no app has")));
        found
    }
}
