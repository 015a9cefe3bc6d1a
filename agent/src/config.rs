//! The agent's configuration file.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use pontoon_model::{HostName, MemoryBytes, SiteName};
use serde::Deserialize;

/// Where Linux distributions keep the certificates that programs trust.
const USUAL_CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How an agent is set up; read from TOML.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The host's name: its certificate must carry it.
    pub name: HostName,
    /// Where the host stands.
    pub site: SiteName,
    /// The cluster's name: agents of several clusters share a Docker engine by it.
    #[serde(default = "default_cluster")]
    pub cluster: String,
    /// Where journal, blobs, logs and (without Docker) servos are kept.
    pub data_dir: PathBuf,
    /// The folder with `ca.pem`, `cert.pem` and `key.pem`.
    pub tls_dir: PathBuf,
    /// The controllers' gRPC addresses, nearest first.
    pub controllers: Vec<SocketAddr>,
    /// How servos are run.
    #[serde(default)]
    pub runtime: RuntimeChoice,
    /// The address on which servos are published.
    pub listen_ip: IpAddr,
    /// The ports from which servos get theirs.
    #[serde(default)]
    pub ports: PortRange,
    /// Memory offered to servos; without it, what the machine has, less a reserve and what is not ours.
    #[serde(default, deserialize_with = "memory")]
    pub memory: Option<MemoryBytes>,
    /// Certificates that builds trust; without it, the machine's own, where it has the usual file.
    #[serde(default)]
    pub ca_bundle: Option<PathBuf>,
    /// Stop and remove all servos when the agent is told to end (a normal agent leaves them running).
    #[serde(default)]
    pub stop_servos_on_exit: bool,
}

fn default_cluster() -> String {
    "pontoon".to_owned()
}

fn memory<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<MemoryBytes>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// Which runtime is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeChoice {
    /// Docker when its socket answers, else processes.
    #[default]
    Auto,
    /// Docker; without it the agent does not start.
    Docker,
    /// Child processes.
    Process,
}

/// A range of TCP ports. Text form: `20000-20999`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct PortRange(pub RangeInclusive<u16>);

impl Default for PortRange {
    /// Below the kernel's ephemeral ports, which begin at 32768.
    fn default() -> Self {
        Self(20_000..=29_999)
    }
}

impl TryFrom<String> for PortRange {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a range of ports; write for example \"20000-20999\"");
        let (first, last) = text.split_once('-').ok_or_else(wrong)?;
        let (first, last): (u16, u16) = match (first.trim().parse(), last.trim().parse()) {
            (Ok(first), Ok(last)) => (first, last),
            _ => return Err(wrong()),
        };
        if first < 1024 || first > last {
            return Err(format!("the ports {text:?} must begin at 1024 or above and must not end before they begin"));
        }
        Ok(Self(first..=last))
    }
}

/// Why a configuration is not usable.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the agent's configuration {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not valid TOML of this form.
    #[error("the agent's configuration {} is not valid", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("the agent's configuration is not valid: {0}")]
    Invalid(String),
}

impl Config {
    /// Reads and checks the configuration at `path`. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        for given in [&mut config.data_dir, &mut config.tls_dir].into_iter().chain(&mut config.ca_bundle) {
            *given = folder.join(&*given);
        }
        config.check()?;
        Ok(config)
    }

    /// Checks what the types cannot say.
    pub fn check(&self) -> Result<(), ConfigError> {
        let invalid = |what: String| Err(ConfigError::Invalid(what));
        if self.controllers.is_empty() {
            return invalid("controllers is empty; name at least one controller's gRPC address".into());
        }
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if self.cluster.is_empty() || self.cluster.len() > 40 || !self.cluster.chars().all(label) {
            return invalid(format!("cluster {:?} must be 1 to 40 of a-z, 0-9 and -", self.cluster));
        }
        if self.listen_ip.is_unspecified() {
            return invalid(format!(
                "listen_ip {} is no address balancers can connect to; name this host's private address",
                self.listen_ip
            ));
        }
        match &self.ca_bundle {
            Some(path) if !path.is_file() => invalid(format!("ca_bundle {} is not a file", path.display())),
            _ => Ok(()),
        }
    }

    /// The certificates that builds trust, if there are any to give.
    pub fn ca_bundle_path(&self) -> Option<PathBuf> {
        self.ca_bundle.clone().or_else(|| Some(PathBuf::from(USUAL_CA_BUNDLE)).filter(|path| path.is_file()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"
        name = "attic-1"
        site = "home.attic"
        data_dir = "/var/lib/pontoon"
        tls_dir = "/etc/pontoon/tls"
        controllers = ["127.0.0.1:7711"]
        listen_ip = "10.0.0.5"
    "#;

    fn parse(text: &str) -> Result<Config, String> {
        let config: Config = toml::from_str(text).map_err(|error| error.to_string())?;
        config.check().map_err(|error| error.to_string())?;
        Ok(config)
    }

    #[test]
    fn a_small_file_is_enough() {
        let config = parse(SMALL).unwrap();
        assert_eq!((config.runtime, config.cluster.as_str()), (RuntimeChoice::Auto, "pontoon"));
        assert_eq!(config.ports.0, 20_000..=29_999);
    }

    #[test]
    fn a_relative_path_begins_at_the_folder_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        fs::write(folder.path().join("ca.pem"), "").unwrap();
        let relative = SMALL.replace("/var/lib/pontoon", "data").replace("/etc/pontoon/tls", "tls");
        fs::write(&path, format!("{relative}\nca_bundle = \"ca.pem\"")).unwrap();
        let config = Config::load(&path).unwrap();
        let of_file = |name: &str| folder.path().join(name);
        assert_eq!((config.data_dir, config.tls_dir), (of_file("data"), of_file("tls")));
        assert_eq!(config.ca_bundle, Some(of_file("ca.pem")));
        fs::write(&path, SMALL).unwrap();
        assert_eq!(Config::load(&path).unwrap().data_dir, Path::new("/var/lib/pontoon"));
    }

    #[test]
    fn all_that_can_be_set_is_read() {
        let config = parse(&format!(
            "{SMALL}\nports = \"20000-20009\"\nmemory = \"2G\"\nruntime = \"process\"\ncluster = \"dev\""
        ))
        .unwrap();
        assert_eq!(config.ports.0, 20_000..=20_009);
        assert_eq!(config.memory, Some(MemoryBytes::mib(2048)));
        assert_eq!(config.runtime, RuntimeChoice::Process);
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_the_reason() {
        for (line, reason) in [
            ("ports = \"80-90\"", "1024"),
            ("ports = \"30-20\"", "1024"),
            ("ports = \"many\"", "20000-20999"),
            ("memory = \"lots\"", "256M"),
            ("cluster = \"My Cluster\"", "a-z"),
            ("colour = \"red\"", "colour"),
            ("runtime = \"podman\"", "podman"),
        ] {
            let error = parse(&format!("{SMALL}\n{line}")).unwrap_err();
            assert!(error.contains(reason), "{line}: {error}");
        }
        let error = parse(&SMALL.replace("10.0.0.5", "0.0.0.0")).unwrap_err();
        assert!(error.contains("private address"), "{error}");
        let error = parse(&SMALL.replace("\"127.0.0.1:7711\"", "")).unwrap_err();
        assert!(error.contains("at least one"), "{error}");
    }
}
