//! `pontoon agent join`, `pontoon balancer join`: makes this machine one of the cluster's, with a token. Writes its key, its
//! certificate and its configuration; what runs it afterwards (systemd, a shell) is told at the end.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use pontoon_enrol::{Admitted, Who, join};
use pontoon_kit::pki::JoinText;
use pontoon_kit::{Role, file};
use pontoon_model::{BalancerName, HostName, SiteName};

use super::block_on;
use crate::Usage;
use crate::output;
use crate::role::files::{AgentFile, BalancerFile, toml_of};

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
}

/// Joins as an agent's host.
pub fn agent(args: &AgentJoin) -> anyhow::Result<()> {
    let place = Place::of(&args.join, Role::Agent)?;
    let name: HostName = args.join.name_or_host()?;
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
    place.join(name.as_str(), &args.join.site, file, |path| Ok(pontoon_agent::Config::load(path).map(drop)?))
}

/// Joins as a balancer.
pub fn balancer(args: &BalancerJoin) -> anyhow::Result<()> {
    let place = Place::of(&args.join, Role::Balancer)?;
    let name: BalancerName = args.join.name_or_host()?;
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
            listen_advertised: everywhere.then(|| SocketAddr::new(place.own_ip, args.listen.port())),
        })
    };
    place.join(name.as_str(), &args.join.site, file, |path| Ok(pontoon_balancer::Config::load(path).map(drop)?))
}

impl JoinArgs {
    /// The name given, else this machine's; checked before anything is touched.
    pub(super) fn name_or_host<N: std::str::FromStr<Err = pontoon_model::InvalidName>>(&self) -> anyhow::Result<N> {
        name_or_host(self.name.as_deref())
    }
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
        if config.exists() {
            anyhow::bail!(
                "{} is there already: this machine has joined before; start it with `pontoon {role} --config {}`, or remove \
                 the folder to join anew",
                config.display(),
                config.display()
            );
        }
        let found = args.address.to_socket_addrs().ok().and_then(|mut all| all.next());
        let address = found.ok_or_else(|| {
            Usage(format!("{:?} is no address of a controller; write for example 10.0.0.5:7710", args.address))
        })?;
        let reached = TcpStream::connect_timeout(&address, REACH);
        let reached = reached.with_context(|| format!("no controller can be reached at {address}"))?;
        let own_ip = reached.local_addr().with_context(|| format!("no way to {address}"))?.ip();
        Ok(Self { role, address, token, folder, own_ip })
    }

    /// Asks to be let in, writes the configuration and says how to go on. What `file` makes is tried before anybody is asked:
    /// a token is not used up for what cannot be run.
    pub(super) fn join(
        &self,
        name: &str,
        site: &SiteName,
        file: impl Fn(&Admitted) -> String,
        check: impl Fn(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let nobody_yet = Admitted {
            certificate: String::new(),
            roots: String::new(),
            cluster: "pontoon".to_owned(),
            controllers: Vec::new(),
        };
        check_text(&file(&nobody_yet), &check)?;
        make_folder(&self.folder)?;
        let who = Who { role: self.role, name, site: Some(site) };
        let tls = self.folder.join("tls");
        let admitted = block_on(async { Ok(join(self.address, &self.token, &who, &tls).await?) })?;
        self.finish(name, &file(&admitted), &admitted, check)
    }

    /// Where the controllers are: the one that answered first, which certainly can be reached.
    fn controllers(&self, admitted: &Admitted) -> Vec<SocketAddr> {
        let others = admitted.controllers.iter().map(|contact| contact.grpc).filter(|grpc| *grpc != self.address);
        std::iter::once(self.address).chain(others).collect()
    }

    fn finish(
        &self,
        name: &str,
        config: &str,
        admitted: &Admitted,
        check: impl FnOnce(&Path) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let Self { role, folder, .. } = self;
        make_folder(&folder.join("data"))?;
        let path = folder.join("config.toml");
        let written = file::replace(&path, config.as_bytes(), 0o600);
        written.with_context(|| format!("cannot write {}", path.display()))?;
        check(&path).with_context(|| format!("{} must be corrected before it can be used", path.display()))?;
        output::line(&format!(
            "{role} {name} belongs to cluster {}; start it with\n\n    pontoon {role} --config {}",
            admitted.cluster,
            path.display()
        ))?;
        Ok(())
    }
}

/// Tries a configuration file that is not there yet.
pub(super) fn check_text(text: &str, check: impl Fn(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let folder = tempfile::tempdir().context("no place for a temporary file")?;
    let path = folder.path().join("config.toml");
    fs::write(&path, text).context("no place for a temporary file")?;
    check(&path).map_err(|error| {
        let sentences: Vec<_> = error.chain().map(ToString::to_string).collect();
        // Where it was tried says nothing to whoever reads it.
        let said = sentences.join(": ").replace(&path.display().to_string(), "config.toml");
        Usage(format!("that cannot be run, and nothing was done: {said}")).into()
    })
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
