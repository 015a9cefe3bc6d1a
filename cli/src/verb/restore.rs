//! `pontoon restore`: a controller made of a backup, the first of a cluster with the same apps, tokens and machines.

use std::io::{self, IsTerminal, Read};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use pontoon_controller::backup::{Place, Restored, restore};
use pontoon_controller::raft;
use pontoon_kit::{Role, file};
use pontoon_model::{ControllerName, Digest, SiteName};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use serde_json::json;

use super::init::{ListenArgs, controller_file, new_id, own_address};
use super::join::{folder_of, name_or_host};
use crate::Usage;
use crate::args::Format;
use crate::output::{self, counted};
use crate::role::files::{Member, toml_of};
use crate::seal::{PassphraseArgs, open_from};

/// Arguments of `restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// The file that `pontoon backup` made; - is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The controller's name; without it, this machine's host name
    #[arg(long)]
    name: Option<String>,
    /// Where it stands: machines of one site fail together
    #[arg(long, default_value = "main")]
    site: SiteName,
    /// Where keys, configuration and data are kept: empty, or not there
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    #[command(flatten)]
    listen: ListenArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
}

/// Makes the controller.
pub fn run(args: &RestoreArgs, format: Format) -> anyhow::Result<()> {
    let name: ControllerName = name_or_host(args.name.as_deref())?;
    let folder = folder_of(args.data_dir.as_deref(), Role::Controller)?;
    let ip = args.listen.advertise.unwrap_or_else(own_address);
    let own = Member { id: new_id(), name, grpc: SocketAddr::new(ip, args.listen.grpc_port) };
    // Before anybody types a passphrase.
    let source: Box<dyn Read> = match args.file == Path::new("-") {
        true if io::stdin().is_terminal() => {
            return Err(Usage("a backup is not typed: give a file's name, or pipe it in".into()).into());
        }
        true => Box::new(io::stdin().lock()),
        false => {
            let file = std::fs::File::open(&args.file);
            Box::new(file.with_context(|| format!("cannot read {}", args.file.display()))?)
        }
    };
    let input = open_from(source, args.passphrase.known()?)?;
    let config = toml_of(&controller_file(&own, &args.site, &args.listen, ip, std::slice::from_ref(&own)));
    let member = raft::Member { id: own.id, name: own.name.clone(), grpc: own.grpc };
    let restored = restore(input, &Place { folder: &folder, own: member }, |made| {
        let path = made.join("config.toml");
        file::replace(&path, config.as_bytes(), 0o600).map_err(|error| format!("cannot write config.toml: {error}"))?;
        pontoon_controller::Config::load(&path).map(drop).map_err(|error| error.to_string())
    })?;
    let login = login(&args.listen, ip, &folder.join("tls/ca.pem"));
    let config = folder.join("config.toml");
    let made = json!({
        "cluster": restored.manifest.cluster, "index": restored.manifest.index, "epoch": restored.epoch, "apps": restored.apps,
        "bundles": restored.bundles, "missing": restored.missing, "name": own.name, "grpc": own.grpc, "config": config,
        "login": login,
    });
    Ok(output::print(format, &made, |_| said(&config, &own, &restored, &login))?)
}

/// The line that logs in. Of one authority the fingerprint is enough on any machine; while it changes, or changed, the file says
/// which ones are trusted.
fn login(listen: &ListenArgs, ip: IpAddr, ca: &Path) -> String {
    if listen.plain_http {
        return format!("pontoon login http://{}", listen.rest(ip));
    }
    let pem = std::fs::read(ca).unwrap_or_default();
    let all: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    match all.as_slice() {
        [one] => format!("pontoon login https://{} --fingerprint {}", listen.rest(ip), Digest::of(one)),
        _ => format!("pontoon login https://{} --ca {}", listen.rest(ip), ca.display()),
    }
}

fn said(config: &Path, own: &Member, restored: &Restored, login: &str) -> String {
    let Restored { manifest, bundles, missing, former, epoch, apps } = restored;
    let files = match missing {
        0 => format!("{} here", counted(*bundles, "bundle")),
        _ => format!(
            "{} here and {missing} missing: what runs goes on, and what needs one of them starts again after a new \
             deploy, or once a controller that has it has joined",
            counted(*bundles, "bundle")
        ),
    };
    let known: Vec<String> = former.iter().map(|(name, grpc)| format!("{name} {grpc}")).collect();
    let others = if former.iter().any(|(_, grpc)| *grpc == own.grpc) {
        format!("agents and balancers of before come back by themselves: they know {}", own.grpc)
    } else {
        format!(
            "agents and balancers of before know the controllers as {}: give this machine one of those addresses, or write \
             {} into `controllers` in their configuration and start them again",
            known.join(", "),
            own.grpc
        )
    };
    format!(
        "cluster {} as it was at index {} has {apps} apps and begins anew with controller {} at {} (epoch {epoch})\n\n  \
         {files}\n  {others}\n  the former controllers do not belong to it: their certificates are worth nothing to it\n\n\
         start it with\n\n    pontoon controller --config {}\n\nand then, with a token of before,\n\n    {login}",
        manifest.cluster,
        manifest.index,
        own.name,
        own.grpc,
        config.display()
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use pontoon_kit::Authority;

    use super::*;

    #[derive(Parser)]
    struct Listen {
        #[command(flatten)]
        listen: ListenArgs,
    }

    #[test]
    fn the_line_that_logs_in_names_whom_to_trust() {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca.pem");
        let line = |args: &[&str]| {
            let listen = Listen::parse_from([&["x"], args].concat()).listen;
            login(&listen, "10.0.0.5".parse().unwrap(), &ca)
        };
        let (one, other) = (Authority::create().unwrap(), Authority::create().unwrap());
        std::fs::write(&ca, one.certificate()).unwrap();
        let fingerprint = one.fingerprint().unwrap();
        assert_eq!(line(&[]), format!("pontoon login https://10.0.0.5:7700 --fingerprint {fingerprint}"));
        std::fs::write(&ca, one.certificate().to_owned() + other.certificate()).unwrap();
        assert_eq!(line(&[]), format!("pontoon login https://10.0.0.5:7700 --ca {}", ca.display()));
        assert_eq!(line(&["--plain-http", "--rest-port", "80"]), "pontoon login http://10.0.0.5:80");
    }
}
