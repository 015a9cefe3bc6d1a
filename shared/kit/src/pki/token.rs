//! Tokens as people carry them: those that machines join with, and those that use the API.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use super::{Fingerprint, Role};

/// A new token for the API: 256 bits, told apart from other secrets where somebody finds one.
pub fn new_api_token() -> String {
    format!("pontoon_{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>())
}

const PREFIX: &str = "pontoon_join";

/// Hexadecimal digits of the secret: 128 bits.
const SECRET: usize = 32;

/// A token to join with: `pontoon_join_ROLE_FINGERPRINT_SECRET`. With the fingerprint of the cluster's authority, so that its
/// bearer speaks to that cluster only.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinText {
    /// As what.
    pub role: Role,
    /// Of the cluster's authority.
    pub authority: Fingerprint,
    /// Known to its bearer only.
    pub secret: String,
}

impl JoinText {
    /// With a new secret.
    pub fn make(role: Role, authority: Fingerprint) -> Self {
        Self { role, authority, secret: format!("{:032x}", rand::random::<u128>()) }
    }

    /// What the cluster keeps of a secret: its sha256.
    pub fn hash_of(secret: &str) -> [u8; 32] {
        Sha256::digest(secret.as_bytes()).into()
    }
}

impl fmt::Display for JoinText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}_{}_{}_{}", self.role, self.authority, self.secret)
    }
}

impl fmt::Debug for JoinText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinText {{ {}, [hidden] }}", self.role)
    }
}

impl FromStr for JoinText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // The text itself is never repeated: it may be right but for one letter.
        let wrong = || {
            "this is no token to join with; `pontoon token create --role ROLE` makes one, which begins with pontoon_join_"
                .to_owned()
        };
        let rest = text.trim().strip_prefix(PREFIX).and_then(|rest| rest.strip_prefix('_')).ok_or_else(wrong)?;
        let parts: Vec<&str> = rest.split('_').collect();
        let [role, authority, secret] = parts[..] else { return Err(wrong()) };
        let is_secret = secret.len() == SECRET && secret.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !is_secret {
            return Err(wrong());
        }
        Ok(Self {
            role: role.parse().map_err(|_| wrong())?,
            authority: authority.parse().map_err(|_| wrong())?,
            secret: secret.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_and_its_secret_is_not_printed() {
        let token = JoinText::make(Role::Agent, Fingerprint([7; 32]));
        assert_eq!(format!(" {token}\n").parse(), Ok(token.clone()));
        assert!(!format!("{token:?}").contains(&token.secret));
    }

    #[test]
    fn what_is_none_is_refused_without_being_repeated() {
        let good = JoinText::make(Role::Agent, Fingerprint([7; 32])).to_string();
        let cases = ["", "pontoon_join", "pontoon_join_agent", &good[..good.len() - 1], &good.replace("agent", "king")];
        for bad in cases {
            let error = bad.parse::<JoinText>().expect_err(bad);
            assert!(error.contains("pontoon token create"), "{error}");
            assert!(bad.len() < 40 || !error.contains(&bad[bad.len() - 20..]), "{error}");
        }
    }
}
