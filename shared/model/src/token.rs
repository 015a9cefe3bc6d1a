//! API tokens: who may ask what of the REST API. Only a token's hash is ever stored.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{AppName, Digest, Timestamp, TokenId};

/// What a token allows.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Everything.
    Admin,
    /// To read everything but environments, tokens and the audit.
    Read,
    /// Of one app: to read it, its environment too, and to do what its owner does; not to make or destroy an app.
    Deploy(AppName),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Read => f.write_str("read"),
            Self::Deploy(app) => write!(f, "deploy:{app}"),
        }
    }
}

impl FromStr for Scope {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("deploy:")) {
            ("admin", _) => Ok(Self::Admin),
            ("read", _) => Ok(Self::Read),
            (_, Some(app)) => app.parse().map(Self::Deploy).map_err(|error: crate::InvalidName| error.to_string()),
            _ => Err(format!("{text:?} is not a scope: use admin, read or deploy:APP")),
        }
    }
}

// Text, so that a scope that is added later takes no new layout.
impl Serialize for Scope {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Scope {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A token that people or programs show to the REST API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Shown to people; never reused within a cluster.
    pub id: TokenId,
    /// What it is for, in its maker's words.
    pub name: String,
    /// sha256 of the token itself, which is stored nowhere.
    pub hash: Digest,
    /// What it allows: the sum of these.
    pub scopes: BTreeSet<Scope>,
    /// When it was made.
    pub created_at: Timestamp,
    /// From when on it is refused.
    pub expires_at: Option<Timestamp>,
    /// About when it was used last: kept to [`USE_NOTED_EVERY`].
    pub last_used_at: Option<Timestamp>,
    /// Raft index of the last change of this row.
    pub version: u64,
}

/// A use is noted when the last one noted is older: the state shall say whether a token is still in use, and no request
/// shall cost a write.
pub const USE_NOTED_EVERY: Duration = Duration::from_secs(3600);

impl ApiToken {
    /// Longest name, in bytes: a line of a list.
    pub const MAX_NAME: usize = 60;

    /// Longest life of one that has an end: longer is as good as for ever, and what it is there for is forgotten.
    pub const LONGEST_LIFE: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

    /// Whether it is refused at `now`.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether it allows everything.
    pub fn is_admin(&self) -> bool {
        self.scopes.contains(&Scope::Admin)
    }

    /// Whether a use at `now` is worth a note.
    pub fn is_use_news(&self, now: Timestamp) -> bool {
        self.last_used_at.is_none_or(|noted| now.since(noted) >= USE_NOTED_EVERY)
    }
}

/// Checks a token's name; the text is for whoever typed it.
pub fn check_token_name(name: &str) -> Result<(), String> {
    let fits = (1..=ApiToken::MAX_NAME).contains(&name.len()) && name.trim() == name;
    if fits && !name.chars().any(char::is_control) {
        return Ok(());
    }
    Err(format!("token name {name:?} is not valid: use 1 to {} bytes without control characters", ApiToken::MAX_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_read_back_and_others_are_refused_in_words() {
        for text in ["admin", "read", "deploy:guestbook"] {
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
        }
        for bad in ["", "Admin", "deploy", "deploy:", "deploy:Not a name", "write", "read "] {
            assert!(bad.parse::<Scope>().unwrap_err().len() > 20, "{bad}");
        }
    }

    #[test]
    fn names_are_lines() {
        for good in ["first", "CI of guestbook", "für mich"] {
            assert_eq!(check_token_name(good), Ok(()), "{good}");
        }
        for bad in ["", " a", "a\nb", "\u{1b}[31m", &"x".repeat(61)] {
            assert!(check_token_name(bad).is_err(), "{bad:?}");
        }
    }
}
