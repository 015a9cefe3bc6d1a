//! `pontoon dev`: three controllers, two hosts and two balancers in this process, on loopback.

mod answers;
mod https;
mod ports;
pub mod provision;
mod ready;
mod roles;
mod summary;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use pontoon_api::App;
use pontoon_kit::{CancellationToken, FolderLock, LockError, telemetry};
use pontoon_model::MemoryBytes;

use crate::args::{AppArg, Format};
use crate::client::Client;
use crate::context::{self, Context, Contexts};
use crate::manifest::Manifest;
use crate::progress::Progress;
use crate::session::Session;
use crate::verb::{block_on, deploy};
use crate::{Interrupted, output, role};

use https::Https;
use ports::Ports;
use provision::{AgentLayout, BalancerLayout, ClusterFiles, ControllerLayout, Layout};
use roles::Roles;
use summary::Places;

/// What is logged unless `PONTOON_LOG` says otherwise: what a person in front of it should know. In one process, roles
/// miss each other only while it starts or stops: not worth a warning.
const LOG: &str = "warn,openraft=off,sled=error,pontoon_agent::session=error,pontoon_balancer::session=error,\
                   pontoon_controller::raft=error";

/// Arguments of `dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    /// Where everything is kept [default: ~/.local/share/pontoon/dev]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// How servos are run
    #[arg(long, value_enum, default_value_t = RuntimeArg::Auto)]
    pub runtime: RuntimeArg,
    /// HTTP port of the first balancer; the second has the next one
    #[arg(long, default_value_t = ports::BALANCER)]
    pub port: u16,
    /// HTTPS port of the first balancer; the second has the next one. Prints the file with the authority to trust, for example
    /// `--tls-port 8443` [default: no HTTPS]
    #[arg(long, value_name = "PORT")]
    pub tls_port: Option<u16>,
    /// REST port of the first controller; the others have the next ones
    #[arg(long, default_value_t = ports::REST)]
    pub rest_port: u16,
    /// gRPC port of the first controller; the others have the next ones [default: 7710, or as at the first start]
    #[arg(long)]
    pub grpc_port: Option<u16>,
    /// Then deploy this directory
    #[arg(long, value_name = "PATH")]
    pub deploy: Option<PathBuf>,
}

/// How servos are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum RuntimeArg {
    /// In Docker when it answers, else as processes
    Auto,
    /// In Docker
    Docker,
    /// As processes of this machine, without isolation
    Process,
}

impl RuntimeArg {
    fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Docker => "docker",
            Self::Process => "process",
        }
    }
}

/// Runs the cluster until Ctrl-C.
pub fn run(args: DevArgs, format: Format) -> anyhow::Result<()> {
    telemetry::init(LOG);
    if let Some(path) = &args.deploy {
        deploy::check(path)?;
    }
    let data_dir = data_dir(args.data_dir.as_deref())?;
    // Held until the end: what two of them would do to one log cannot be undone.
    let _lock = lock(&data_dir)?;
    let ports = Ports::choose(&args, provision::kept_grpc(&data_dir)?.as_deref())?;
    ports.check_free()?;
    let files = provision::provision(&layout(&data_dir, args.runtime, &ports))?;
    let https = ports.tls.map(|addresses| Https::open(&data_dir, addresses)).transpose()?;
    let context_path = save_context(&files.context)?;

    let stop = role::cancelled_by_signals()?;
    let roles = Roles::start(&files)?;
    let places = Places { context: &context_path, data_dir: &data_dir, https: https.as_ref() };
    let served = block_on(serve(&args, format, &files, &places, &roles, &stop));
    let interrupted = stop.is_cancelled() || served.as_ref().is_err_and(anyhow::Error::is::<Interrupted>);
    stop.cancel();
    let stopped = roles.stop();
    if interrupted { stopped } else { served.and(stopped) }
}

/// Waits until all is up, deploys if asked to, says what there is, and then does nothing until it is told to end.
async fn serve(
    args: &DevArgs,
    format: Format,
    files: &ClusterFiles,
    places: &Places<'_>,
    roles: &Roles,
    stop: &CancellationToken,
) -> anyhow::Result<()> {
    let (client, other) = (Client::new(&files.context)?, Client::new(&files.context)?);
    let work = async {
        let progress = Progress::start();
        let mut state = ready::until_ready(files, &progress).await?;
        state.starting = answers::not_answering(&state.apps, &files.listen, answers::ANSWER_WITHIN, &progress).await?;
        drop(progress);
        summary::print_cluster(&state, files, places)?;
        let deployed = match &args.deploy {
            Some(path) => deploy_or_say_why(&Session::of(client, format), path).await?,
            None => None,
        };
        summary::print_next(deployed.as_ref(), args.deploy.as_deref())?;
        std::future::pending::<anyhow::Result<()>>().await
    };
    let certified = async {
        match places.https {
            Some(https) => https.keep(&other).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => Ok(()),
        error = roles.first_end() => Err(error),
        result = work => result,
        never = certified => match never {},
    }
}

/// Deploys `path`; the app. A source that cannot be deployed is no reason to take the cluster down: whoever mends
/// it deploys again.
async fn deploy_or_say_why(session: &Session, path: &Path) -> anyhow::Result<Option<App>> {
    let args = deploy::DeployArgs::live(path.to_owned(), AppArg::default());
    match deploy::run(session, args).await {
        Ok(()) => match Manifest::load(path)?.and_then(|manifest| manifest.name) {
            Some(name) => Ok(Some(session.client.app(&name).await?)),
            None => Ok(None),
        },
        Err(error) if error.is::<Interrupted>() => Err(error),
        Err(error) => {
            crate::report(&error);
            output::note("the cluster stays up; mend what is wrong, then deploy again");
            Ok(None)
        }
    }
}

fn data_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let folder = match given {
        Some(folder) => folder.to_owned(),
        None => context::home("XDG_DATA_HOME", ".local/share")?.join("pontoon/dev"),
    };
    context::make_private_folder(&folder)
        .with_context(|| format!("cannot make the data directory {}", folder.display()))?;
    // The roles' configurations hold absolute paths.
    fs::canonicalize(&folder).with_context(|| format!("cannot use the data directory {}", folder.display()))
}

fn lock(data_dir: &Path) -> anyhow::Result<FolderLock> {
    FolderLock::try_take(data_dir).map_err(|error| match error {
        LockError::Held { .. } => anyhow::Error::from(error)
            .context("another `pontoon dev` runs here: stop it, or give this one its own --data-dir and ports"),
        error => error.into(),
    })
}

fn layout(data_dir: &Path, runtime: RuntimeArg, ports: &Ports) -> Layout {
    let site = |name: &str| format!("dev.{name}").parse().expect("a valid site name");
    let controllers = ["north", "east", "west"].into_iter().zip(ports.rest.iter().zip(&ports.grpc));
    let hosts = ["east", "west"];
    let agent = |(at, name): (usize, &str)| AgentLayout {
        name: format!("host-{name}").parse().expect("a valid host name"),
        site: site(name),
        // 1,000 ports for each, so that two agents of one machine never choose the same.
        ports: {
            let first = 20_000 + 1_000 * at;
            format!("{first}-{}", first + 999)
        },
        memory: memory_share(hosts.len() as u64),
    };
    Layout {
        data_dir: data_dir.to_owned(),
        cluster_prefix: "dev".into(),
        controllers: controllers
            .map(|(name, (rest, grpc))| ControllerLayout {
                name: name.parse().expect("a valid controller name"),
                site: site(name),
                rest: *rest,
                grpc: *grpc,
            })
            .collect(),
        agents: hosts.into_iter().enumerate().map(agent).collect(),
        balancers: hosts
            .into_iter()
            .zip(ports.balancers.iter().zip(&ports.balancers_tls()))
            .map(|(name, (listen, listen_tls))| BalancerLayout {
                name: format!("balancer-{name}").parse().expect("a valid balancer name"),
                site: site(name),
                listen: *listen,
                listen_tls: *listen_tls,
                // Any port: the controllers are told which it got.
                peer_listen: Some(std::net::SocketAddr::from(([127, 0, 0, 1], 0))),
            })
            .collect(),
        runtime: runtime.as_str().into(),
        base_domain: provision::BASE_DOMAIN.into(),
        stop_servos_on_exit: true,
    }
}

/// Of this machine's memory, for each of `hosts` agents: they share it, and each would offer all of it. A quarter
/// (at most 2 GiB) stays with the machine.
fn memory_share(hosts: u64) -> Option<MemoryBytes> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let kib: u64 =
        text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?.trim().strip_suffix(" kB")?.parse().ok()?;
    let total = kib * 1024;
    let offered = total - (total / 4).min(MemoryBytes::mib(2048).0);
    Some(MemoryBytes::mib(offered / hosts / MemoryBytes::mib(1).0))
}

/// Makes this cluster the current context; what was called `dev` before is kept under another name.
fn save_context(context: &Context) -> anyhow::Result<PathBuf> {
    let path = Contexts::default_path()?;
    // A file that cannot be read is said to be wrong by whoever needs what is in it; it is kept beside the new one.
    let mut contexts = match Contexts::load(&path) {
        Ok(contexts) => contexts,
        Err(error) => {
            let kept = path.with_extension("toml.unreadable");
            fs::rename(&path, &kept).with_context(|| format!("cannot keep {}", path.display()))?;
            output::note(&format!("{error}; it is kept as {}", kept.display()));
            Contexts::default()
        }
    };
    if let Some(aside) = contexts.put_aside_and_put("dev", context.clone()) {
        output::note(&format!("the context dev led to another cluster; it is called {aside} now"));
    }
    contexts.save(&path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_directory_has_one_holder_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let first = lock(folder.path()).unwrap();
        let error = format!("{:#}", lock(folder.path()).unwrap_err());
        assert!(error.contains(&std::process::id().to_string()) && error.contains("--data-dir"), "{error}");
        drop(first);
        lock(folder.path()).unwrap();
    }

    #[test]
    fn hosts_of_one_machine_share_its_memory() {
        let (one, two) = (memory_share(1).unwrap(), memory_share(2).unwrap());
        assert!(two.0 * 2 <= one.0 && two > MemoryBytes::mib(16), "{one} {two}");
    }
}
