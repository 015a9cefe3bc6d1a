//! The roles' configuration files, as `dev`, `init` and `join` write them.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use pontoon_model::{BalancerName, ControllerId, ControllerName, HostName, SiteName};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Member {
    pub(crate) id: ControllerId,
    pub(crate) name: ControllerName,
    pub(crate) grpc: SocketAddr,
}

#[derive(Serialize)]
pub(crate) struct ControllerFile<'a> {
    pub(crate) name: &'a ControllerName,
    pub(crate) id: ControllerId,
    pub(crate) site: &'a SiteName,
    pub(crate) data_dir: &'a Path,
    pub(crate) rest: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rest_advertised: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) rest_tls: Option<&'a str>,
    pub(crate) grpc: SocketAddr,
    pub(crate) tls_dir: PathBuf,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) token_file: Option<&'a Path>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) base_domain: Option<&'a str>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) join: bool,
    #[serde(skip_serializing_if = "is_true")]
    pub(crate) voter: bool,
    pub(crate) members: &'a [Member],
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) founding: Option<FoundingFile<'a>>,
}

#[derive(Serialize)]
pub(crate) struct FoundingFile<'a> {
    pub(crate) ca_dir: PathBuf,
    pub(crate) cluster: &'a str,
}

#[derive(Serialize)]
pub(crate) struct AgentFile<'a> {
    pub(crate) name: &'a HostName,
    pub(crate) site: &'a SiteName,
    pub(crate) cluster: &'a str,
    pub(crate) data_dir: &'a Path,
    pub(crate) tls_dir: PathBuf,
    pub(crate) controllers: Vec<SocketAddr>,
    pub(crate) runtime: &'a str,
    pub(crate) listen_ip: IpAddr,
    pub(crate) ports: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) memory: Option<String>,
    pub(crate) stop_servos_on_exit: bool,
}

#[derive(Serialize)]
pub(crate) struct BalancerFile<'a> {
    pub(crate) name: &'a BalancerName,
    pub(crate) site: &'a SiteName,
    pub(crate) data_dir: &'a Path,
    pub(crate) tls_dir: PathBuf,
    pub(crate) controllers: Vec<SocketAddr>,
    pub(crate) listen: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen_advertised: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) listen_tls: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_listen: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) peer_advertised: Option<SocketAddr>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dial_out: Option<bool>,
}

fn is_true(value: &bool) -> bool {
    *value
}

pub(crate) fn toml_of<T: Serialize>(value: &T) -> String {
    toml::to_string(value).expect("these structs are TOML tables of plain values")
}
