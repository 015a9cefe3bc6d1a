//! Labels: what people and programs note about an app, checked in one place for all who take them.

use std::fmt;
use std::ops::{Deref, DerefMut};

pub use ecow::EcoString;
use litemap::LiteMap;
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Names and values: few, and copied with each change of an app, so a sorted list whose copies share their text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Labels(LiteMap<EcoString, EcoString>);

impl Deref for Labels {
    type Target = LiteMap<EcoString, EcoString>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Labels {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

impl FromIterator<(EcoString, EcoString)> for Labels {
    fn from_iter<I: IntoIterator<Item = (EcoString, EcoString)>>(labels: I) -> Self {
        Self(labels.into_iter().collect())
    }
}

// By hand: LiteMap's own makes a list of an empty map.
impl Serialize for Labels {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter())
    }
}

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LabelsVisitor)
    }
}

struct LabelsVisitor;

impl<'de> Visitor<'de> for LabelsVisitor {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels: names with their values")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut given: A) -> Result<Labels, A::Error> {
        // More than an app may have are refused later, by name.
        let mut labels = LiteMap::with_capacity(given.size_hint().unwrap_or_default().min(MAX_LABELS));
        while let Some((name, value)) = given.next_entry()? {
            labels.insert(name, value);
        }
        Ok(Labels(labels))
    }
}

/// Most labels of one app: with the longest names and values 20 kB, in the memory of every controller.
pub const MAX_LABELS: usize = 64;
/// Longest name, as in Kubernetes and DNS.
pub const MAX_NAME: usize = 63;
/// Longest value in bytes: a note, not a document.
pub const MAX_VALUE: usize = 256;

/// A label that breaks a rule; meant for the person who typed it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidLabel {
    /// Its name.
    #[error(
        "label name {given:?} is not valid: use 1 to {MAX_NAME} of a-z, A-Z, 0-9, -, _, . and /, with a letter or digit \
         first and last"
    )]
    Name {
        /// What was given, shortened.
        given: String,
    },
    /// Its value.
    #[error("the value of label {name} is not valid: use at most {MAX_VALUE} bytes without control characters")]
    Value {
        /// Whose.
        name: String,
    },
    /// One label too many.
    #[error("label {name} would be number {}; an app has at most {MAX_LABELS}: remove one that is no longer used", MAX_LABELS + 1)]
    TooMany {
        /// The first that has no room.
        name: String,
    },
    /// Both set and unset.
    #[error("label {name} is both set and removed; decide for one")]
    Both {
        /// Which.
        name: String,
    },
}

/// Checks a name.
pub fn check_name(name: &str) -> Result<(), InvalidLabel> {
    let edge = |c: Option<&u8>| c.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |c: &u8| c.is_ascii_alphanumeric() || b"-_./".contains(c);
    let bytes = name.as_bytes();
    if bytes.len() <= MAX_NAME && edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner) {
        Ok(())
    } else {
        Err(InvalidLabel::Name { given: name.chars().take(80).collect() })
    }
}

/// Whether all of `bytes` are of ASCII's space to `~`. Eight at a time, since a build for size has no vector loops: bytes below
/// a bound and bytes that are zero as in <https://graphics.stanford.edu/~seander/bithacks.html#HasLessInWord>.
fn is_printable_ascii(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    let other = |eight: [u8; 8]| {
        let word = u64::from_le_bytes(eight);
        let delete = word ^ (ONES * 0x7f);
        (word | (word.wrapping_sub(ONES * 0x20) & !word) | (delete.wrapping_sub(ONES) & !delete)) & HIGH
    };
    let (eights, rest) = bytes.as_chunks::<8>();
    let mut last = [b' '; 8];
    last[..rest.len()].copy_from_slice(rest);
    eights.iter().fold(other(last), |found, eight| found | other(*eight)) == 0
}

/// Checks what a change would set and unset, without the labels that are there already.
pub fn check_change(set: &Labels, unset: &[String]) -> Result<(), InvalidLabel> {
    let mut names = set.keys().map(EcoString::as_str).chain(unset.iter().map(String::as_str));
    names.try_for_each(check_name)?;
    // Most have none, and no other letters than ASCII's.
    let control = |value: &str| !is_printable_ascii(value.as_bytes()) && value.chars().any(char::is_control);
    let wrong = |value: &str| value.len() > MAX_VALUE || control(value);
    if let Some((name, _)) = set.iter().find(|(_, value)| wrong(value)) {
        return Err(InvalidLabel::Value { name: name.to_string() });
    }
    if let Some(name) = unset.iter().find(|name| set.contains_key(name.as_str())) {
        return Err(InvalidLabel::Both { name: name.clone() });
    }
    match set.keys().nth(MAX_LABELS) {
        Some(name) => Err(InvalidLabel::TooMany { name: name.to_string() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, value: &str) -> Labels {
        Labels::from_iter([(name.into(), value.into())])
    }

    #[test]
    fn one_byte_that_is_not_printable_is_found_wherever_it_is() {
        for len in 0..=19 {
            assert!(is_printable_ascii(&vec![b'~'; len]));
            for (at, byte) in (0..len).flat_map(|at| (0..=u8::MAX).map(move |byte| (at, byte))) {
                let mut bytes = vec![b' '; len];
                bytes[at] = byte;
                assert_eq!(is_printable_ascii(&bytes), (b' '..=b'~').contains(&byte), "{bytes:?}");
            }
        }
    }

    #[test]
    fn labels_keep_to_their_rules_and_a_refusal_names_the_one() {
        let (longest, longer) = ("x".repeat(63), "x".repeat(64));
        for good in ["a", "0", "team", "Team_1.x-y/z", "example.org/tier", longest.as_str()] {
            assert_eq!(check_change(&set(good, "Grüße, 世界"), &[]), Ok(()), "{good}");
        }
        for bad in ["", "-a", "a-", "a/", ".a", "a b", "ä", "a=b", longer.as_str()] {
            let error = check_change(&set(bad, ""), &[]).unwrap_err().to_string();
            assert!(error.contains(&format!("{bad:?}")), "{error}");
            assert!(check_change(&Labels::default(), &[bad.to_owned()]).is_err(), "{bad}");
        }
        for bad in ["a\nb", "\0", "\u{7f}", &"x".repeat(257), &"ä".repeat(129)] {
            let error = check_change(&set("team", bad), &[]).unwrap_err().to_string();
            assert!(error.contains("label team"), "{error}");
        }
        assert_eq!(check_change(&set("a", &"x".repeat(256)), &["b".to_owned()]), Ok(()));
        assert_eq!(check_change(&set("a", ""), &["a".to_owned()]), Err(InvalidLabel::Both { name: "a".to_owned() }));
        let many: Labels = (0..65).map(|n| (format!("l{n:02}").into(), EcoString::default())).collect();
        assert_eq!(check_change(&many, &[]), Err(InvalidLabel::TooMany { name: "l64".to_owned() }));
    }
}
