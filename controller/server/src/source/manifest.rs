//! `pontoon.toml` in the source directory: what cannot be told by looking at the files.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use pontoon_model::{AppName, HealthCheck, Language, ProcessName};
use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};

use super::SourceError;

/// Longest time a new servo may be given: a deployment that waits longer is not coming back.
const MAX_HEALTH_TIMEOUT: Duration = Duration::from_secs(15 * 60);

/// The manifest of an app.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Manifest {
    /// The app's name; `--app` overrides it.
    pub name: Option<AppName>,
    /// Commands by process type; they replace the Procfile's and the detected ones.
    pub processes: BTreeMap<ProcessName, String>,
    /// When a servo counts as ready.
    pub health: Health,
    /// How to build.
    pub build: BuildSection,
    /// For static sites.
    #[serde(rename = "static")]
    pub site: StaticSection,
    /// Number and size of the first servos: read and applied by the client that creates the app.
    pub scale: toml::Table,
}

/// `[health]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// Ready when `GET path` answers 200 to 399.
    pub path: Option<String>,
    /// How long a new servo may take: `60`, `"60s"` or `"2m"`.
    #[serde(deserialize_with = "seconds")]
    pub timeout: Option<Duration>,
}

/// `[build]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BuildSection {
    /// `python`, `node`, `static` or `procfile`; detected if absent.
    pub runtime: Option<Language>,
}

/// `[static]`
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StaticSection {
    /// The folder that is served.
    pub root: Option<String>,
}

impl Manifest {
    /// Reads and checks a manifest.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let manifest: Self = toml::from_str(text).map_err(|error| wrong(error.to_string().trim_end()))?;
        manifest.check().map_err(|why| wrong(&why))?;
        Ok(manifest)
    }

    /// The process types that `[scale]` names.
    pub fn scaled(&self) -> impl Iterator<Item = &str> {
        self.scale.keys().map(String::as_str).filter(|key| !matches!(*key, "memory" | "cpu"))
    }

    /// The health check it describes.
    pub fn health_check(&self) -> HealthCheck {
        let usual = HealthCheck::default();
        HealthCheck { path: self.health.path.clone(), timeout: self.health.timeout.unwrap_or(usual.timeout) }
    }

    fn check(&self) -> Result<(), String> {
        if let Some((name, _)) = self.processes.iter().find(|(_, command)| command.trim().is_empty()) {
            return Err(format!("[processes] {name} is empty; write the command that starts it"));
        }
        if let Some(path) = self.health.path.as_ref().filter(|path| {
            !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) || path.len() > 1024
        }) {
            return Err(format!("[health] path is {path:?}; it begins with / and has no spaces, as in \"/healthz\""));
        }
        if self.health.timeout.is_some_and(|timeout| timeout.is_zero() || timeout > MAX_HEALTH_TIMEOUT) {
            return Err("[health] timeout is from \"1s\" to \"15m\"".into());
        }
        if let Some(root) = &self.site.root {
            let parts = super::path::inside(root.as_bytes());
            if parts.is_err() || root.contains(|c: char| !(c.is_ascii_alphanumeric() || "._-/".contains(c))) {
                return Err(format!(
                    "[static] root is {root:?}; it is a folder of the source, in letters, digits and . _ - /, as in \"public\""
                ));
            }
        }
        Ok(())
    }
}

fn wrong(why: &str) -> SourceError {
    SourceError::Bad(format!("pontoon.toml cannot be used: {why}"))
}

/// Seconds as a number, or text with `s` or `m`.
fn seconds<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    struct Seconds;
    impl Visitor<'_> for Seconds {
        type Value = Option<Duration>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("seconds, as in 60, \"60s\" or \"2m\"")
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Self::Value, E> {
            let value = u64::try_from(value).map_err(|_| E::invalid_value(de::Unexpected::Signed(value), &self))?;
            Ok(Some(Duration::from_secs(value)))
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let (digits, factor) = match text.strip_suffix('m') {
                Some(minutes) => (minutes, 60),
                None => (text.strip_suffix('s').unwrap_or(text), 1),
            };
            let number: u32 = digits.parse().map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))?;
            Ok(Some(Duration::from_secs(u64::from(number) * factor)))
        }
    }
    deserializer.deserialize_any(Seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_can_be_said() {
        let manifest = Manifest::parse(
            r#"
            name = "guestbook"
            [processes]
            web = "gunicorn app:app"
            worker = "python worker.py"
            [health]
            path = "/healthz"
            timeout = "2m"
            [build]
            runtime = "python"
            [static]
            root = "public/site"
            [scale]
            web = 2
            memory = "128M"
            "#,
        )
        .unwrap();
        assert_eq!(manifest.name.as_ref().map(AppName::as_str), Some("guestbook"));
        assert_eq!(manifest.health_check().timeout, Duration::from_secs(120));
        assert_eq!(manifest.build.runtime, Some(Language::Python));
        assert_eq!(manifest.scaled().collect::<Vec<_>>(), ["web"]);
    }

    #[test]
    fn nothing_need_be_said() {
        assert_eq!(Manifest::parse("").unwrap().health_check(), HealthCheck::default());
        let plain = Manifest::parse("[health]\ntimeout = 5").unwrap();
        assert_eq!(plain.health_check().timeout, Duration::from_secs(5));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line() {
        let cases = [
            ("name = \"x\"\ncolour = 1", "line 2"),
            ("[health]\npath = \"/\"\ntimeuot = 3", "timeuot"),
            ("name = ", "line 1"),
            ("name = \"Bad Name\"", "app name"),
            ("[processes]\n\"Web!\" = \"x\"", "process name"),
            ("[processes]\nweb = \"  \"", "[processes] web is empty"),
            ("[health]\npath = \"healthz\"", "begins with /"),
            ("[health]\ntimeout = \"soon\"", "\"2m\""),
            ("[health]\ntimeout = -1", "60"),
            ("[health]\ntimeout = \"0s\"", "from \"1s\""),
            ("[build]\nruntime = \"cobol\"", "cobol"),
            ("[static]\nroot = \"../up\"", "[static] root"),
            ("[static]\nroot = \"a;b\"", "[static] root"),
        ];
        for (text, part) in cases {
            let message = Manifest::parse(text).expect_err(text).to_string();
            assert!(message.starts_with("pontoon.toml") && message.contains(part), "{text}: {message}");
        }
    }
}
