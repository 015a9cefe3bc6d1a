//! `pontoon agent join`, `pontoon balancer join`: makes this machine one of the cluster's, with a token. Writes its key, its
//! certificate and its configuration; what runs it afterwards (systemd, a shell) is told at the end.

use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use pontoon_enrol::{Admitted, JoinError, Who, join};
use pontoon_kit::pki::JoinText;
use pontoon_kit::{Identity, PkiError, Role, file};
use pontoon_model::{BalancerName, HostName, SiteName};
use serde_json::json;

use super::block_on;
use super::init::GRPC_PORT;
use crate::Usage;
use crate::args::Format;
use crate::output;
use crate::role::files::{AgentFile, BalancerFile, toml_of};
use crate::role::{check_agent, check_balancer};
use crate::small_file::{self, MOST_TOML};

/// A controller that does not accept within this time is not there.
const REACH: Duration = Duration::from_secs(5);

/// What every role's `join` is told.
#[derive(Debug, Args)]
pub struct JoinArgs {
    /// Where a controller of the cluster listens for machines, e.g. 10.0.0.5:7710
    #[arg(value_name = "ADDR")]
    pub address: String,
    /// The token, as `pontoon token create --role ROLE` printed it
    #[arg(long, env = "PONTOON_JOIN_TOKEN", hide_env_values = true)]
    pub token: String,
    /// This machine's name in the cluster; without it, its host name
    #[arg(long)]
    pub name: Option<String>,
    /// Where it stands: machines of one site fail together
    #[arg(long, default_value = "main")]
    pub site: SiteName,
    /// Where key, certificate, configuration and data are kept; without it, /var/lib/pontoon/ROLE
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
}

/// Arguments of `agent join`.
#[derive(Debug, Args)]
pub struct AgentJoin {
    #[command(flatten)]
    join: JoinArgs,
    /// The address on which servos are published; without it, the one from which the controller is reached
    #[arg(long)]
    listen_ip: Option<IpAddr>,
    /// Ports from which servos get theirs
    #[arg(long, default_value = "20000-29999")]
    ports: String,
    /// How servos run: auto, docker or process
    #[arg(long, default_value = "auto")]
    runtime: String,
    /// Memory offered to servos, e.g. 2G; without it, what the machine has
    #[arg(long)]
    memory: Option<String>,
}

/// Arguments of `balancer join`.
#[derive(Debug, Args)]
pub struct BalancerJoin {
    #[command(flatten)]
    join: JoinArgs,
    /// Where it listens for HTTP
    #[arg(long, default_value = "0.0.0.0:80")]
    listen: SocketAddr,
    /// Where it listens for HTTPS, e.g. 0.0.0.0:443; without it, nowhere. `pontoon cert add` gives it certificates
    #[arg(long, value_name = "ADDR")]
    listen_tls: Option<SocketAddr>,
    /// Where it listens for the balancers of other sites, e.g. 0.0.0.0:7720; a port for no one else. Without it, it connects to
    /// them itself
    #[arg(long, value_name = "ADDR", conflicts_with = "dial_out")]
    peer_listen: Option<SocketAddr>,
    /// Where the balancers of other sites reach --peer-listen; without it, at the address from which the controller is reached
    #[arg(long, value_name = "ADDR", requires = "peer_listen")]
    peer_advertised: Option<SocketAddr>,
    /// It connects to the balancers of other sites itself because they cannot reach it (behind NAT); false: it has nothing to do
    /// with them
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    dial_out: Option<bool>,
}

/// Joins as an agent's host.
pub fn agent(args: &AgentJoin, format: Format) -> anyhow::Result<()> {
    let place = Place::of(&args.join, Role::Agent)?;
    let name: HostName = place.name(&args.join)?;
    let file = |admitted: &Admitted| {
        toml_of(&AgentFile {
            name: &name,
            site: &args.join.site,
            cluster: &admitted.cluster,
            data_dir: &place.folder.join("data"),
            tls_dir: place.folder.join("tls"),
            controllers: place.controllers(admitted),
            runtime: &args.runtime,
            listen_ip: args.listen_ip.unwrap_or(place.own_ip),
            ports: &args.ports,
            memory: args.memory.clone(),
            stop_servos_on_exit: false,
        })
    };
    place.join(name.as_str(), &args.join.site, file, check_agent, format)
}

/// Joins as a balancer.
pub fn balancer(args: &BalancerJoin, format: Format) -> anyhow::Result<()> {
    let place = Place::of(&args.join, Role::Balancer)?;
    let name: BalancerName = place.name(&args.join)?;
    let everywhere = args.listen.ip().is_unspecified();
    let file = |admitted: &Admitted| {
        toml_of(&BalancerFile {
            name: &name,
            site: &args.join.site,
            data_dir: &place.folder.join("data"),
            tls_dir: place.folder.join("tls"),
            controllers: place.controllers(admitted),
            listen: args.listen,
            listen_tls: args.listen_tls,
            peer_listen: args.peer_listen,
            peer_advertised: args.peer_advertised.or_else(|| own_peer_address(args.peer_listen, place.own_ip)),
            dial_out: args.dial_out,
            listen_advertised: everywhere.then(|| SocketAddr::new(place.own_ip, args.listen.port())),
        })
    };
    place.join(name.as_str(), &args.join.site, file, check_balancer, format)
}

/// Where the others reach a listener on every address: where the controller sees this machine.
fn own_peer_address(listen: Option<SocketAddr>, own_ip: IpAddr) -> Option<SocketAddr> {
    let listen = listen.filter(|listen| listen.ip().is_unspecified())?;
    Some(SocketAddr::new(own_ip, listen.port()))
}

/// `given`, else this machine's host name.
pub(super) fn name_or_host<N: std::str::FromStr<Err = pontoon_model::InvalidName>>(
    given: Option<&str>,
) -> anyhow::Result<N> {
    if let Some(given) = given {
        return given.parse().map_err(|error| Usage(format!("{error}")).into());
    }
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let short = host.trim().split('.').next().unwrap_or_default().to_ascii_lowercase();
    short.parse().map_err(|_| {
        Usage(format!("this machine's host name {short:?} cannot be its name in the cluster; give --name")).into()
    })
}

/// Where a machine joins, and with what.
pub(super) struct Place {
    role: Role,
    address: SocketAddr,
    token: JoinText,
    folder: PathBuf,
    /// From where the controller is reached.
    pub(super) own_ip: IpAddr,
    /// What is there from an earlier time, and lacks its key or its certificate only.
    kept: Option<Kept>,
}

/// A configuration that stays as it is.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) name: String,
    site: SiteName,
    pub(super) tls: PathBuf,
}

impl Kept {
    /// None where there is no configuration; an error where nothing is lacking.
    pub(super) fn at(config: &Path, role: Role) -> anyhow::Result<Option<Self>> {
        if !config.exists() {
            return Ok(None);
        }
        let kept = Self::read(config)?;
        match Identity::load_usable(&kept.tls) {
            Ok(_) => anyhow::bail!(
                "{} is there already: start what it describes with `pontoon {role} --config {}`, or remove the folder to begin \
                 anew",
                config.display(),
                config.display()
            ),
            // It is there, and needs no other.
            Err(error @ PkiError::Exposed { .. }) => return Err(error.into()),
            Err(error) => output::note(&format!(
                "this machine is {role} {} already, but {error}: it gets another certificate; its configuration and its data \
                 stay as they are",
                kept.name
            )),
        }
        Ok(Some(kept))
    }

    fn read(config: &Path) -> anyhow::Result<Self> {
        /// What of every role's configuration says who it is.
        #[derive(serde::Deserialize)]
        struct Own {
            name: String,
            site: SiteName,
            tls_dir: PathBuf,
        }
        let text = small_file::read(config, MOST_TOML).with_context(|| format!("cannot read {}", config.display()))?;
        let Own { name, site, tls_dir } =
            toml::from_str(&text).with_context(|| format!("{} must be corrected first", config.display()))?;
        let folder = config.parent().unwrap_or(Path::new("."));
        Ok(Self { name, site, tls: folder.join(tls_dir) })
    }
}

impl Place {
    /// The controller that is asked.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Checks everything that can be checked before anybody is asked.
    pub(super) fn of(args: &JoinArgs, role: Role) -> anyhow::Result<Self> {
        let token: JoinText = args.token.parse().map_err(Usage)?;
        let folder = folder_of(args.data_dir.as_deref(), role)?;
        let config = folder.join("config.toml");
        let kept = Kept::at(&config, role)?;
        let address = address_of(&args.address)?;
        let reached = TcpStream::connect_timeout(&address, REACH).map_err(|error| not_reached(address, &error))?;
        let own_ip = reached.local_addr().with_context(|| format!("no way to {address}"))?.ip();
        Ok(Self { role, address, token, folder, own_ip, kept })
    }

    /// The name of before, else the one given, else this machine's.
    pub(super) fn name<N: std::str::FromStr<Err = pontoon_model::InvalidName>>(
        &self,
        args: &JoinArgs,
    ) -> anyhow::Result<N> {
        match (&self.kept, &args.name) {
            (Some(kept), Some(given)) if *given != kept.name => Err(Usage(format!(
                "{} is {} {} by its configuration: leave out --name to get it another certificate, or remove that folder to \
                 join as {given}",
                self.folder.display(),
                self.role,
                kept.name
            ))
            .into()),
            (Some(kept), _) => name_or_host(Some(&kept.name)),
            (None, given) => name_or_host(given.as_deref()),
        }
    }

    /// Asks to be let in, writes the configuration and says how to go on. What `file` makes is tried before anybody is asked:
    /// a token is not used up for what cannot be run.
    pub(super) fn join(
        &self,
        name: &str,
        site: &SiteName,
        file: impl Fn(&Admitted) -> String,
        check: impl Fn(&Path) -> anyhow::Result<()>,
        format: Format,
    ) -> anyhow::Result<()> {
        if let Some(kept) = &self.kept {
            let admitted = self.ask(name, &kept.site, &kept.tls)?;
            return self.finish(name, None, &admitted, check, format);
        }
        let nobody_yet = Admitted {
            certificate: String::new(),
            roots: String::new(),
            cluster: "pontoon".to_owned(),
            controllers: Vec::new(),
        };
        check_text(&file(&nobody_yet), &check)?;
        make_folder(&self.folder)?;
        let admitted = self.ask(name, site, &self.folder.join("tls"))?;
        let text = file(&admitted);
        // Now with who else there is: another may have the same address.
        if let Some(said) = what_is_wrong(&text, &check)? {
            // With its key it gets another; with both, it would be taken for a machine that runs.
            let certificate = self.folder.join("tls/cert.pem");
            fs::remove_file(&certificate).with_context(|| format!("cannot remove {}", certificate.display()))?;
            return Err(Usage(format!(
                "the cluster has let this machine in as {name}, but what was asked for cannot be run: {said}. Run this again with \
                 the same --data-dir and other options; the token is not used a second time"
            ))
            .into());
        }
        self.finish(name, Some(&text), &admitted, check, format)
    }

    fn ask(&self, name: &str, site: &SiteName, tls: &Path) -> anyhow::Result<Admitted> {
        let who = Who { role: self.role, name, site: Some(site) };
        block_on(async { join(self.address, &self.token, &who, tls).await.map_err(in_words) })
    }

    /// Where the controllers are: the one that answered first, which certainly can be reached.
    fn controllers(&self, admitted: &Admitted) -> Vec<SocketAddr> {
        let others = admitted.controllers.iter().map(|contact| contact.grpc).filter(|grpc| *grpc != self.address);
        std::iter::once(self.address).chain(others).collect()
    }

    fn finish(
        &self,
        name: &str,
        config: Option<&str>,
        admitted: &Admitted,
        check: impl FnOnce(&Path) -> anyhow::Result<()>,
        format: Format,
    ) -> anyhow::Result<()> {
        let Self { role, folder, .. } = self;
        if config.is_some() {
            make_folder(&folder.join("data"))?;
        }
        let path = folder.join("config.toml");
        if let Some(config) = config {
            let written = file::replace(&path, config.as_bytes(), 0o600);
            written.with_context(|| format!("cannot write {}", path.display()))?;
        }
        check(&path).with_context(|| format!("{} must be corrected before it can be used", path.display()))?;
        let joined = json!({ "role": role.label(), "name": name, "cluster": admitted.cluster, "config": path });
        Ok(output::print(format, &joined, |_| {
            format!(
                "{role} {name} belongs to cluster {}; start it with\n\n    pontoon {role} --config {}",
                admitted.cluster,
                path.display()
            )
        })?)
    }
}

/// The first address that `text` stands for.
fn address_of(text: &str) -> anyhow::Result<SocketAddr> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let host = rest.trim_end_matches('/').rsplit_once(':').map_or(rest, |(host, _)| host);
        return Err(Usage(format!(
            "{text} is the {scheme} address that people use; machines join at another port: write {host}:{GRPC_PORT}, or what \
             `pontoon controllers` shows as GRPC"
        ))
        .into());
    }
    let (host, port) =
        text.rsplit_once(':').filter(|(host, _)| !host.contains(':') || host.ends_with(']')).ok_or_else(|| {
            let host = if text.contains(':') { format!("[{text}]") } else { text.to_owned() };
            Usage(format!("{text} has no port: write {host}:{GRPC_PORT}, or what `pontoon controllers` shows as GRPC"))
        })?;
    if port.parse::<u16>().is_err() {
        return Err(
            Usage(format!("{port} is no port: write a number up to 65535, for example {host}:{GRPC_PORT}")).into()
        );
    }
    let unknown = |why: String| {
        anyhow::anyhow!(
            "{host} is not known to this machine ({why}): check its spelling, or write the controller's IP address"
        )
    };
    let mut found = text.to_socket_addrs().map_err(|error| unknown(error.to_string()))?;
    found.next().ok_or_else(|| unknown("it has no address".into()))
}

fn not_reached(address: SocketAddr, error: &io::Error) -> anyhow::Error {
    let why = match error.kind() {
        io::ErrorKind::ConnectionRefused => {
            "that machine is there, but nothing listens on this port: does the controller run, and is it the port that \
             `pontoon controllers` shows as GRPC?"
                .to_owned()
        }
        io::ErrorKind::TimedOut => format!(
            "nothing has come back for {} s: is it the right address, and does a firewall let this port through?",
            REACH.as_secs()
        ),
        _ => error.to_string(),
    };
    anyhow::anyhow!("no controller can be reached at {address}: {why}")
}

/// What is wrong where a controller's other port answers.
fn in_words(error: JoinError) -> anyhow::Error {
    match &error {
        // TLS and HTTP, but an answer that is none to a machine.
        JoinError::Unreachable { address, why } if why.contains("protocol error") => anyhow::anyhow!(
            "what answers at {address} speaks HTTP with people (REST), and machines join at another port of a controller: write \
             {}:{GRPC_PORT}, or what `pontoon controllers` shows as GRPC",
            host_of(address)
        ),
        JoinError::NotTls { address } => anyhow::anyhow!(
            "what answers at {address} does not speak TLS, as the port for people without `rest_tls`; machines join at another: \
             write {}:{GRPC_PORT}, or what `pontoon controllers` shows as GRPC",
            host_of(address)
        ),
        JoinError::Role { .. } => Usage(error.to_string()).into(),
        _ => error.into(),
    }
}

fn host_of(address: &SocketAddr) -> String {
    match address.ip() {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    }
}

/// Tries a configuration file that is not there yet.
pub(super) fn check_text(text: &str, check: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    match what_is_wrong(text, check)? {
        Some(said) => Err(Usage(format!("that cannot be run, and nothing was done: {said}")).into()),
        None => Ok(()),
    }
}

/// Of a configuration that is not written yet.
fn what_is_wrong(text: &str, check: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<Option<String>> {
    let folder = tempfile::tempdir().context("no place for a temporary file")?;
    let path = folder.path().join("config.toml");
    fs::write(&path, text).context("no place for a temporary file")?;
    Ok(check(&path).err().map(|error| {
        let sentences: Vec<_> = error.chain().map(ToString::to_string).collect();
        // Where it was tried says nothing to whoever reads it.
        sentences.join(": ").replace(&path.display().to_string(), "config.toml")
    }))
}

/// The folder given, else `/var/lib/pontoon/ROLE`; absolute.
pub(super) fn folder_of(given: Option<&Path>, role: Role) -> anyhow::Result<PathBuf> {
    let folder = given.map_or_else(|| Path::new("/var/lib/pontoon").join(role.label()), Path::to_owned);
    std::path::absolute(&folder).with_context(|| format!("cannot use the folder {}", folder.display()))
}

/// Makes a folder that only its owner may look into.
pub(super) fn make_folder(folder: &Path) -> anyhow::Result<()> {
    crate::context::make_private_folder(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_with_an_address_is_told_with_what_to_write() {
        for (text, said) in [
            ("c1.example.org", "c1.example.org has no port: write c1.example.org:7710"),
            ("10.0.0.5", "write 10.0.0.5:7710"),
            ("fd00::5", "write [fd00::5]:7710"),
            ("10.0.0.5:70000", "70000 is no port"),
            ("10.0.0.5:grpc", "grpc is no port"),
            ("https://10.0.0.5:7700", "write 10.0.0.5:7710"),
        ] {
            let error = address_of(text).unwrap_err();
            assert!(error.is::<Usage>() && error.to_string().contains(said), "{text}: {error}");
        }
        assert_eq!(address_of("[::1]:7710").unwrap().port(), 7710);
        // Names that end so are never there (RFC 6761).
        let error = address_of("nobody.invalid:7710").unwrap_err();
        assert!(!error.is::<Usage>() && error.to_string().contains("nobody.invalid is not known"), "{error}");
        let refused = not_reached(([127, 0, 0, 1], 1).into(), &io::ErrorKind::ConnectionRefused.into()).to_string();
        assert!(refused.contains("nothing listens"), "{refused}");
    }
    #[test]
    fn the_other_port_of_a_controller_is_told_apart() {
        let address: SocketAddr = "[fd00::5]:7700".parse().unwrap();
        let why =
            "code: 'Internal error', message: \"protocol error: received message with invalid compression flag: 123\"";
        let said = in_words(JoinError::Unreachable { address, why: why.into() }).to_string();
        assert!(said.contains("speaks HTTP with people") && said.contains("write [fd00::5]:7710"), "{said}");
        let said = in_words(JoinError::NotTls { address: "10.0.0.5:7700".parse().unwrap() }).to_string();
        assert!(said.contains("does not speak TLS") && said.contains("write 10.0.0.5:7710"), "{said}");
        let said = in_words(JoinError::Unreachable { address, why: "connection reset".into() }).to_string();
        assert!(said.contains("connection reset"), "{said}");
    }
}
