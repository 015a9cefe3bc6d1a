//! Names that people choose, checked once at the border so that no later code has to.

use std::fmt;
use std::str::FromStr;

use ecow::EcoString;
use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A name that breaks its rule; the text says which rule and is meant for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {given:?} is not valid: {rule}")]
pub struct InvalidName {
    /// What was being named, e.g. `app name`.
    pub what: &'static str,
    /// The text that was given.
    pub given: String,
    /// The rule it breaks.
    pub rule: &'static str,
}

fn is_label(text: &str, max: usize, dots: bool) -> bool {
    let inner = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || (dots && c == b'.');
    let edge = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let bytes = text.as_bytes();
    match (bytes.first(), bytes.last()) {
        (Some(&first), Some(&last)) => {
            bytes.len() <= max && edge(first) && edge(last) && bytes.iter().all(|&c| inner(c)) && !text.contains("..")
        }
        _ => false,
    }
}

/// Takes a name from the text as it lies there: names are in nearly every command and row.
struct NameVisitor<T> {
    what: &'static str,
    parse: fn(&str) -> Result<T, InvalidName>,
}

impl<T> Visitor<'_> for NameVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.what)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

macro_rules! names {
    ($($(#[$doc:meta])* $name:ident, $what:literal, $max:literal, $dots:literal, $rule:literal;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(EcoString);

        impl $name {
            /// Longest name, in bytes.
            pub const MAX_LEN: usize = $max;

            /// Checks `text` against the rule of this kind of name.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                if is_label(text, $max, $dots) {
                    Ok(Self(EcoString::from(text)))
                } else {
                    Err(InvalidName { what: $what, given: text.chars().take(80).collect(), rule: $rule })
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(NameVisitor { what: $what, parse: Self::new })
            }
        }
    )*};
}

names! {
    /// Name of an app; it is also the first label of the app's default host name.
    AppName, "app name", 40, false, "use 1 to 40 of a-z, 0-9 and -, with a letter or digit first and last";
    /// Name of a process type of an app, such as `web` or `worker`.
    ProcessName, "process name", 30, false, "use 1 to 30 of a-z, 0-9 and -, with a letter or digit first and last";
    /// A place that fails as one, `provider.region`, e.g. `aws.us-east-1a` or `home.attic`.
    SiteName, "site name", 60, true, "use 1 to 60 of a-z, 0-9, - and ., as in aws.us-east-1a";
    /// Name of a machine with an agent; unique in the cluster.
    HostName, "host name", 60, true, "use 1 to 60 of a-z, 0-9, - and ., with a letter or digit first and last";
    /// Name of a controller as people see it; its Raft id is a `ControllerId`.
    ControllerName, "controller name", 60, true, "use 1 to 60 of a-z, 0-9, - and ., with a letter or digit first and last";
    /// Name of a balancer; unique in the cluster.
    BalancerName, "balancer name", 60, true, "use 1 to 60 of a-z, 0-9, - and ., with a letter or digit first and last";
}

impl ProcessName {
    /// The process type that receives HTTP traffic.
    pub fn web() -> Self {
        Self(EcoString::inline("web"))
    }

    /// The process type that takes connections which are not HTTP.
    pub fn tcp() -> Self {
        Self(EcoString::inline("tcp"))
    }

    /// Whether servos of this type take connections that are not HTTP: `tcp`, and `tcp-NAME` where an app has several.
    pub fn is_tcp(&self) -> bool {
        self.0.strip_prefix("tcp").is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_keep_to_their_rule() {
        for good in ["a", "guestbook", "my-app-2", "0day"] {
            assert!(AppName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", "a b", &"x".repeat(41)] {
            assert!(AppName::new(bad).is_err(), "{bad}");
        }
        assert!(SiteName::new("aws.us-east-1a").is_ok());
        assert!(SiteName::new("aws..x").is_err());
    }

    #[test]
    fn the_name_of_a_process_type_says_what_it_takes() {
        for (name, tcp) in [("tcp", true), ("tcp-mqtt", true), ("tcpdump", false), ("web", false), ("a-tcp", false)] {
            assert_eq!(ProcessName::new(name).unwrap().is_tcp(), tcp, "{name}");
        }
        assert!(ProcessName::tcp() <= ProcessName::new("tcp-0").unwrap(), "the first of them");
    }

    #[test]
    fn a_refused_name_says_the_rule() {
        let error = AppName::new("My App").unwrap_err().to_string();
        assert!(error.contains("\"My App\"") && error.contains("a-z"), "{error}");
    }
}
