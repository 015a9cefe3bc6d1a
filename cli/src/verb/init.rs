//! `pontoon controller init` and `pontoon controller join`: the first controller of a new cluster, and each one after it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use pontoon_enrol::Admitted;
use pontoon_kit::pki::{LIFE, new_api_token};
use pontoon_kit::{Authority, Identity, Role, file};
use pontoon_model::{ControllerId, ControllerName, Digest, SiteName};
use serde_json::json;

use super::join::{JoinArgs, Kept, Place, check_text, folder_of, make_folder, name_or_host};
use crate::args::Format;
use crate::output;
use crate::role::check_controller;
use crate::role::files::{ControllerFile, FoundingFile, Member, toml_of};

/// Where machines reach a controller, unless said otherwise.
pub(crate) const GRPC_PORT: u16 = 7710;
/// Where people do.
pub(crate) const REST_PORT: u16 = 7700;
/// Nobody answers there (RFC 5737): asked only which of its addresses this machine would send from, and nothing is sent.
const ANYWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

/// Where a controller listens.
#[derive(Debug, Args)]
pub struct ListenArgs {
    /// The address under which other machines reach this one; without it, the one it sends from
    #[arg(long, value_name = "IP", value_parser = parse_advertised)]
    pub(super) advertise: Option<IpAddr>,
    /// Port for controllers, agents and balancers
    #[arg(long, default_value_t = GRPC_PORT)]
    pub(super) grpc_port: u16,
    /// Port for people and programs
    #[arg(long, default_value_t = REST_PORT)]
    rest_port: u16,
    /// Serve people and programs without TLS: tokens then cross the network in the clear
    #[arg(long)]
    pub(super) plain_http: bool,
}

impl ListenArgs {
    /// Where people reach it.
    pub(super) fn rest(&self, ip: IpAddr) -> SocketAddr {
        SocketAddr::new(ip, self.rest_port)
    }
}

/// Arguments of `controller init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// The controller's name; without it, this machine's host name
    #[arg(long)]
    name: Option<String>,
    /// Where it stands: machines of one site fail together
    #[arg(long, default_value = "main")]
    site: SiteName,
    /// The cluster's name; without it, one is made up
    #[arg(long, value_parser = parse_cluster)]
    cluster: Option<String>,
    /// Apps are reached as APP.DOMAIN
    #[arg(long, value_name = "DOMAIN", default_value = "localhost")]
    base_domain: String,
    /// Where keys, configuration and data are kept
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArgs,
}

/// Arguments of `controller join`.
#[derive(Debug, Args)]
pub struct ControllerJoin {
    #[command(flatten)]
    join: JoinArgs,
    /// Let it follow only, without a vote, until `pontoon controller promote`
    #[arg(long)]
    learner: bool,
    #[command(flatten)]
    listen: ListenArgs,
}

/// The most that an agent's configuration takes as the cluster's name, which labels its containers with it.
const MAX_CLUSTER: usize = 40;

/// A name for a cluster that agents take too, so that none is found unusable only when the first one joins.
fn parse_cluster(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let begins = text.bytes().next().is_some_and(plain);
    if begins && text.len() <= MAX_CLUSTER && text.bytes().all(|byte| plain(byte) || byte == b'-') {
        return Ok(text.to_owned());
    }
    Err(format!(
        "a cluster's name is 1 to {MAX_CLUSTER} of a-z, 0-9 and -, and begins with a letter or a digit, for example home or eu-1"
    ))
}

/// An address of one machine, which others can connect to.
pub(super) fn parse_advertised(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| "it is no IP address; write for example 10.0.0.5".to_owned())?;
    let kind = match ip.to_canonical() {
        ip if ip.is_unspecified() => "stands for all addresses of a machine",
        ip if ip.is_multicast() => "is a multicast address",
        IpAddr::V4(ip) if ip.is_broadcast() => "is the broadcast address",
        _ => return Ok(ip),
    };
    Err(format!("{ip} {kind}, and nobody can connect to it; give the one under which other machines reach this one"))
}

/// Makes a cluster of one controller.
pub fn init(args: &InitArgs, format: Format) -> anyhow::Result<()> {
    let folder = folder_of(args.data_dir.as_deref(), Role::Controller)?;
    let path = folder.join("config.toml");
    if let Some(kept) = Kept::at(&path, Role::Controller)? {
        return certify_again(&kept, &folder, format);
    }
    let name: ControllerName = name_or_host(args.name.as_deref())?;
    let ip = args.listen.advertise.unwrap_or_else(own_address);
    let cluster = args.cluster.clone().unwrap_or_else(|| format!("pontoon-{:08x}", rand::random::<u32>()));
    let own = Member { id: new_id(), name: name.clone(), grpc: SocketAddr::new(ip, args.listen.grpc_port) };
    let text = toml_of(&ControllerFile {
        founding: Some(FoundingFile { ca_dir: "ca".into(), cluster: &cluster }),
        token_file: Some(Path::new("token")),
        base_domain: Some(&args.base_domain),
        ..controller_file(&own, &args.site, &args.listen, ip, std::slice::from_ref(&own))
    });
    // Before anything is made of it.
    check_text(&text, check_controller)?;
    make_folder(&folder)?;
    make_folder(&folder.join("data"))?;
    let authority = Authority::load_or_create(&folder.join("ca"))?;
    let tls = folder.join("tls");
    if Identity::load(&tls).is_err() {
        authority.issue(Role::Controller, name.as_str())?.save(&tls)?;
    }
    let token = new_api_token();
    // Only its hash is kept: whoever can read the disk must not be able to use it.
    let kept = format!("sha256:{}\n", Digest::of(token.as_bytes()));
    write(&folder.join("token"), &kept)?;
    write(&path, &text)?;
    let rest = args.listen.rest(ip);
    let fingerprint = authority.fingerprint()?;
    let (url, login) = match args.listen.plain_http {
        true => (format!("http://{rest}"), format!("pontoon login http://{rest}")),
        false => (format!("https://{rest}"), format!("pontoon login https://{rest} --fingerprint {fingerprint}")),
    };
    let made = json!({
        "cluster": cluster, "name": name, "token": token, "url": url, "grpc": own.grpc, "fingerprint": fingerprint.to_string(),
        "config": path, "authority_key": folder.join("ca/ca-key.pem"),
    });
    let text = format!(
        "cluster {cluster} begins with controller {name} at {}\n\n    admin token (shown only now): {token}\n\nstart it with\n\n    \
         pontoon controller --config {}\n\nand then, here or on any machine that reaches it,\n\n    {login}\n    pontoon token \
         create --role controller\n\nWhoever has {} can make members of this cluster. Once it runs, its controllers keep that key, \
         sealed: take the file to a safe place; it makes a certificate when the only controller has lost its own.",
        own.grpc,
        path.display(),
        folder.join("ca/ca-key.pem").display(),
    );
    Ok(output::print(format, &made, |_| text)?)
}

/// Gives a controller that has lost its certificate another one, signed by the authority that the cluster began with. Where
/// another signs by now, the controller renews it by itself as soon as it runs.
fn certify_again(kept: &Kept, folder: &Path, format: Format) -> anyhow::Result<()> {
    let authority = Authority::load(&folder.join("ca")).context(
        "no certificate can be made here: let this controller get one from another, with `pontoon controller join ADDR --token \
         TOKEN` and the same --data-dir",
    )?;
    let key = Identity::load_or_make_key(&kept.tls)?;
    let certificate = authority.certify(Role::Controller, &kept.name, &Identity::request(&key)?, LIFE)?;
    Identity { ca: authority.certificate().to_owned(), certificate, key }.save(&kept.tls)?;
    let config = folder.join("config.toml");
    let made = json!({ "name": kept.name, "config": config });
    Ok(output::print(format, &made, |_| {
        format!(
            "controller {} has a certificate again; start it with\n\n    pontoon controller --config {}",
            kept.name,
            config.display()
        )
    })?)
}

/// Joins as a controller.
pub fn join(args: &ControllerJoin, format: Format) -> anyhow::Result<()> {
    let place = Place::of(&args.join, Role::Controller)?;
    let name: ControllerName = place.name(&args.join)?;
    let ip = args.listen.advertise.unwrap_or(place.own_ip);
    let own = Member { id: new_id(), name: name.clone(), grpc: SocketAddr::new(ip, args.listen.grpc_port) };
    let file = |admitted: &Admitted| {
        let known = admitted.controllers.iter().filter(|contact| contact.name != name);
        let known = known.map(|contact| Member { id: contact.id, name: contact.name.clone(), grpc: contact.grpc });
        let mut members: Vec<Member> = std::iter::once(own.clone()).chain(known).collect();
        if members.len() == 1 {
            // Before anybody was asked: somebody whom it joins through.
            members.push(Member { id: new_id(), name: some_other(&name), grpc: place.address() });
        }
        toml_of(&ControllerFile {
            join: true,
            voter: !args.learner,
            ..controller_file(&own, &args.join.site, &args.listen, ip, &members)
        })
    };
    place.join(name.as_str(), &args.join.site, file, check_controller, format)
}

fn some_other(name: &ControllerName) -> ControllerName {
    let other = if name.as_str() == "contact" { "another" } else { "contact" };
    other.parse().unwrap_or_else(|_| name.clone())
}

pub(super) fn controller_file<'a>(
    own: &'a Member,
    site: &'a SiteName,
    listen: &ListenArgs,
    ip: IpAddr,
    members: &'a [Member],
) -> ControllerFile<'a> {
    // On all addresses, unless it is this machine alone that shall reach it.
    let anywhere = if ip.is_loopback() { ip } else { Ipv4Addr::UNSPECIFIED.into() };
    ControllerFile {
        name: &own.name,
        id: own.id,
        site,
        data_dir: Path::new("data"),
        rest: SocketAddr::new(anywhere, listen.rest_port),
        rest_advertised: (anywhere != ip).then(|| SocketAddr::new(ip, listen.rest_port)),
        rest_tls: (!listen.plain_http).then_some("cluster"),
        grpc: SocketAddr::new(anywhere, listen.grpc_port),
        tls_dir: "tls".into(),
        token_file: None,
        base_domain: None,
        join: false,
        voter: true,
        members,
        founding: None,
    }
}

/// Random, so that no id is ever used for two lives of a store; TOML's integers have 63 bits.
pub(crate) fn new_id() -> ControllerId {
    ControllerId(rand::random_range(1..=i64::MAX as u64))
}

/// The address this machine sends from; loopback if it has no other.
pub(super) fn own_address() -> IpAddr {
    let asked = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
        socket.connect(ANYWHERE)?;
        socket.local_addr()
    });
    asked.map_or(Ipv4Addr::LOCALHOST.into(), |address| address.ip())
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    file::replace(path, text.as_bytes(), 0o600).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_has_a_name_that_agents_take_too() {
        let longest = "a".repeat(MAX_CLUSTER);
        for good in ["home", "eu-1", "7", longest.as_str()] {
            assert_eq!(parse_cluster(good).unwrap(), good);
        }
        let longer = "a".repeat(MAX_CLUSTER + 1);
        for bad in ["", "-a", "a b", "a\nb", "\x1b[31ma", "Home", "a_b", "a.b", "\u{e4}", longer.as_str()] {
            let error = parse_cluster(bad).unwrap_err();
            assert!(error.contains("1 to 40 of a-z, 0-9 and -"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn what_is_advertised_is_an_address_of_one_machine() {
        for good in ["10.0.0.5", "127.0.0.1", "::1", "2001:db8::5"] {
            assert_eq!(parse_advertised(good).unwrap().to_string(), good);
        }
        for (bad, part) in [
            ("0.0.0.0", "all addresses"),
            ("::", "all addresses"),
            ("::ffff:0.0.0.0", "all addresses"),
            ("224.0.0.1", "multicast"),
            ("ff02::1", "multicast"),
            ("255.255.255.255", "broadcast"),
            ("here", "no IP address"),
        ] {
            let error = parse_advertised(bad).unwrap_err();
            assert!(error.contains(part), "{bad}: {error}");
        }
    }
}
