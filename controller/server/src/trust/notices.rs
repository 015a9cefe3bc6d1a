//! What a connected machine is told about trust.

use pontoon_core::Trust;
use pontoon_model::{Digest, MachineRole};
use pontoon_proto::TrustNow;

use super::authority::roots;

/// What one machine was told last.
#[derive(Debug)]
pub(crate) struct Notices {
    role: MachineRole,
    name: String,
    key: Option<Digest>,
    told: Option<TrustNow>,
}

impl Notices {
    /// For a machine that showed a certificate for `key`.
    pub(crate) fn new(role: MachineRole, name: &str, key: Option<Digest>) -> Self {
        Self { role, name: name.to_owned(), key, told: None }
    }

    /// What is to be said to it now, if anything.
    pub(crate) fn next(&mut self, trust: &Trust) -> Option<TrustNow> {
        trust.founding()?;
        let now = TrustNow {
            roots: roots(trust),
            revoked: trust.revoked().map(|revoked| revoked.key).collect(),
            renew: needs_certificate(trust, self.role, &self.name, self.key),
        };
        (self.told.as_ref() != Some(&now)).then(|| self.told.insert(now).clone())
    }
}

/// Whether the controllers do not know a machine's certificate, or another authority signs by now.
pub(super) fn needs_certificate(trust: &Trust, role: MachineRole, name: &str, key: Option<Digest>) -> bool {
    let signing = trust.signing().map(|authority| authority.fingerprint);
    trust.machine(role, name).is_none_or(|row| Some(row.signed_by) != signing || Some(row.key) != key)
}
