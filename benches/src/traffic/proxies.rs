//! The balancer, HAProxy and nginx before one nginx that answers, each configured as its users would for speed.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use pontoon_balancer::{Balancer, Config, Http1};
use pontoon_kit::{Authority, Role};
use pontoon_model::{
    Certificate, CertificateOrigin, Digest, EdgeEntry, EdgeTable, Route, RouteServo, RouteTable, RouteVersion, Secret,
    ServoId, Timestamp,
};

use super::{clients, scheduled, table};
use crate::ports;

/// Body of the small answers.
pub(super) const SMALL: usize = 1_024;
const LARGE: u64 = 10 * 1024 * 1024;
const START: Duration = Duration::from_secs(20);

/// A running proxy.
pub(super) struct Proxy {
    pub(super) name: &'static str,
    pub(super) plain: SocketAddr,
    pub(super) tls: SocketAddr,
    child: Child,
}

impl Proxy {
    /// Processor time of it and what it started.
    pub(super) fn cpu(&self) -> Result<Duration> {
        self.processes()?.into_iter().map(scheduled).sum()
    }

    pub(super) fn processes(&self) -> Result<Vec<u32>> {
        processes(&self.child)
    }
}

/// A process, last, and what it started.
fn processes(child: &Child) -> Result<Vec<u32>> {
    let pid = child.id();
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().map(|pid| Ok(pid.parse()?));
    children.chain([Ok(pid)]).collect()
}

impl Drop for Proxy {
    fn drop(&mut self) {
        stop(&mut self.child);
    }
}

/// All three, and what answers.
pub(super) struct Proxies {
    /// Ours, HAProxy, nginx.
    pub(super) all: [Proxy; 3],
    pub(super) upstreams: Vec<Upstream>,
}

/// An nginx that answers; none once it is killed.
pub(super) struct Upstream(Option<Child>);

impl Upstream {
    /// Ends it without a word, and its worker with it. The one that starts workers comes first: it would start another.
    pub(super) fn kill(&mut self) -> Result<()> {
        let Some(mut child) = self.0.take() else { return Ok(()) };
        let pids = processes(&child)?.into_iter().rev().map(|pid| pid.to_string());
        Command::new("kill").arg("-9").args(pids).status()?;
        child.wait()?;
        Ok(())
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.0.iter_mut().for_each(stop);
    }
}

/// nginx ends its workers when it is told to end, not when it is killed.
fn stop(child: &mut Child) {
    // Gone already is as good.
    let _ = Command::new("kill").arg(child.id().to_string()).status();
    let _ = child.wait();
}

impl Proxies {
    pub(super) fn start(folder: &Path, core: usize, other_core: usize) -> Result<Self> {
        Self::before(folder, core, other_core, 1, &[])
    }

    /// Before so many upstreams; our balancer is started with `env`.
    pub(super) fn before(
        folder: &Path,
        core: usize,
        other_core: usize,
        upstreams: usize,
        env: &[(&str, &str)],
    ) -> Result<Self> {
        let at = ports::free(6 + upstreams)?;
        let (at, upstreams_at) = at.split_at(6);
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        fs::write(folder.join("cert.pem"), &chain)?;
        fs::write(folder.join("key.pem"), &key)?;
        fs::write(folder.join("both.pem"), [chain.as_str(), key.as_str()].concat())?;
        fs::create_dir_all(folder.join("www"))?;
        fs::File::create(folder.join("www/large"))?.set_len(LARGE)?;

        let upstream = |(number, at): (usize, &SocketAddr)| {
            let name = format!("upstream-{number}");
            nginx(folder, &name, other_core, &upstream_conf(&name, *at, folder)).map(|child| Upstream(Some(child)))
        };
        let upstreams = upstreams_at.iter().enumerate().map(upstream).collect::<Result<Vec<_>>>()?;
        let ours = balancer(folder, core, (at[0], at[1]), upstreams_at, env)?;
        let haproxy = haproxy(folder, core, (at[2], at[3]), upstreams_at)?;
        let nginx_child = nginx(folder, "proxy", core, &proxy_conf((at[4], at[5]), upstreams_at, folder))?;
        let nginx = Proxy { name: "nginx", plain: at[4], tls: at[5], child: nginx_child };
        let all = Self { all: [ours, haproxy, nginx], upstreams };
        let proxies = all.all.iter().flat_map(|proxy| [proxy.plain, proxy.tls]);
        for address in upstreams_at.iter().copied().chain(proxies) {
            until("nobody listens", address, || TcpStream::connect(address).is_ok())?;
        }
        // Ours listens a moment before it has its table.
        for proxy in &all.all {
            until("nobody answers", proxy.plain, || clients::client(proxy.plain).is_ok())?;
        }
        Ok(all)
    }
}

fn until(what: &str, at: SocketAddr, mut done: impl FnMut() -> bool) -> Result<()> {
    let begun = Instant::now();
    while !done() {
        ensure!(begun.elapsed() < START, "{what} on {at} after {START:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn pinned(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

fn nginx(folder: &Path, name: &str, core: usize, conf: &str) -> Result<Child> {
    let path = folder.join(format!("{name}.conf"));
    fs::write(&path, conf)?;
    let mut command = pinned(core, Path::new("/usr/sbin/nginx"));
    command.arg("-p").arg(folder).arg("-c").arg(path).args(["-g", "daemon off;"]);
    command.stderr(Stdio::null()).spawn().context("nginx does not start; install Debian's nginx-light")
}

fn upstream_conf(name: &str, at: SocketAddr, folder: &Path) -> String {
    let (body, folder) = ("x".repeat(SMALL), folder.display());
    format!(
        "user root; worker_processes 1; pid {folder}/{name}.pid; error_log {folder}/{name}.log;
         events {{ worker_connections 16384; }}
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 300s; sendfile on; tcp_nopush on;
           server {{ listen {at} reuseport backlog=4096; location /large {{ root {folder}/www; }} location / {{ return 200 '{body}'; }} }} }}\n"
    )
}

fn proxy_conf((plain, tls): (SocketAddr, SocketAddr), upstreams: &[SocketAddr], folder: &Path) -> String {
    let folder = folder.display();
    let servers: String = upstreams.iter().map(|at| format!("server {at}; ")).collect();
    format!(
        "user root; worker_processes 1; pid {folder}/proxy.pid; error_log {folder}/proxy.log;
         events {{ worker_connections 16384; }}
         http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 300s; tcp_nodelay on;
           upstream servos {{ {servers}keepalive 1024; keepalive_requests 100000000; }}
           server {{ listen {plain}; listen {tls} ssl; ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
             ssl_protocols TLSv1.3; proxy_max_temp_file_size 0;
             location / {{ proxy_pass http://servos; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $http_host;
               proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_next_upstream error timeout; }} }} }}\n"
    )
}

fn haproxy(
    folder: &Path,
    core: usize,
    (plain, tls): (SocketAddr, SocketAddr),
    upstreams: &[SocketAddr],
) -> Result<Proxy> {
    let servers: String =
        upstreams.iter().enumerate().map(|(number, at)| format!("  server servo{number} {at}\n")).collect();
    let path = folder.join("haproxy.cfg");
    let conf = format!(
        "global\n  nbthread 1\n  maxconn 8000\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n\
         defaults\n  mode http\n  timeout client 300s\n  timeout server 300s\n  timeout connect 1s\n  option http-keep-alive\n  \
         http-reuse always\n  option forwardfor\n  retries 3\n  option redispatch 1\n  \
         retry-on conn-failure empty-response response-timeout\n\
         frontend in\n  bind {plain} backlog 4096\n  bind {tls} ssl crt {}/both.pem\n  use_backend servos if {{ hdr(host) -m beg localhost }}\n\
         backend servos\n{servers}",
        folder.display()
    );
    fs::write(&path, conf)?;
    let mut command = pinned(core, Path::new("/usr/sbin/haproxy"));
    command.args(["-db", "-q", "-f"]).arg(path).stderr(Stdio::null());
    let child = command.spawn().context("haproxy does not start; install Debian's haproxy")?;
    Ok(Proxy { name: "haproxy", plain, tls, child })
}

fn balancer(
    folder: &Path,
    core: usize,
    (plain, tls): (SocketAddr, SocketAddr),
    upstreams: &[SocketAddr],
    env: &[(&str, &str)],
) -> Result<Proxy> {
    let mut command = pinned(core, &std::env::current_exe()?);
    let addresses = [plain, tls].into_iter().chain(upstreams.iter().copied());
    command.arg("--balancer").arg(folder).args(addresses.map(|address| address.to_string())).envs(env.iter().copied());
    let child = command.spawn().context("this program does not start again as a balancer")?;
    Ok(Proxy { name: "pontoon", plain, tls, child })
}

/// This program started again as a balancer with one route, by [`balancer`]'s arguments, until it is killed. All features are
/// on that are by default.
pub(crate) fn serve_balancer(args: &[String]) -> Result<()> {
    let [folder, plain, tls, upstreams @ ..] = args else { anyhow::bail!("not for people") };
    let folder = Path::new(folder);
    let identity = Authority::create()?.issue(Role::Balancer, "b1")?;
    identity.save(&folder.join("balancer-tls"))?;
    let config = Config {
        name: "b1".parse()?,
        site: "here".parse()?,
        data_dir: folder.join("balancer"),
        tls_dir: folder.join("balancer-tls"),
        // Nobody is there: it serves by its table.
        controllers: vec!["127.0.0.1:1".parse()?],
        listen: plain.parse()?,
        listen_advertised: None,
        listen_tls: Some(tls.parse()?),
        http1: Http1::default(),
        workers: Some(1),
        access_log: None,
        proxy_protocol: false,
        peer_listen: None,
        peer_advertised: None,
        dial_out: None,
        admin_listen: None,
    };
    let servo = |(id, upstream): (u64, &String)| -> Result<RouteServo> {
        Ok(RouteServo { id: ServoId(id), site: "here".parse()?, address: upstream.parse()?, suspect: false })
    };
    let route = Route {
        host: "localhost".to_owned(),
        app: "bench".parse()?,
        release: None,
        servos: (0..).zip(upstreams).map(servo).collect::<Result<_>>()?,
        reason: String::new(),
    };
    let certificate = Certificate {
        fingerprint: Digest::of(b"bench"),
        names: vec!["localhost".to_owned()],
        chain: fs::read_to_string(folder.join("cert.pem"))?,
        key: Secret(fs::read_to_string(folder.join("key.pem"))?),
        begins: Timestamp(0),
        ends: Timestamp(u64::MAX),
        origin: CertificateOrigin::Uploaded,
    };
    let edge = [EdgeEntry::Certificate(certificate), EdgeEntry::Keys(vec![Secret("bench".to_owned())])];
    let edge = EdgeTable { version: RouteVersion(1), entries: edge.into_iter().map(Arc::new).collect() };
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let balancer = Balancer::start(config).await?;
        let route = Arc::new(route);
        balancer.table().apply_table(&RouteTable { version: RouteVersion(1), routes: vec![route.clone()] })?;
        balancer.table().apply_edge(&edge)?;
        if let Ok(how) = std::env::var(table::LARGE) {
            let routes = balancer.table().clone();
            // Where the balancer's own session would change it.
            let folder = folder.to_owned();
            std::thread::spawn(move || table::fill(&routes, &folder, how == table::CHANGING, route));
        }
        Err(balancer.failed().await.into())
    })
}
