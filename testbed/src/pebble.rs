//! An ACME authority for tests: Debian's `pebble`, and the DNS that it asks, both on loopback.

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};

use crate::cluster::free_ports;
use crate::until::until;

const PATIENCE: Duration = Duration::from_secs(20);

/// What an authority is made with.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Where it looks for HTTP-01, on loopback.
    pub http: u16,
    /// Where it looks for TLS-ALPN-01.
    pub tls: u16,
    /// How long its certificates are good.
    pub life: Duration,
    /// Whether it wants an account that was made elsewhere: [`Pebble::KID`] with [`Pebble::HMAC`].
    pub external: bool,
    /// How long it may take before it looks, at most, in seconds; it is drawn at random.
    pub slow: Option<u32>,
}

/// It and its DNS. Dropped, both are ended.
pub struct Pebble {
    address: SocketAddr,
    management: SocketAddr,
    dns: SocketAddr,
    options: Options,
    /// Who signed its own certificate, PEM.
    pub ca_file: PathBuf,
    folder: PathBuf,
    processes: Vec<Child>,
}

impl Pebble {
    /// Key id of the account that was made elsewhere.
    pub const KID: &str = "kid-1";
    /// Its key.
    pub const HMAC: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";

    /// Whether it can run here.
    pub fn usable() -> Result<()> {
        for program in ["pebble", "pebble-challtestsrv"] {
            let found = Command::new(program).arg("-h").stdout(Stdio::null()).stderr(Stdio::null()).status();
            found.with_context(|| format!("{program} is not there; the package pebble has it"))?;
        }
        Ok(())
    }

    /// Starts both, with files in `folder`.
    pub fn start(folder: &Path, options: Options) -> Result<Self> {
        let ports = free_ports(4)?;
        let ca_file = folder.join("directory-ca.pem");
        let (authority, certificate, key) = for_loopback()?;
        fs::write(&ca_file, authority)?;
        fs::write(folder.join("pebble-cert.pem"), certificate)?;
        fs::write(folder.join("pebble-key.pem"), key)?;
        let mut pebble = Self {
            address: ports[0],
            management: ports[1],
            dns: ports[2],
            options,
            ca_file,
            folder: folder.to_owned(),
            processes: Vec::new(),
        };
        // It answers every question with 127.0.0.1; what else it could do is switched off.
        let dns = pebble.dns.to_string();
        let off = ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", ""];
        let management = ports[3].to_string();
        pebble.spawn("pebble-challtestsrv", &[&["-dns01", &dns, "-management", &management][..], &off].concat())?;
        pebble.serve()?;
        Ok(pebble)
    }

    fn serve(&mut self) -> Result<()> {
        let Options { http, tls, life, external, .. } = self.options;
        let path = |name: &str| self.folder.join(name);
        let config = json!({ "pebble": {
            "listenAddress": self.address.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": path("pebble-cert.pem"),
            "privateKey": path("pebble-key.pem"),
            "httpPort": http,
            "tlsPort": tls,
            "ocspResponderURL": "",
            "externalAccountBindingRequired": external,
            "externalAccountMACKeys": { Self::KID: Self::HMAC },
            "certificateValidityPeriod": life.as_secs(),
        }});
        let file = path("pebble.json");
        fs::write(&file, config.to_string())?;
        let (file, dns) = (file.to_string_lossy().into_owned(), self.dns.to_string());
        self.spawn("pebble", &["-config", &file, "-dnsserver", &dns, "-strict"])?;
        until("the ACME directory", PATIENCE, || {
            self.get(&format!("{}/roots/0", self.management))?;
            let directory: Value = serde_json::from_str(&self.get(&format!("{}/dir", self.address))?)?;
            ensure!(directory["newOrder"].is_string(), "{directory}");
            Ok(())
        })
    }

    fn spawn(&mut self, program: &str, args: &[&str]) -> Result<()> {
        let log = File::create(self.folder.join(format!("{program}.log")))?;
        let mut command = Command::new(program);
        match self.options.slow {
            Some(seconds) => command.env("PEBBLE_VA_SLEEPTIME", seconds.to_string()),
            None => command.env("PEBBLE_VA_NOSLEEP", "1"),
        };
        // A proof is good for one order, so that each is looked at; a refused nonce now and then stays.
        command.env("PEBBLE_AUTHZREUSE", "0").args(args);
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        self.processes.push(child.with_context(|| format!("{program} does not start"))?);
        Ok(())
    }

    /// URL of its directory.
    pub fn directory(&self) -> String {
        format!("https://{}/dir", self.address)
    }

    /// The certificate of who signs what it gives, PEM.
    pub fn root(&self) -> Result<String> {
        self.get(&format!("{}/roots/0", self.management))
    }

    /// How many orders it was given.
    pub fn orders(&self) -> usize {
        self.log().lines().filter(|line| line.contains("Added order ")).count()
    }

    /// How many accounts it has made.
    pub fn accounts(&self) -> usize {
        self.log().lines().filter(|line| line.contains("accounts in memory")).count()
    }

    /// SIGSTOP: it answers nobody until [`Pebble::resume`].
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// SIGCONT.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pebble = self.processes.last().context("it does not run")?;
        kill(Pid::from_raw(pebble.id() as i32), signal).with_context(|| format!("{signal} to pebble"))
    }

    /// Its log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.join("pebble.log")).unwrap_or_default()
    }

    fn get(&self, place: &str) -> Result<String> {
        let ca = reqwest::Certificate::from_pem(&fs::read(&self.ca_file)?)?;
        let client = reqwest::Client::builder().no_proxy().add_root_certificate(ca).timeout(PATIENCE).build()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let answer = client.get(format!("https://{place}")).send().await?.error_for_status()?;
            Ok(answer.text().await?)
        })
    }
}

/// An authority, a certificate of it for 127.0.0.1, and its key, PEM.
fn for_loopback() -> Result<(String, String, String)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let (ca_key, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let authority = params.self_signed(&ca_key)?.pem();
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()])?.signed_by(&key, &Issuer::new(params, ca_key))?;
    Ok((authority, leaf.pem(), key.serialize_pem()))
}

impl Drop for Pebble {
    fn drop(&mut self) {
        for process in &mut self.processes {
            // One that has ended already is fine.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
