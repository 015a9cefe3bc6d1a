//! etcd beside ours: three processes of Debian's `etcd-server` on the same disk, mutual TLS between them, plain client
//! ports as ours has, everything else as it is by default.

mod client;
mod protobuf;

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use pontoon_testbed::until;
use tempfile::TempDir;

pub(crate) use self::client::Client;
use crate::delay::Delays;
use crate::ports;

/// How long an election may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
const MEMBERS: usize = 3;

/// What every member is started with, and the process while it runs.
struct Member {
    args: Vec<String>,
    log: std::path::PathBuf,
    child: Option<Child>,
}

/// The cluster. Dropped, it ends its processes.
pub(crate) struct Etcd {
    members: Vec<Member>,
    clients: Vec<SocketAddr>,
    _delays: Option<Delays>,
    _folder: TempDir,
}

impl Etcd {
    /// Starts one of three and waits for its leader; `delay` is added in each direction between members.
    pub(crate) fn start(delay: Option<Duration>, more_args: &[&str]) -> Result<Self> {
        Self::of(MEMBERS, delay, more_args)
    }

    /// The same of `count`.
    pub(crate) fn of(count: usize, delay: Option<Duration>, more_args: &[&str]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let ports = ports::free(3 * count)?;
        let (clients, others) = ports.split_at(count);
        let (listen, proxied) = others.split_at(count);
        let known = if delay.is_some() { proxied } else { listen };
        certificates(folder.path())?;
        let pairs = proxied.iter().copied().zip(listen.iter().copied()).collect();
        let delays = delay.map(|delay| Delays::start(pairs, delay)).transpose()?;
        let all: Vec<_> = known.iter().enumerate().map(|(at, peer)| format!("m{at}=https://{peer}")).collect();
        let members = (0..count).map(|at| Member {
            args: args(folder.path(), at, clients[at], listen[at], known[at], &all.join(","), more_args),
            log: folder.path().join(format!("m{at}.log")),
            child: None,
        });
        let mut etcd = Self { members: members.collect(), clients: clients.to_vec(), _delays: delays, _folder: folder };
        (0..count).try_for_each(|at| etcd.restart(at))?;
        etcd.leader()?;
        Ok(etcd)
    }

    /// Starts a member, again if it was killed.
    pub(crate) fn restart(&mut self, at: usize) -> Result<()> {
        let member = &mut self.members[at];
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&member.log)?;
        let mut command = Command::new("etcd");
        command.args(&member.args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        member.child = Some(command.spawn().context("etcd does not start; install Debian's etcd-server")?);
        Ok(())
    }

    /// kill -9.
    pub(crate) fn kill(&mut self, at: usize) -> Result<()> {
        if let Some(mut child) = self.members[at].child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// The member that leads, once all members answer.
    pub(crate) fn leader(&self) -> Result<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        until("etcd's leader", PATIENCE, || {
            runtime.block_on(async {
                let mut leader = None;
                for (at, address) in self.clients.iter().enumerate() {
                    let mut client = Client::open(*address).await?;
                    let status = tokio::time::timeout(Duration::from_secs(2), client.status()).await??;
                    ensure!(status.leader != 0, "{at} knows no leader");
                    if status.leader == status.member {
                        leader = Some(at);
                    }
                }
                match leader {
                    Some(leader) => Ok(leader),
                    None => bail!("no member leads"),
                }
            })
        })
    }

    /// Where each member listens for clients.
    pub(crate) fn clients(&self) -> &[SocketAddr] {
        &self.clients
    }

    /// The ids of all processes that run.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(|member| member.child.as_ref().map(Child::id)).collect()
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|at| drop(self.kill(at)));
    }
}

fn args(
    folder: &Path,
    at: usize,
    client: SocketAddr,
    listen: SocketAddr,
    known: SocketAddr,
    all: &str,
    more: &[&str],
) -> Vec<String> {
    let path = |name: &str| folder.join(name).display().to_string();
    let pairs = [
        ("name", format!("m{at}")),
        ("data-dir", path(&format!("m{at}"))),
        ("listen-client-urls", format!("http://{client}")),
        ("advertise-client-urls", format!("http://{client}")),
        ("listen-peer-urls", format!("https://{listen}")),
        ("initial-advertise-peer-urls", format!("https://{known}")),
        ("initial-cluster", all.to_owned()),
        ("initial-cluster-token", "bench".to_owned()),
        ("peer-cert-file", path("cert.pem")),
        ("peer-key-file", path("key.pem")),
        ("peer-trusted-ca-file", path("ca.pem")),
        ("logger", "zap".to_owned()),
        ("log-level", "error".to_owned()),
    ];
    let own = pairs.into_iter().map(|(name, value)| format!("--{name}={value}"));
    own.chain(["--peer-client-cert-auth".to_owned()]).chain(more.iter().map(|arg| (*arg).to_owned())).collect()
}

/// One authority and one certificate for all members: they dial each other by address.
fn certificates(folder: &Path) -> Result<()> {
    use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority_key = KeyPair::generate()?;
    let ca = authority.self_signed(&authority_key)?;
    let issuer = Issuer::from_ca_cert_pem(&ca.pem(), authority_key)?;
    let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    std::fs::write(folder.join("ca.pem"), ca.pem())?;
    std::fs::write(folder.join("cert.pem"), certificate.pem())?;
    std::fs::write(folder.join("key.pem"), key.serialize_pem())?;
    Ok(())
}
