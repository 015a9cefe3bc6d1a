//! `pontoon deploy`: pack, upload, build, wait until it is live.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;
use pontoon_api::beside::SetBeside;
use pontoon_api::{App, AppScale, Build, ErrorCode, Source, StartBuild};
use pontoon_model::{AppName, DeploymentId, ProcessName};

use super::follow::{FollowError, Follower};
use super::scale::total;
use super::{canary, run, wait};
use crate::args::{AppArg, Format};
use crate::client::Client;
use crate::manifest::{self, Manifest};
use crate::pack::{self, Limits, PackError, Packed};
use crate::progress::{Progress, size};
use crate::session::Session;
use crate::{Interrupted, Usage, output};

/// The process type that others run before a release gets traffic.
const RELEASE: &str = "release";

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
    #[arg(long, value_name = "N", requires = "beside", value_parser = clap::value_parser!(u32).range(1..))]
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
    let before = ensure_app(client, &app, args.app.app.is_some(), &manifest, &progress).await?;

    let source = match upload(client, &app, &packed, &progress).await {
        Ok(source) => source,
        Err(error) => return Err(undo(client, &app, before.is_none(), error, &progress).await),
    };
    progress.line(&describe(&source, &packed));
    if let Some(command) =
        source.processes.iter().find_map(|(name, command)| (name.as_str() == RELEASE).then_some(command))
    {
        progress.line(&not_a_release_phase(&app, command));
    }
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
    wait::live(session, &app, &deployment, progress).await?;
    if session.format == Format::Table {
        let now = client.app(&app).await?;
        idle(&now, &scaled_by_somebody(before.as_ref(), &manifest)).iter().for_each(|line| output::note(line));
    }
    Ok(())
}

/// What a Procfile made for Heroku expects of this process type.
fn not_a_release_phase(app: &AppName, command: &str) -> String {
    format!(
        "warning: {RELEASE} is not run by a deploy, unlike on Heroku: it is a process type like any other. Once it is live, run: pontoon \
         run --app {app} {}",
        run::quoted(command)
    )
}

/// Process types whose count is what somebody wanted, also where it is none.
fn scaled_by_somebody<'a>(before: Option<&'a App>, manifest: &'a Manifest) -> BTreeSet<&'a ProcessName> {
    let live = before.filter(|app| app.live.is_some());
    let known = live.into_iter().flat_map(|app| app.scale.keys());
    known
        .chain(
            manifest
                .scale
                .iter()
                .filter(|scale| scale.count.is_some() || scale.sites.is_some())
                .filter_map(|scale| scale.process.as_ref()),
        )
        .collect()
}

/// A line for each process type that came with this release, and of which nothing runs. Whether `web` does is said with the URL.
fn idle(app: &App, scaled: &BTreeSet<&ProcessName>) -> Vec<String> {
    let is_idle = |(name, count): &(&ProcessName, &AppScale)| {
        total(count) == 0 && !scaled.contains(name) && !matches!(name.as_str(), "web" | RELEASE)
    };
    let line = |(name, _)| format!("{name}: 0 servos; start one with: pontoon scale {name}=1 --app {}", app.name);
    app.scale.iter().filter(is_idle).map(line).collect()
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
/// What it was before; none if it was made.
async fn ensure_app(
    client: &Client,
    app: &AppName,
    typed: bool,
    manifest: &Manifest,
    progress: &Progress,
) -> anyhow::Result<Option<App>> {
    match client.app(app).await {
        Ok(before) => return Ok(Some(before)),
        Err(error) if !error.is_not_found() => return Err(error.into()),
        Err(_) if typed => bail!("there is no app {app}: check the name, or make it with `pontoon app create {app}`"),
        Err(_) => {}
    }
    match client.create_app(app).await {
        Ok(_) => progress.line(&format!("created the app {app}")),
        // Someone else was faster.
        Err(error) if error.code() == Some(ErrorCode::Conflict) => return Ok(Some(client.app(app).await?)),
        Err(error) => return Err(error.into()),
    }
    for scale in &manifest.scale {
        if let Err(error) = client.set_scale(app, scale).await {
            let error = anyhow::Error::from(error).context("cannot apply [scale] of pontoon.toml");
            return Err(undo(client, app, true, error, progress).await);
        }
    }
    Ok(None)
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

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn app(live: Option<u32>, scale: &[(&str, u32)]) -> App {
        let scale: serde_json::Map<_, _> = scale
            .iter()
            .map(|(name, count)| {
                (name.to_string(), serde_json::json!({ "count": count, "sites": {}, "memory": 1_048_576, "cpu": 500 }))
            })
            .collect();
        serde_json::from_value(serde_json::json!({
            "name": "shop", "created_at": 0, "domains": [], "urls": [], "live": live, "deployment": null, "ready": 0,
            "labels": {}, "scale": scale, "waiting": [],
        }))
        .unwrap()
    }

    #[test]
    fn what_a_release_brings_and_does_not_start_is_told_once() {
        let now = app(Some(1), &[("web", 1), ("worker", 0), ("tcp", 0), ("clock", 1), ("release", 0)]);
        let told = |before: Option<&App>| idle(&now, &scaled_by_somebody(before, &Manifest::default())).join("\n");
        expect![[r#"
            tcp: 0 servos; start one with: pontoon scale tcp=1 --app shop
            worker: 0 servos; start one with: pontoon scale worker=1 --app shop"#]]
        .assert_eq(&told(None));
        // The first deploy failed: nobody was told.
        assert_eq!(told(Some(&app(None, &[("web", 1), ("worker", 0), ("tcp", 0)]))).lines().count(), 2);
        let before = app(Some(1), &[("web", 1), ("worker", 0)]);
        assert_eq!(told(Some(&before)), "tcp: 0 servos; start one with: pontoon scale tcp=1 --app shop");
        let worker = pontoon_api::SetScale { process: "worker".parse().ok(), count: Some(0), ..Default::default() };
        let manifest = Manifest { name: None, scale: vec![worker] };
        assert_eq!(idle(&now, &scaled_by_somebody(None, &manifest)).len(), 1);
    }

    #[test]
    fn a_release_phase_is_told_with_what_to_run() {
        expect![[r"warning: release is not run by a deploy, unlike on Heroku: it is a process type like any other. Once it is live, run: pontoon run --app shop 'echo '\''a'\'' && ./migrate'"]]
            .assert_eq(&not_a_release_phase(&"shop".parse().unwrap(), "echo 'a' && ./migrate"));
    }
}
