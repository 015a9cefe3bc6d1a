//! `pontoon deploy`: pack, upload, build, wait until it is live.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use pontoon_api::beside::SetBeside;
use pontoon_api::{Build, ErrorCode, Source, StartBuild};
use pontoon_model::{AppName, DeploymentId};

use super::follow::{FollowError, Follower};
use super::{canary, wait};
use crate::args::AppArg;
use crate::client::Client;
use crate::manifest::{self, Manifest};
use crate::pack::{self, Limits, PackError, Packed};
use crate::progress::{Progress, size};
use crate::session::Session;
use crate::{Interrupted, Usage};

/// Arguments of `deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// The directory that holds the app's source
    #[arg(default_value = ".")]
    pub path: PathBuf,
    /// The app; without it, the name in the source's pontoon.toml
    #[command(flatten)]
    pub app: AppArg,
    /// Run it beside the live release, at a host name of its own; `pontoon promote` makes it live
    #[arg(long, group = "beside")]
    pub preview: bool,
    /// Run it beside the live release, and send it a share of the requests, e.g. 10%; `pontoon canary promote` makes it live
    #[arg(long, value_name = "SHARE", group = "beside", value_parser = canary::parse_share)]
    pub canary: Option<u8>,
    /// How many servos run beside the live release; without it, the share of its own, rounded up
    #[arg(long, value_name = "N", requires = "beside")]
    pub servos: Option<u32>,
}

impl DeployArgs {
    /// What becomes live as soon as it is ready.
    pub fn live(path: PathBuf, app: AppArg) -> Self {
        Self { path, app, preview: false, canary: None, servos: None }
    }

    /// How it runs beside the live release, if it shall.
    fn beside(&self) -> Option<SetBeside> {
        let share = self.canary.or_else(|| self.preview.then_some(0))?;
        Some(SetBeside { share, servos: self.servos })
    }
}

/// Deploys and says where it is live.
pub async fn run(session: &Session, args: DeployArgs) -> anyhow::Result<()> {
    // What to say when Ctrl-C ends the waiting: until the build is asked for, nothing goes on.
    let goes_on = RefCell::new("nothing was deployed".to_owned());
    tokio::select! {
        result = deploy(session, args, &goes_on) => result,
        signal = tokio::signal::ctrl_c() => {
            signal.context("cannot listen for Ctrl-C")?;
            Err(Interrupted(goes_on.borrow().clone()).into())
        }
    }
}

async fn deploy(session: &Session, args: DeployArgs, goes_on: &RefCell<String>) -> anyhow::Result<()> {
    let client = &session.client;
    let progress = Arc::new(Progress::start());
    let (app, manifest) = name_and_manifest(&args)?;

    if args.canary.is_some() {
        // Before anything is made for it.
        let live = match client.app(&app).await {
            Ok(app) => app.live.is_some(),
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error.into()),
        };
        if !live {
            bail!("{app} has no live release beside which a canary could run; deploy it once without --canary");
        }
    }
    progress.now("packing the source");
    let packed = pack_apart(&args.path).await?;
    for path in &packed.left_out {
        progress.line(&format!("left out, as it is neither file, folder nor link: {}", path.display()));
    }
    let created = ensure_app(client, &app, args.app.app.is_some(), &manifest, &progress).await?;

    let source = match upload(client, &app, &packed, &progress).await {
        Ok(source) => source,
        Err(error) => return Err(undo(client, &app, created, error, &progress).await),
    };
    progress.line(&describe(&source, &packed));
    drop(packed);

    *goes_on.borrow_mut() =
        format!("the deployment goes on without this command; `pontoon ps --app {app}` shows how far it is");
    let wanted = StartBuild { source: source.digest, beside: args.beside() };
    let build = client.start_build(&app, &wanted).await?;
    let deployment = follow_build(client, &app, build, &progress).await?;
    let deployment = wait::deployment(client, &app, deployment, &progress).await?;
    if deployment.wanted > 0 {
        progress.step(&format!("{0} of {0} {1} ready", deployment.wanted, wait::servos(deployment.wanted)));
    }
    let progress = Arc::into_inner(progress).context("the upload still reports progress")?;
    if wanted.beside.is_some() {
        return canary::runs(session, &app, &deployment, progress).await;
    }
    wait::live(session, &app, &deployment, progress).await
}

/// Whether the directory and its name are there, for one who has much to do before the deploy.
pub(crate) fn check(path: &Path) -> anyhow::Result<()> {
    let args = DeployArgs::live(path.to_owned(), AppArg::default());
    name_and_manifest(&args).map(|_| ())
}

fn name_and_manifest(args: &DeployArgs) -> anyhow::Result<(AppName, Manifest)> {
    // Before its pontoon.toml is missed: that is not what is wrong.
    if !args.path.is_dir() {
        return Err(PackError::NotADirectory { path: args.path.clone() }.into());
    }
    let manifest = Manifest::load_whole(&args.path)?.unwrap_or_default();
    Ok((choose_name(args, &manifest)?, manifest))
}

fn choose_name(args: &DeployArgs, manifest: &Manifest) -> anyhow::Result<AppName> {
    let name = args.app.app.clone().or_else(|| manifest.name.clone());
    name.ok_or_else(|| {
        let file = args.path.join(manifest::FILE);
        let text = format!("no app is named: give --app NAME, or write name = \"...\" into {}", file.display());
        Usage(text).into()
    })
}

/// Packs on a thread of its own, so that Ctrl-C is heard meanwhile.
async fn pack_apart(path: &Path) -> anyhow::Result<Packed> {
    let path = path.to_owned();
    let packed = tokio::task::spawn_blocking(move || pack::pack(&path, Limits::default())).await;
    Ok(packed.context("packing ended without a result")??)
}

/// An app that was made for a source that is refused goes with it: nothing half done is left.
async fn undo(
    client: &Client,
    app: &AppName,
    created: bool,
    error: anyhow::Error,
    progress: &Progress,
) -> anyhow::Error {
    if !created {
        return error;
    }
    match client.destroy_app(app).await {
        Ok(_) => {
            progress.line(&format!("removed the app {app} again"));
            error
        }
        Err(left) => error.context(format!("app {app} was made and is left ({left})")),
    }
}

/// An app that `pontoon.toml` names is made when it is missing; one that was typed may be a typing error.
/// Whether it was made.
async fn ensure_app(
    client: &Client,
    app: &AppName,
    typed: bool,
    manifest: &Manifest,
    progress: &Progress,
) -> anyhow::Result<bool> {
    match client.app(app).await {
        Ok(_) => return Ok(false),
        Err(error) if !error.is_not_found() => return Err(error.into()),
        Err(_) if typed => bail!("there is no app {app}: check the name, or make it with `pontoon app create {app}`"),
        Err(_) => {}
    }
    match client.create_app(app).await {
        Ok(_) => progress.line(&format!("created the app {app}")),
        // Someone else was faster.
        Err(error) if error.code() == Some(ErrorCode::Conflict) => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    for scale in &manifest.scale {
        if let Err(error) = client.set_scale(app, scale).await {
            let error = anyhow::Error::from(error).context("cannot apply [scale] of pontoon.toml");
            return Err(undo(client, app, true, error, progress).await);
        }
    }
    Ok(true)
}

async fn upload(client: &Client, app: &AppName, packed: &Packed, progress: &Arc<Progress>) -> anyhow::Result<Source> {
    progress.now(&format!("uploading {}", size(packed.size)));
    let (shown, total) = (Arc::downgrade(progress), packed.size);
    let sent = Arc::new(move |done| {
        if let Some(progress) = shown.upgrade() {
            progress.bytes(done, total);
        }
    });
    Ok(client.upload(app, packed.file.path(), packed.size, sent).await?)
}

fn describe(source: &Source, packed: &Packed) -> String {
    let processes: Vec<_> = source.processes.iter().map(|(name, command)| format!("{name}: {command}")).collect();
    format!(
        "uploaded {} files ({}): {} because of {}; {}",
        packed.files,
        size(packed.size),
        source.language,
        source.because,
        processes.join("; ")
    )
}

/// Shows what the build writes until it ends, then what it began.
async fn follow_build(
    client: &Client,
    app: &AppName,
    mut build: Build,
    progress: &Progress,
) -> anyhow::Result<DeploymentId> {
    let id = build.id;
    let mut log = Follower::default();
    loop {
        match build.state.as_str() {
            "failed" => {
                if !log.has_seen_any() {
                    wait::last_lines(progress, &build.last_lines);
                }
                let reason = build.reason.as_deref().unwrap_or("no reason is known");
                bail!("the build of {app} failed: {reason}");
            }
            "succeeded" => {
                if let Some(deployment) = build.deployment {
                    return Ok(deployment);
                }
            }
            "queued" => match &build.reason {
                Some(reason) => progress.now(&format!("the build waits: {reason}")),
                None => progress.now("the build waits for a host"),
            },
            _ => {
                progress.now("building");
                let shown = log
                    .follow(
                        async || client.build_log(app, id).await,
                        |line| {
                            progress.line(&line.text);
                            Ok(())
                        },
                    )
                    .await;
                // The build's state is what counts; its log may be out of reach while a controller or host is away.
                if let Err(FollowError::Log(error)) = shown {
                    tracing::debug!(%error, "the build log broke");
                }
            }
        }
        tokio::time::sleep(wait::POLL).await;
        build = wait::appeared(async || client.build(app, id).await).await?;
    }
}
