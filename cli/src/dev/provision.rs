//! A cluster's configuration on disk: made once, found again at every start. For `pontoon dev` and for tests; the
//! files are those that `pontoon controller|agent|balancer --config FILE` take.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use pontoon_kit::pki::new_api_token;
use pontoon_kit::{Authority, PkiError, Role, file};
use pontoon_model::{BalancerName, ControllerName, HostName, MemoryBytes, SiteName};
use serde::{Deserialize, Serialize};

use crate::context::Context;
use crate::role::files::{AgentFile, BalancerFile, ControllerFile, FoundingFile, Member, toml_of};
use crate::verb::init::new_id;

/// Below it apps are reached: every machine leads it to itself.
pub const BASE_DOMAIN: &str = "localhost";

/// What is made once: names and ids that must never change.
const KEPT: &str = "cluster.toml";

/// What a cluster on one machine consists of.
#[derive(Debug, Clone)]
pub struct Layout {
    /// Everything is kept below; an absolute path.
    pub data_dir: PathBuf,
    /// The cluster's name in Docker labels begins with it; the rest is random.
    pub cluster_prefix: String,
    /// The controllers.
    pub controllers: Vec<ControllerLayout>,
    /// The hosts' agents.
    pub agents: Vec<AgentLayout>,
    /// The balancers.
    pub balancers: Vec<BalancerLayout>,
    /// `auto`, `docker` or `process`.
    pub runtime: String,
    /// Default host names are `APP.BASE_DOMAIN`.
    pub base_domain: String,
    /// Whether an agent that is told to end takes its servos with it.
    pub stop_servos_on_exit: bool,
}

/// One controller.
#[derive(Debug, Clone)]
pub struct ControllerLayout {
    /// Its name.
    pub name: ControllerName,
    /// Where it stands.
    pub site: SiteName,
    /// Where it listens for people.
    pub rest: SocketAddr,
    /// Where it listens for the other roles; the same at every start.
    pub grpc: SocketAddr,
}

/// One host.
#[derive(Debug, Clone)]
pub struct AgentLayout {
    /// Its name.
    pub name: HostName,
    /// Where it stands.
    pub site: SiteName,
    /// Outside ports of its servos, e.g. `20000-20999`.
    pub ports: String,
    /// For servos; without it, what the machine has.
    pub memory: Option<MemoryBytes>,
}

/// One balancer.
#[derive(Debug, Clone)]
pub struct BalancerLayout {
    /// Its name.
    pub name: BalancerName,
    /// Where it stands.
    pub site: SiteName,
    /// Where it listens for HTTP.
    pub listen: SocketAddr,
    /// Where it listens for HTTPS, if at all.
    pub listen_tls: Option<SocketAddr>,
    /// Where it listens for the balancers of other sites, if at all.
    pub peer_listen: Option<SocketAddr>,
}

/// Where the configuration files are, in the layout's order.
#[derive(Debug, Clone)]
pub struct ClusterFiles {
    /// One per controller.
    pub controllers: Vec<RoleFile>,
    /// One per agent.
    pub agents: Vec<RoleFile>,
    /// One per balancer.
    pub balancers: Vec<RoleFile>,
    /// Where the balancers listen.
    pub listen: Vec<SocketAddr>,
    /// REST addresses and token.
    pub context: Context,
    /// The cluster's name in Docker labels.
    pub cluster: String,
}

/// One role's configuration file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleFile {
    /// The name of who is configured.
    pub name: String,
    /// Where the file is.
    pub config: PathBuf,
    /// Where the role keeps its data.
    pub data_dir: PathBuf,
}

/// Why a cluster's configuration cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// A file cannot be read or written.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was kept is not what we wrote.
    #[error("{} is not valid: without it this cluster cannot start; start a new one with another data directory", path.display())]
    Kept {
        /// Where.
        path: PathBuf,
        /// What is wrong.
        source: Box<toml::de::Error>,
    },
    /// Keys or certificates.
    #[error("cannot make the cluster's certificates")]
    Pki(#[from] PkiError),
    /// A controller that the others look for elsewhere.
    #[error(
        "controller {name} is known to the others at {kept}, not at {wanted}: keep its address, or start a new cluster"
    )]
    Moved {
        /// Which.
        name: ControllerName,
        /// Its address at the first start.
        kept: SocketAddr,
        /// Its address in the layout.
        wanted: SocketAddr,
    },
}

/// What is made once.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    cluster: String,
    controllers: Vec<Member>,
}

/// The controllers' gRPC addresses at the first start on `data_dir`; none if this is the first.
pub fn kept_grpc(data_dir: &Path) -> Result<Option<Vec<SocketAddr>>, ProvisionError> {
    Ok(load_kept(data_dir)?.map(|kept| kept.controllers.iter().map(|member| member.grpc).collect()))
}

/// Makes what is missing (authority, certificates, ids, token) and writes every role's configuration file.
pub fn provision(layout: &Layout) -> Result<ClusterFiles, ProvisionError> {
    make_folder(&layout.data_dir)?;
    let kept = keep(layout)?;
    let (token_file, token) = token(&layout.data_dir)?;
    let authority = Authority::load_or_create(&layout.data_dir.join("ca"))?;
    let maker = Maker { layout, kept: &kept, authority: &authority };
    let controllers =
        layout.controllers.iter().map(|one| maker.controller(one, &token_file)).collect::<Result<_, _>>()?;
    let agents = layout.agents.iter().map(|one| maker.agent(one)).collect::<Result<_, _>>()?;
    let balancers = layout.balancers.iter().map(|one| maker.balancer(one)).collect::<Result<_, _>>()?;
    Ok(ClusterFiles {
        controllers,
        agents,
        balancers,
        listen: layout.balancers.iter().map(|one| one.listen).collect(),
        context: Context {
            url: layout.controllers.iter().map(|one| format!("http://{}", one.rest)).collect(),
            token,
            ca: None,
            known: Vec::new(),
        },
        cluster: kept.cluster,
    })
}

/// What a role's files need.
struct Maker<'a> {
    layout: &'a Layout,
    kept: &'a Kept,
    authority: &'a Authority,
}

impl Maker<'_> {
    fn controller(&self, one: &ControllerLayout, token_file: &Path) -> Result<RoleFile, ProvisionError> {
        let member = self.kept.controllers.iter().find(|member| member.name == one.name);
        let id = member.map(|member| member.id).expect("keep() made an id for each controller");
        self.role(Role::Controller, one.name.as_str(), |data_dir, tls_dir| {
            toml_of(&ControllerFile {
                name: &one.name,
                id,
                site: &one.site,
                data_dir,
                rest: one.rest,
                rest_advertised: None,
                rest_tls: None,
                grpc: one.grpc,
                tls_dir,
                token_file: Some(token_file),
                base_domain: Some(&self.layout.base_domain),
                join: false,
                voter: true,
                founding: Some(FoundingFile { ca_dir: self.layout.data_dir.join("ca"), cluster: &self.kept.cluster }),
                members: &self.kept.controllers,
            })
        })
    }

    fn agent(&self, one: &AgentLayout) -> Result<RoleFile, ProvisionError> {
        self.role(Role::Agent, one.name.as_str(), |data_dir, tls_dir| {
            toml_of(&AgentFile {
                name: &one.name,
                site: &one.site,
                cluster: &self.kept.cluster,
                data_dir,
                tls_dir,
                controllers: self.nearest_first(&one.site),
                runtime: &self.layout.runtime,
                listen_ip: Ipv4Addr::LOCALHOST.into(),
                ports: &one.ports,
                memory: one.memory.map(|memory| memory.0.to_string()),
                stop_servos_on_exit: self.layout.stop_servos_on_exit,
            })
        })
    }

    fn balancer(&self, one: &BalancerLayout) -> Result<RoleFile, ProvisionError> {
        self.role(Role::Balancer, one.name.as_str(), |data_dir, tls_dir| {
            toml_of(&BalancerFile {
                name: &one.name,
                site: &one.site,
                data_dir,
                tls_dir,
                controllers: self.nearest_first(&one.site),
                listen: one.listen,
                listen_advertised: None,
                listen_tls: one.listen_tls,
                peer_listen: one.peer_listen,
                peer_advertised: None,
                dial_out: None,
            })
        })
    }

    /// The controllers' addresses, that of the same site first.
    fn nearest_first(&self, site: &SiteName) -> Vec<SocketAddr> {
        let (near, far): (Vec<_>, Vec<_>) = self.layout.controllers.iter().partition(|one| one.site == *site);
        near.into_iter().chain(far).map(|one| one.grpc).collect()
    }

    /// `DATA_DIR/NAME/{config.toml,tls/,data/}`
    fn role(
        &self,
        role: Role,
        name: &str,
        config: impl FnOnce(&Path, PathBuf) -> String,
    ) -> Result<RoleFile, ProvisionError> {
        let folder = self.layout.data_dir.join(format!("{role}-{name}"));
        let (tls_dir, data_dir) = (folder.join("tls"), folder.join("data"));
        make_folder(&tls_dir)?;
        make_folder(&data_dir)?;
        if !tls_dir.join("key.pem").exists() {
            self.authority.issue(role, name)?.save(&tls_dir)?;
        }
        let path = folder.join("config.toml");
        write(&path, config(&data_dir, tls_dir).as_bytes(), 0o600)?;
        Ok(RoleFile { name: name.to_owned(), config: path, data_dir })
    }
}

/// Ids and name of the cluster: those of the first start, and new ones for what is new in the layout.
fn keep(layout: &Layout) -> Result<Kept, ProvisionError> {
    let mut kept = load_kept(&layout.data_dir)?.unwrap_or_else(|| Kept {
        cluster: format!("{}-{:08x}", layout.cluster_prefix, rand::random::<u32>()),
        controllers: Vec::new(),
    });
    for one in &layout.controllers {
        match kept.controllers.iter().find(|member| member.name == one.name) {
            Some(member) if member.grpc != one.grpc => {
                return Err(ProvisionError::Moved { name: one.name.clone(), kept: member.grpc, wanted: one.grpc });
            }
            Some(_) => {}
            None => kept.controllers.push(Member { id: new_id(), name: one.name.clone(), grpc: one.grpc }),
        }
    }
    write(&layout.data_dir.join(KEPT), toml_of(&kept).as_bytes(), 0o600)?;
    Ok(kept)
}

fn load_kept(data_dir: &Path) -> Result<Option<Kept>, ProvisionError> {
    let path = data_dir.join(KEPT);
    let bytes = file::read_if_there(&path).map_err(|source| ProvisionError::File { path: path.clone(), source })?;
    let parse = |bytes: Vec<u8>| toml::from_str(&String::from_utf8_lossy(&bytes));
    bytes.map(parse).transpose().map_err(|source| ProvisionError::Kept { path, source: Box::new(source) })
}

/// The REST token and its file.
fn token(data_dir: &Path) -> Result<(PathBuf, String), ProvisionError> {
    let path = data_dir.join("token");
    let kept = file::read_if_there(&path).map_err(|source| ProvisionError::File { path: path.clone(), source })?;
    if let Some(kept) = kept {
        return Ok((path, String::from_utf8_lossy(&kept).trim().to_owned()));
    }
    let token = new_api_token();
    write(&path, format!("{token}\n").as_bytes(), 0o600)?;
    Ok((path, token))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), ProvisionError> {
    file::replace(path, bytes, mode).map_err(|source| ProvisionError::File { path: path.to_owned(), source })
}

fn make_folder(path: &Path) -> Result<(), ProvisionError> {
    fs::create_dir_all(path).map_err(|source| ProvisionError::File { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests;
