//! Certificates from an ACME directory: what people have set, and where each order is.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::{Secret, Timestamp};

/// Where certificates are ordered, and as whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeSettings {
    /// URL of the directory.
    pub directory: String,
    /// Whom the authority may write to.
    pub email: String,
    /// Who signed the directory's own certificate, PEM; none: whom the controllers' machines trust.
    pub authority: Option<String>,
    /// An account that the user has with the authority already.
    pub external: Option<ExternalAccount>,
    /// Host names for which nothing is ordered.
    pub except: BTreeSet<String>,
}

/// What ties an ACME account to one that was made elsewhere (external account binding, RFC 8555, 7.3.4).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExternalAccount {
    /// Its key's id.
    pub kid: String,
    /// Its key, base64url.
    pub hmac: Secret,
}

/// The cluster's account with the authority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeAccount {
    /// Its URL, which is its name.
    pub url: String,
    /// What is needed to speak for it: JSON of the ACME client, with the key.
    pub credentials: Secret,
}

/// The settings, and what has become of the account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AcmeRow {
    /// As people have set them.
    pub settings: AcmeSettings,
    /// None before the leader has made it.
    pub account: Option<AcmeAccount>,
    /// What went wrong when it was asked for last, if anything.
    pub trouble: Option<Trouble>,
    /// Raft index of the last change of the settings.
    pub version: u64,
}

/// Something that did not work, and is tried again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trouble {
    /// How often in a row.
    pub failures: u32,
    /// What went wrong last, and what to do about it.
    pub error: String,
    /// When it went wrong.
    pub at: Timestamp,
}

/// An order that is under way, or has failed and will be begun anew. There is none for a name that has what it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderRow {
    /// The host name that the certificate is for.
    pub host: String,
    /// What went wrong the last time, if anything.
    pub trouble: Option<Trouble>,
    /// When it was begun last.
    pub begun_at: Timestamp,
    /// No other is begun before.
    pub next_try: Timestamp,
}

/// What balancers show the authority for a host name, as the proof that it is ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The host name; it has one challenge at a time.
    pub host: String,
    /// How the authority looks.
    pub kind: ChallengeKind,
    /// What the authority asks for.
    pub token: String,
    /// The answer.
    pub key_authorization: String,
}

/// How an authority looks whether a host name is ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChallengeKind {
    /// A file on port 80 (RFC 8555, 8.3).
    Http01,
    /// A certificate on port 443 (RFC 8737).
    TlsAlpn01,
}

impl AcmeSettings {
    /// The directory of Let's Encrypt, whose certificates all browsers take.
    pub const LETS_ENCRYPT: &str = "https://acme-v02.api.letsencrypt.org/directory";
    /// The one to try things with; browsers do not take its certificates, and its limits are high.
    pub const LETS_ENCRYPT_STAGING: &str = "https://acme-staging-v02.api.letsencrypt.org/directory";
    /// Longest of each text: chains of an authority and URLs are far below.
    pub const MAX_TEXT: usize = 32 * 1024;
    /// As many names as a person looks through; a domain that shall not have HTTPS is rare.
    pub const MAX_EXCEPT: usize = 1_000;

    /// What is wrong with it, in a sentence for the person who gave it.
    pub fn check(&self) -> Result<(), String> {
        let external = self.external.iter().flat_map(|external| [external.kid.len(), external.hmac.value_len()]);
        let authority = self.authority.as_ref().map(String::len);
        let mut lengths = [self.directory.len(), self.email.len()].into_iter().chain(authority).chain(external);
        if let Some(long) = lengths.find(|len| *len > Self::MAX_TEXT) {
            return Err(format!("a text of {long} bytes is too long; at most {} are taken", Self::MAX_TEXT));
        }
        if !self.directory.strip_prefix("https://").is_some_and(|rest| rest.contains('/')) {
            return Err(format!(
                "{:?} is no URL of an ACME directory; give one like {}",
                self.directory,
                Self::LETS_ENCRYPT
            ));
        }
        let email = self.email.split_once('@');
        if !email.is_some_and(|(name, host)| !name.is_empty() && host.contains('.'))
            || !self.email.bytes().all(|byte| byte.is_ascii_graphic())
        {
            return Err(format!(
                "{:?} is no e-mail address; the authority writes to it, e.g. you@example.org",
                self.email
            ));
        }
        if let Some(external) = &self.external
            && (external.kid.is_empty() || external.hmac.value_len() == 0)
        {
            return Err("the external account needs both its key id and its HMAC key".to_owned());
        }
        if self.except.len() > Self::MAX_EXCEPT {
            return Err(format!("{} names are excepted; at most {} may be", self.except.len(), Self::MAX_EXCEPT));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> AcmeSettings {
        AcmeSettings {
            directory: AcmeSettings::LETS_ENCRYPT.to_owned(),
            email: "you@example.org".to_owned(),
            authority: None,
            external: None,
            except: BTreeSet::new(),
        }
    }

    #[test]
    fn what_no_authority_would_take_is_refused_with_the_reason() {
        settings().check().unwrap();
        let external = |kid: &str, hmac: &str| Some(ExternalAccount { kid: kid.into(), hmac: Secret(hmac.into()) });
        let except = (0..=AcmeSettings::MAX_EXCEPT).map(|n| format!("{n}.example")).collect();
        for (bad, part) in [
            (AcmeSettings { directory: "http://a.b/dir".into(), ..settings() }, "is no URL of an ACME directory"),
            (AcmeSettings { directory: "https://a.b".into(), ..settings() }, "is no URL of an ACME directory"),
            (AcmeSettings { email: "you".into(), ..settings() }, "is no e-mail address"),
            (AcmeSettings { email: "y u@a.b".into(), ..settings() }, "is no e-mail address"),
            (AcmeSettings { email: "@a.b".into(), ..settings() }, "is no e-mail address"),
            (AcmeSettings { external: external("", "x"), ..settings() }, "needs both"),
            (AcmeSettings { external: external("x", ""), ..settings() }, "needs both"),
            (AcmeSettings { authority: Some("x".repeat(40_000)), ..settings() }, "40000 bytes is too long"),
            (AcmeSettings { except, ..settings() }, "1001 names are excepted"),
        ] {
            let said = bad.check().unwrap_err();
            assert!(said.contains(part), "{part}: {said}");
        }
    }
}
