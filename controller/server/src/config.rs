//! A controller's configuration file: read and checked before anything is touched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pontoon_core::CERTIFICATE_LIFE;
use pontoon_model::{ControllerId, ControllerName, SiteName};
use serde::Deserialize;

use crate::raft::{Compaction, Timing};
use crate::rest::TlsFiles;

/// Settings of one controller (TOML). Settings of the whole cluster live in the replicated state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name, as people see it and as its certificate says.
    pub name: ControllerName,
    /// Its Raft id: one life of its store, never reused.
    pub id: ControllerId,
    /// Where it stands.
    pub site: SiteName,
    /// Where it keeps its log, snapshots and blobs.
    pub data_dir: PathBuf,
    /// Where it listens for people and programs.
    pub rest: SocketAddr,
    /// Where others reach `rest`, if not at that address (e.g. when it listens on 0.0.0.0).
    #[serde(default)]
    pub rest_advertised: Option<SocketAddr>,
    /// TLS for `rest`: `"cluster"`, or a certificate and its key. Without it, plain HTTP: for this machine only, or behind
    /// what ends TLS.
    #[serde(default)]
    pub rest_tls: Option<RestTls>,
    /// Where it listens for controllers, agents and balancers.
    pub grpc: SocketAddr,
    /// Holds `ca.pem`, `cert.pem` and `key.pem`.
    pub tls_dir: PathBuf,
    /// Holds the bearer token of the REST API, or its hash as `sha256:HEX`.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
    /// Every controller of a new cluster, this one included; if it joins: itself, and those through whom it does.
    pub members: Vec<MemberConfig>,
    /// Whether it is let into a cluster that is there, instead of making one with `members`.
    #[serde(default)]
    pub join: bool,
    /// Whether it shall vote once it has joined; if not, it follows only.
    #[serde(default = "default_voter")]
    pub voter: bool,
    /// Raft's heartbeat and election times.
    #[serde(default)]
    pub timing: TimingConfig,
    /// How much log there may be before a snapshot is made, and behind one.
    #[serde(default)]
    pub store: Compaction,
    /// The authority that a new cluster begins with; without it, certificates are made elsewhere and nobody can join.
    #[serde(default)]
    pub founding: Option<FoundingConfig>,
    /// Default host names are `APP.BASE_DOMAIN`; without it, whatever the cluster has stays.
    #[serde(default)]
    pub base_domain: Option<String>,
    /// First and last of the ports at which balancers take connections for processes that do not speak HTTP.
    #[serde(default = "default_tcp_ports")]
    pub tcp_ports: (u16, u16),
}

/// Away from what agents give servos (20000 to 29999) and from what kernels give connections.
fn default_tcp_ports() -> (u16, u16) {
    (10_000, 10_999)
}

/// What a new cluster begins with. Once the controllers keep it, no file of it is read any more.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FoundingConfig {
    /// Holds `ca.pem` and `ca-key.pem`.
    pub ca_dir: PathBuf,
    /// The cluster's name.
    pub cluster: String,
    /// How long certificates are good for, in seconds; 90 days.
    #[serde(default = "default_certificate_life")]
    pub certificate_life_s: u64,
}

fn default_certificate_life() -> u64 {
    pontoon_kit::pki::LIFE.as_secs()
}

/// Which certificate the REST port shows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(untagged, expecting = "rest_tls is \"cluster\" or { cert = \"FILE\", key = \"FILE\" }")]
pub enum RestTls {
    /// By name.
    Named(NamedTls),
    /// From files.
    Files(FilesTls),
}

/// Certificates that have a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NamedTls {
    /// That of `tls_dir`, signed by the cluster's own authority.
    Cluster,
}

/// A certificate that somebody else has signed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesTls {
    /// The certificate and those between it and its authority (PEM).
    pub cert: PathBuf,
    /// Its key (PEM).
    pub key: PathBuf,
}

/// One controller of a new cluster.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemberConfig {
    /// Its Raft id.
    pub id: ControllerId,
    /// Its name.
    pub name: ControllerName,
    /// Where the others reach it.
    pub grpc: SocketAddr,
}

/// Raft's times: chosen by the leader, a preset, or explicit values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub enum TimingConfig {
    /// By name.
    Preset(TimingPreset),
    /// In milliseconds.
    Explicit(ExplicitTiming),
}

impl Default for TimingConfig {
    fn default() -> Self {
        Self::Preset(TimingPreset::Auto)
    }
}

/// Named sets of times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimingPreset {
    /// What the leader chooses for all from measured round trips and flush times; until then that of `lan`.
    Auto,
    /// Heartbeat 100 ms, election 300 to 500 ms.
    Lan,
    /// Heartbeat 250 ms, election 800 to 1,200 ms: for round trips up to about 80 ms.
    Wan,
}

/// Explicit times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExplicitTiming {
    /// Between two heartbeats.
    pub heartbeat_ms: u64,
    /// Shortest silence before an election.
    pub election_min_ms: u64,
    /// Longest silence before an election.
    pub election_max_ms: u64,
}

impl TimingConfig {
    /// Whether the times are those that the leader chooses.
    pub fn is_auto(self) -> bool {
        self == Self::Preset(TimingPreset::Auto)
    }

    /// The times it stands for, or those to begin with.
    pub fn times(self) -> Timing {
        match self {
            Self::Preset(TimingPreset::Auto | TimingPreset::Lan) => Timing::lan(),
            Self::Preset(TimingPreset::Wan) => Timing::wan(),
            Self::Explicit(explicit) => Timing {
                heartbeat: Duration::from_millis(explicit.heartbeat_ms),
                election_min: Duration::from_millis(explicit.election_min_ms),
                election_max: Duration::from_millis(explicit.election_max_ms),
            },
        }
    }
}

/// Less log than this would make a snapshot for every few entries.
const SNAPSHOT_BYTES_MIN: u64 = 64 * 1024;

fn default_voter() -> bool {
    true
}

/// Why a configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not a controller's configuration.
    #[error("{} is not a controller's configuration:\n{why}", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// What the parser says, with line and column.
        why: String,
    },
    /// A value makes no sense.
    #[error("the configuration of controller {name} is wrong: {why}")]
    Invalid {
        /// Of which controller.
        name: ControllerName,
        /// What is wrong and what to write.
        why: String,
    },
}

impl Config {
    /// Reads and checks `path`. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|error| ConfigError::Parse { path: path.to_owned(), why: error.to_string() })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for given in [&mut config.data_dir, &mut config.tls_dir] {
            *given = folder.join(&*given);
        }
        if let Some(file) = &mut config.token_file {
            *file = folder.join(&*file);
        }
        if let Some(founding) = &mut config.founding {
            founding.ca_dir = folder.join(&founding.ca_dir);
        }
        if let Some(RestTls::Files(files)) = &mut config.rest_tls {
            files.cert = folder.join(&files.cert);
            files.key = folder.join(&files.key);
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks what a type cannot.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |why: String| Err(ConfigError::Invalid { name: self.name.clone(), why });
        let Some(own) = self.members.iter().find(|member| member.id == self.id) else {
            return invalid(format!(
                "its own id {} is not among `members`; add it with its name and address",
                self.id.0
            ));
        };
        if own.name != self.name {
            return invalid(format!("`members` calls id {} {:?}; a controller has one name", self.id.0, own.name));
        }
        if own.grpc.ip().is_unspecified() || self.members.iter().any(|member| member.grpc.port() == 0) {
            return invalid("`grpc` of every member must be an address the others can reach".into());
        }
        if self.join && self.members.len() < 2 {
            return invalid("`join` needs somebody to ask: add a controller of the cluster to `members`".into());
        }
        if !self.voter && !self.join {
            return invalid("`voter = false` is for who joins; the first controllers of a cluster all vote".into());
        }
        if self.rest == self.grpc {
            return invalid(format!("`rest` and `grpc` are both {}; give each its own port", self.rest));
        }
        if let Some(twice) = duplicate(self.members.iter().map(|member| member.id.0.to_string()))
            .or_else(|| duplicate(self.members.iter().map(|member| member.name.to_string())))
            .or_else(|| duplicate(self.members.iter().map(|member| member.grpc.to_string())))
        {
            return invalid(format!("{twice} is used by two `members`; ids, names and addresses are each unique"));
        }
        let times = self.timing.times();
        // Below 3 heartbeats there is a warning, with what was measured.
        if times.heartbeat.is_zero() || times.election_min <= times.heartbeat {
            return invalid("`timing` needs heartbeat_ms above 0 and election_min_ms above heartbeat_ms".into());
        }
        if times.election_max <= times.election_min {
            return invalid("`timing` needs election_max_ms above election_min_ms".into());
        }
        if self.store.snapshot_bytes < SNAPSHOT_BYTES_MIN || self.store.kept_bytes < self.store.snapshot_bytes {
            return invalid(format!(
                "`store` needs snapshot_bytes of at least {SNAPSHOT_BYTES_MIN} and kept_bytes of at least snapshot_bytes"
            ));
        }
        if let Some(founding) = &self.founding
            && !CERTIFICATE_LIFE.contains(&founding.certificate_life_s)
        {
            let (least, most) = (CERTIFICATE_LIFE.start(), CERTIFICATE_LIFE.end());
            return invalid(format!("`founding` needs certificate_life_s between {least} and {most}"));
        }
        let (first, last) = self.tcp_ports;
        if first < 1024 || last < first {
            return invalid(format!(
                "`tcp_ports` is [{first}, {last}]; it is a first port from 1024 on and a last one, as in [10000, 10999]"
            ));
        }
        if let Some(domain) = self.base_domain.as_ref().filter(|domain| !is_domain(domain)) {
            return invalid(format!(
                "`base_domain` {domain:?} is not a domain name; write for example apps.example.org"
            ));
        }
        Ok(())
    }

    /// Where the certificate of the REST port is, if it has one.
    pub fn rest_tls_files(&self) -> Option<TlsFiles> {
        Some(match self.rest_tls.as_ref()? {
            RestTls::Named(NamedTls::Cluster) => TlsFiles {
                certificate: self.tls_dir.join("cert.pem"),
                key: self.tls_dir.join("key.pem"),
                authority: Some(self.tls_dir.join("ca.pem")),
            },
            RestTls::Files(files) => {
                TlsFiles { certificate: files.cert.clone(), key: files.key.clone(), authority: None }
            }
        })
    }

    /// Where people and programs reach it.
    pub fn rest_address(&self) -> SocketAddr {
        self.rest_advertised.unwrap_or(self.rest)
    }

    /// Where the others reach it: the address `members` gives it.
    pub fn grpc_address(&self) -> SocketAddr {
        self.members.iter().find(|member| member.id == self.id).map_or(self.grpc, |member| member.grpc)
    }
}

fn duplicate(values: impl Iterator<Item = String>) -> Option<String> {
    let mut seen = BTreeSet::new();
    values.into_iter().find(|value| !seen.insert(value.clone()))
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    text.len() <= 200 && text.split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "a"
        id = 1
        site = "home.attic"
        data_dir = "data"
        rest = "127.0.0.1:7700"
        grpc = "127.0.0.1:7711"
        tls_dir = "tls"
        token_file = "/etc/pontoon/token"
        members = [
            { id = 1, name = "a", grpc = "127.0.0.1:7711" },
            { id = 2, name = "b", grpc = "127.0.0.1:7712" },
        ]
    "#;

    fn load(text: &str) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("controller.toml");
        fs::write(&path, text).unwrap();
        let loaded = Config::load(&path).map_err(|error| error.to_string());
        if let Ok(config) = &loaded {
            assert_eq!(config.data_dir, folder.path().join("data"), "relative to the file");
        }
        loaded
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.token_file.as_deref(), Some(Path::new("/etc/pontoon/token")));
        assert_eq!(config.timing.times().heartbeat, Duration::from_millis(100));
        assert_eq!(config.base_domain, None);
        assert_eq!(config.grpc_address(), config.grpc);
    }

    #[test]
    fn timing_is_a_name_or_three_values() {
        let wan = load(&format!("timing = \"wan\"\n{GOOD}")).unwrap();
        assert_eq!(wan.timing.times().election_max, Duration::from_millis(1200));
        assert!(!wan.timing.is_auto() && load(GOOD).unwrap().timing.is_auto());
        assert!(load(&format!("timing = \"auto\"\n{GOOD}")).unwrap().timing.is_auto());
        let text = format!("timing = {{ heartbeat_ms = 50, election_min_ms = 150, election_max_ms = 250 }}\n{GOOD}");
        assert_eq!(load(&text).unwrap().timing.times().election_min, Duration::from_millis(150));
    }

    #[test]
    fn tls_of_the_rest_port_is_a_name_or_two_files() {
        assert_eq!(load(GOOD).unwrap().rest_tls_files(), None);
        let cluster = load(&format!("rest_tls = \"cluster\"\n{GOOD}")).unwrap();
        let files = cluster.rest_tls_files().unwrap();
        assert_eq!((files.key, files.authority.is_some()), (cluster.tls_dir.join("key.pem"), true));
        let given = load(&format!("rest_tls = {{ cert = \"c.pem\", key = \"/k.pem\" }}\n{GOOD}")).unwrap();
        let files = given.rest_tls_files().unwrap();
        let folder = given.data_dir.parent().unwrap();
        assert_eq!((files.certificate, files.key), (folder.join("c.pem"), PathBuf::from("/k.pem")));
        for wrong in ["\"public\"", "{ cert = \"c\" }", "true"] {
            let why = load(&format!("rest_tls = {wrong}\n{GOOD}")).unwrap_err().to_string();
            assert!(why.contains("\"cluster\" or {"), "{wrong}: {why}");
        }
    }

    #[test]
    fn one_limit_of_the_log_may_be_given_alone() {
        let store = load(&format!("{GOOD}\n[store]\nsnapshot_bytes = 1000000")).unwrap().store;
        assert_eq!(store, Compaction { snapshot_bytes: 1_000_000, ..Compaction::default() });
    }

    #[test]
    fn what_is_wrong_is_named() {
        let cases = [
            (format!("colour = 1\n{GOOD}"), "colour"),
            (GOOD.replace("id = 1\n", "id = 7\n"), "not among `members`"),
            (GOOD.replace("name = \"a\"\n", "name = \"z\"\n"), "one name"),
            (GOOD.replace("{ id = 2", "{ id = 1"), "used by two"),
            (GOOD.replace("7712", "7711"), "used by two"),
            (GOOD.replace("7700", "7711"), "its own port"),
            (format!("tcp_ports = [80, 90]\n{GOOD}"), "from 1024 on"),
            (format!("tcp_ports = [2000, 1999]\n{GOOD}"), "tcp_ports"),
            (format!("base_domain = \"no/slash\"\n{GOOD}"), "base_domain"),
            (
                format!("timing = {{ heartbeat_ms = 100, election_min_ms = 100, election_max_ms = 400 }}\n{GOOD}"),
                "above heartbeat_ms",
            ),
            (format!("{GOOD}\n[store]\nsnapshot_bytes = 1000"), "at least 65536"),
            (format!("{GOOD}\n[store]\nkept_bytes = 1000000"), "kept_bytes of at least"),
            (
                format!("{GOOD}\n[founding]\nca_dir = \"ca\"\ncluster = \"home\"\ncertificate_life_s = 1"),
                "certificate_life_s between 10",
            ),
            (format!("voter = false\n{GOOD}"), "for who joins"),
            (
                format!("join = true\n{GOOD}").replace("{ id = 2, name = \"b\", grpc = \"127.0.0.1:7712\" },", ""),
                "somebody to ask",
            ),
            (GOOD.replace("site = \"home.attic\"", "site = \"Home!\""), "site name"),
        ];
        for (text, part) in cases {
            let error = load(&text).expect_err(part);
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}
