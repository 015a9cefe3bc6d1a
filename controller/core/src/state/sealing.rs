//! Values that are kept sealed: where there are any.

use std::collections::BTreeSet;

use pontoon_model::{SealingKeyId, Secret, SecretPlace};

use super::State;

impl State {
    /// Every value that is kept sealed, or shall be, and where it belongs. A value that is in an app and in its releases comes
    /// more than once.
    pub fn secrets(&self) -> impl Iterator<Item = (SecretPlace, &Secret)> {
        let apps = self.apps.values().map(|app| (&app.name, &app.env));
        let releases = self.releases.values().map(|release| (&release.app, &release.env));
        let environments = apps.chain(releases).flat_map(|(app, env)| {
            env.iter().map(|(name, value)| (SecretPlace::Env { app: app.clone(), name: name.clone() }, value))
        });
        let certificates = self.edge.certificates.values();
        let certificates = certificates.map(|row| (SecretPlace::Certificate(row.fingerprint), &row.key));
        let keys = self.edge.keys.iter().flat_map(|row| &row.keys).map(|key| (SecretPlace::EdgeKeys, key));
        let acme = self.acme.row.as_deref();
        let external = acme.and_then(|row| row.settings.external.as_ref());
        let external = external.map(|row| (SecretPlace::AcmeExternal { kid: row.kid.clone() }, &row.hmac));
        let account = acme.and_then(|row| row.account.as_ref());
        let account = account.map(|row| (SecretPlace::AcmeAccount { url: row.url.clone() }, &row.credentials));
        let authorities = self.trust.authorities.values();
        let authorities = authorities.map(|row| (SecretPlace::Authority(row.fingerprint), &row.key));
        environments.chain(authorities).chain(certificates).chain(keys).chain(external).chain(account)
    }

    /// One of the values that this key opens.
    pub fn sealed_with(&self, key: SealingKeyId) -> Option<SecretPlace> {
        self.secrets().find(|(_, secret)| secret.is_sealed_with(key)).map(|(place, _)| place)
    }

    /// What of the sealed values does not hold together.
    pub(crate) fn sealing_violations(&self) -> Vec<String> {
        let broken = |(place, secret): (SecretPlace, &Secret)| match secret.seal() {
            Ok(None) => None,
            Ok(Some(seal)) if self.trust.sealing.contains_key(&seal.key) => None,
            Ok(Some(seal)) => Some(format!("{place} is sealed with {}, which is forgotten", seal.key)),
            Err(error) => Some(format!("{place}: {error}")),
        };
        // A value of several releases is one.
        let found: BTreeSet<_> = self.secrets().filter_map(broken).collect();
        found.into_iter().collect()
    }
}
