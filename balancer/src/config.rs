//! A balancer's configuration file: read and checked before anything is touched.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use pontoon_model::{BalancerName, SiteName};
use serde::Deserialize;

use crate::access_log::AccessLogConfig;

/// More workers than this are a typing error: each is a thread with its own listener and connections.
const MOST_WORKERS: usize = 256;

/// Settings of one balancer (TOML). What it routes comes from the controllers.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Its name, unique in the cluster, as its certificate says.
    pub name: BalancerName,
    /// Where it stands: servos of this site are tried first.
    pub site: SiteName,
    /// Where it keeps its last route table.
    pub data_dir: PathBuf,
    /// Holds `ca.pem`, `cert.pem` and `key.pem`.
    pub tls_dir: PathBuf,
    /// gRPC addresses of the controllers, nearest first.
    pub controllers: Vec<SocketAddr>,
    /// Where it listens for HTTP; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where users reach `listen`, if not at that address (e.g. when it listens on 0.0.0.0).
    #[serde(default)]
    pub listen_advertised: Option<SocketAddr>,
    /// Where it listens for HTTPS; nowhere if not given. Certificates come from the controllers.
    #[serde(default)]
    pub listen_tls: Option<SocketAddr>,
    /// Where it listens for the balancers of other sites, which send requests for this site's servos: an address of the
    /// private network. Only who has a balancer's certificate of the cluster is heard.
    #[serde(default)]
    pub peer_listen: Option<SocketAddr>,
    /// Where the others reach `peer_listen`, if not at that address (0.0.0.0, or behind NAT with a forwarded port).
    #[serde(default)]
    pub peer_advertised: Option<SocketAddr>,
    /// Whether it connects to the others itself because they cannot reach it, and is asked on these connections. If not given:
    /// yes, unless it listens for them.
    #[serde(default)]
    pub dial_out: Option<bool>,
    /// Whether every connection of users begins with a header of the PROXY protocol (version 1 or 2), as a load balancer in
    /// front sends it. One that does not is ended: whoever may leave it out may also write one of their own.
    #[serde(default)]
    pub proxy_protocol: bool,
    /// How HTTP/1.1 is carried.
    #[serde(default)]
    pub http1: Http1,
    /// Threads that carry requests; as many as there are cores if not given.
    #[serde(default)]
    pub workers: Option<usize>,
    /// Where and how requests are noted; nowhere if not given.
    #[serde(default)]
    pub access_log: Option<AccessLogConfig>,
    /// Where it answers `/healthz` and `/metrics`; nowhere if not given.
    #[serde(default)]
    pub admin_listen: Option<SocketAddr>,
}

/// How HTTP/1.1 is carried. Both follow the same rules, and what is not plain goes hyper's way in any case.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Http1 {
    /// Plain requests from socket to socket.
    #[default]
    Fast,
    /// All by the library hyper.
    Hyper,
}

/// Why a configuration file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not TOML of this form.
    #[error("the configuration file {} does not parse", path.display())]
    Parse {
        /// Which.
        path: PathBuf,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A value makes no sense.
    #[error("the configuration of balancer {name} cannot be used: {problem}")]
    Invalid {
        /// Of which balancer.
        name: BalancerName,
        /// What to change.
        problem: String,
    },
}

impl Config {
    /// Reads and checks the file at `path`. Relative paths in it are relative to its folder.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        let mut config: Self = toml::from_str(&text)
            .map_err(|source| ConfigError::Parse { path: path.to_owned(), source: Box::new(source) })?;
        let folder = path.parent().unwrap_or(Path::new("."));
        // `-` is no file.
        let log = config.access_log.as_mut().map(|log| &mut log.path).filter(|path| **path != Path::new("-"));
        for given in [&mut config.data_dir, &mut config.tls_dir].into_iter().chain(log) {
            *given = folder.join(&*given);
        }
        config.validate()?;
        Ok(config)
    }

    /// Checks what types cannot say.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let invalid = |problem: String| Err(ConfigError::Invalid { name: self.name.clone(), problem });
        if self.controllers.is_empty() {
            return invalid("controllers is empty; name at least one controller's gRPC address".into());
        }
        if self.controllers.iter().collect::<BTreeSet<_>>().len() != self.controllers.len() {
            return invalid("controllers names the same address twice".into());
        }
        if let Some(address) = self.controllers.iter().find(|address| address.port() == 0) {
            return invalid(format!("the controller address {address} has no port"));
        }
        if let Some(workers) = self.workers.filter(|&workers| workers == 0 || workers > MOST_WORKERS) {
            return invalid(format!("workers is {workers}; use 1 to {MOST_WORKERS}"));
        }
        if let Some(sample) = self.access_log.as_ref().map(|log| log.sample).filter(|s| !(*s > 0.0 && *s <= 1.0)) {
            return invalid(format!("the sample of access_log is {sample}; it may be above 0 and up to 1"));
        }
        match (self.peer_listen, self.peer_advertised) {
            (None, Some(_)) => {
                return invalid("peer_advertised is where others reach peer_listen, which is not given".into());
            }
            (Some(listen), None) if listen.ip().is_unspecified() => {
                return invalid(format!(
                    "peer_listen is {listen}; give peer_advertised, where the other balancers reach it"
                ));
            }
            (Some(_), Some(advertised)) if advertised.ip().is_unspecified() || advertised.port() == 0 => {
                return invalid(format!("peer_advertised is {advertised}, which nobody can dial"));
            }
            (Some(_), _) if self.dial_out == Some(true) => {
                return invalid(
                    "dial_out is for a balancer that nobody can dial; leave out peer_listen, or dial_out".into(),
                );
            }
            _ => {}
        }
        let listens = [
            ("listen", Some(self.listen)),
            ("listen_tls", self.listen_tls),
            ("peer_listen", self.peer_listen),
            ("admin_listen", self.admin_listen),
        ];
        let listens: Vec<_> = listens.iter().filter_map(|(name, address)| Some((name, (*address)?))).collect();
        for (at, (name, address)) in listens.iter().enumerate().filter(|(_, (_, address))| address.port() != 0) {
            if let Some((other, _)) = listens[..at].iter().find(|(_, other)| other == address) {
                return invalid(format!("{other} and {name} are both {address}"));
            }
        }
        Ok(())
    }

    /// Whether it connects to the balancers of other sites because they cannot connect to it.
    pub(crate) fn dials_out(&self) -> bool {
        self.dial_out.unwrap_or(self.peer_listen.is_none())
    }

    /// How many threads carry requests.
    pub(crate) fn worker_count(&self) -> usize {
        self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
        name = "b1"
        site = "home.attic"
        data_dir = "/var/lib/pontoon/balancer"
        tls_dir = "/etc/pontoon/tls"
        controllers = ["10.0.0.1:7711", "10.0.0.2:7711"]
        listen = "0.0.0.0:80"
    "#;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("balancer.toml");
        fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    #[test]
    fn a_short_file_is_enough() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.controllers.len(), 2);
        assert!(config.worker_count() >= 1);
        assert_eq!(config.admin_listen, None);
    }

    #[test]
    fn a_relative_path_begins_at_the_folder_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("balancer.toml");
        let relative = GOOD.replace("/var/lib/pontoon/balancer", "data").replace("/etc/pontoon/tls", "tls");
        let load = |text: String| {
            fs::write(&path, text).unwrap();
            Config::load(&path).unwrap()
        };
        let of_file = |name: &str| folder.path().join(name);
        let config = load(format!("{relative}\n[access_log]\npath = \"log\""));
        assert_eq!((config.data_dir, config.tls_dir), (of_file("data"), of_file("tls")));
        assert_eq!(config.access_log.unwrap().path, of_file("log"));
        let config = load(format!("{GOOD}\n[access_log]\npath = \"-\""));
        assert_eq!(config.data_dir, Path::new("/var/lib/pontoon/balancer"));
        assert_eq!(config.access_log.unwrap().path, Path::new("-"), "standard output");
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (from, to, says) in [
            (r#"["10.0.0.1:7711", "10.0.0.2:7711"]"#, "[]", "at least one controller"),
            ("10.0.0.2:7711", "10.0.0.1:7711", "twice"),
            ("10.0.0.2:7711", "10.0.0.2:0", "no port"),
            ("listen = ", "workers = 0\nlisten = ", "use 1 to 256"),
            ("listen = ", "admin_listen = \"0.0.0.0:80\"\nlisten = ", "listen and admin_listen are both 0.0.0.0:80"),
            (
                "listen = \"0.0.0.0:80\"",
                "listen = \"0.0.0.0:80\"\n[access_log]\npath = \"-\"\nsample = 0.0",
                "above 0 and up to 1",
            ),
            ("listen = ", "listen_tls = \"0.0.0.0:80\"\nlisten = ", "listen and listen_tls are both"),
            ("listen = ", "peer_advertised = \"10.0.0.1:7720\"\nlisten = ", "peer_listen, which is not given"),
            ("listen = ", "peer_listen = \"0.0.0.0:7720\"\nlisten = ", "give peer_advertised"),
            (
                "listen = ",
                "peer_listen = \"0.0.0.0:7720\"\npeer_advertised = \"10.0.0.1:0\"\nlisten = ",
                "nobody can dial",
            ),
            ("listen = ", "peer_listen = \"10.0.0.1:7720\"\ndial_out = true\nlisten = ", "leave out peer_listen"),
        ] {
            let error = load(&GOOD.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
        assert!(matches!(load(&format!("{GOOD}\ntypo = 1")), Err(ConfigError::Parse { .. })));
        assert!(matches!(load("name = \"No Name\""), Err(ConfigError::Parse { .. })));
    }
}
