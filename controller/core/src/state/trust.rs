//! Who belongs: one part of the state, shared whole between versions, so that a change of it is seen by one comparison.

use imbl::OrdMap;
use pontoon_model::{
    AuthorityRow, Digest, Founding, JoinToken, Machine, MachineRole, RevokedKey, SealingKey, SealingKeyId, Timestamp,
};
use std::sync::Arc;

/// Authorities, tokens, machines, revoked keys and which keys values are sealed with.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Trust {
    pub(crate) founding: Option<Founding>,
    /// By fingerprint.
    pub(crate) authorities: OrdMap<Digest, Arc<AuthorityRow>>,
    /// By the secret's hash.
    pub(crate) tokens: OrdMap<Digest, Arc<JoinToken>>,
    pub(crate) machines: OrdMap<(MachineRole, String), Arc<Machine>>,
    /// By key.
    pub(crate) revoked: OrdMap<Digest, Arc<RevokedKey>>,
    /// Which there are; the keys themselves are in files.
    pub(crate) sealing: OrdMap<SealingKeyId, Arc<SealingKey>>,
}

impl Trust {
    /// What was decided when the cluster began to give out certificates; none if it has not.
    pub fn founding(&self) -> Option<&Founding> {
        self.founding.as_ref()
    }

    /// All that are trusted, oldest first.
    pub fn authorities(&self) -> Vec<&Arc<AuthorityRow>> {
        let mut all: Vec<_> = self.authorities.values().collect();
        all.sort_by_key(|authority| authority.sequence);
        all
    }

    /// The one that signs.
    pub fn signing(&self) -> Option<&Arc<AuthorityRow>> {
        self.authorities.values().max_by_key(|authority| authority.sequence)
    }

    /// The one that signed before, if it is still trusted.
    pub fn former(&self) -> Option<&Arc<AuthorityRow>> {
        let signing = self.signing()?.sequence;
        self.authorities.values().find(|authority| authority.sequence < signing)
    }

    /// A token, by its secret's hash.
    pub fn token(&self, secret: &Digest) -> Option<&Arc<JoinToken>> {
        self.tokens.get(secret)
    }

    /// All tokens.
    pub fn tokens(&self) -> impl Iterator<Item = &Arc<JoinToken>> {
        self.tokens.values()
    }

    /// One machine.
    pub fn machine(&self, role: MachineRole, name: &str) -> Option<&Arc<Machine>> {
        self.machines.get(&(role, name.to_owned()))
    }

    /// All machines, by role and name.
    pub fn machines(&self) -> impl Iterator<Item = &Arc<Machine>> {
        self.machines.values()
    }

    /// All revoked keys.
    pub fn revoked(&self) -> impl Iterator<Item = &Arc<RevokedKey>> {
        self.revoked.values()
    }

    /// Whether certificates of a key are worth nothing.
    pub fn is_revoked(&self, key: &Digest) -> bool {
        self.revoked.contains_key(key)
    }

    /// The keys that values are or were sealed with, oldest first.
    pub fn sealing_keys(&self) -> Vec<&Arc<SealingKey>> {
        let mut all: Vec<_> = self.sealing.values().collect();
        all.sort_by_key(|key| key.sequence);
        all
    }

    /// The one that values are sealed with; none before there is any.
    pub fn sealing_key(&self) -> Option<&Arc<SealingKey>> {
        self.sealing.values().max_by_key(|key| key.sequence)
    }

    /// Whether a machine was revoked and has not come back with another key.
    pub fn is_shut_out(&self, role: MachineRole, name: &str) -> bool {
        self.machine(role, name).is_none() && self.revoked.values().any(|row| row.role == role && row.name == name)
    }

    /// Machines whose newest certificate an older authority signed, and that has not ended at `now`.
    pub fn behind(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Machine>> {
        let signing = self.signing().map(|authority| authority.fingerprint);
        self.machines
            .values()
            .filter(move |machine| Some(machine.signed_by) != signing && machine.certificate_ends > now)
    }

    /// What does not hold together.
    pub(crate) fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.founding.is_some() == self.authorities.is_empty() {
            found.push(format!("{} authorities of {:?}", self.authorities.len(), self.founding));
        }
        let mut sequences: Vec<_> = self.authorities.values().map(|authority| authority.sequence).collect();
        sequences.sort_unstable();
        sequences.dedup();
        if sequences.len() != self.authorities.len() {
            found.push("two authorities of the same sequence".to_owned());
        }
        let mut sequences: Vec<_> = self.sealing.values().map(|key| key.sequence).collect();
        sequences.sort_unstable();
        sequences.dedup();
        if sequences.len() != self.sealing.len() {
            found.push("two keys to seal with of the same sequence".to_owned());
        }
        let revoked = self.machines.values().filter(|machine| self.is_revoked(&machine.key));
        found.extend(revoked.map(|machine| format!("{} {} belongs with a revoked key", machine.role, machine.name)));
        found
    }
}
