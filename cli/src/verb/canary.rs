//! `pontoon canary`, `pontoon preview` and `pontoon promote`: releases beside the live one.

use anyhow::anyhow;
use clap::{Args, Subcommand};
use pontoon_api::beside::{Beside, SetBeside};
use pontoon_api::{Changed, Deployment};
use pontoon_model::{AppName, ReleaseNumber};

use super::wait;
use crate::args::{AppArg, WaitArg};
use crate::output::{self, age, table};
use crate::progress::Progress;
use crate::session::{Session, app_of};

/// The verbs of `canary`.
#[derive(Debug, Subcommand)]
pub enum Canary {
    /// Run a release beside the live one, and send it a share of the requests (a new one: `pontoon deploy --canary 10%`)
    Start(StartArgs),
    /// Send it another share of the requests
    Set(SetArgs),
    /// Show it
    Status(AppArg),
    /// Make it the live release: everything goes to it
    Promote(WaitedArgs),
    /// End it: everything goes to the live release
    Stop(AppArg),
}

/// The verbs of `preview`.
#[derive(Debug, Subcommand)]
pub enum Preview {
    /// Run a release beside the live one, at a host name of its own (a new one: `pontoon deploy --preview`)
    Start(PreviewArgs),
    /// List what runs beside the live release
    List(AppArg),
    /// End one of them
    Stop(WhichArgs),
}

/// Arguments of `canary start`.
#[derive(Debug, Args)]
pub struct StartArgs {
    /// Which release, e.g. v2
    pub release: ReleaseNumber,
    /// How many of 100 requests it gets
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub share: u8,
    /// How many servos; without it, its share of the live release's, rounded up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub servos: Option<u32>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Arguments of `canary set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// How many of 100 requests it gets, e.g. 50%
    #[arg(value_parser = parse_share)]
    pub share: u8,
    /// How many servos; without it, its share of the live release's, rounded up
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub servos: Option<u32>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
}

/// Arguments of `canary promote`.
#[derive(Debug, Args)]
pub struct WaitedArgs {
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Arguments of `preview start`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Which release, e.g. v2
    pub release: ReleaseNumber,
    /// How many servos
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub servos: Option<u32>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Arguments of `preview stop`.
#[derive(Debug, Args)]
pub struct WhichArgs {
    /// Which release; needed where there are several
    pub release: Option<ReleaseNumber>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
}

/// Arguments of `promote`.
#[derive(Debug, Args)]
pub struct PromoteArgs {
    /// Which release; needed where several run beside the live one
    pub release: Option<ReleaseNumber>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Does what `verb` of `canary` says.
pub async fn canary(session: &Session, verb: Canary) -> anyhow::Result<()> {
    match verb {
        Canary::Start(args) => {
            let how = SetBeside { share: args.share, servos: args.servos };
            start(session, &app_of(&args.app)?, args.release, &how, &args.wait).await
        }
        Canary::Set(args) => {
            let app = app_of(&args.app)?;
            let release = the_canary(session, &app).await?;
            let how = SetBeside { share: args.share, servos: args.servos };
            let changed = session.client.set_beside(&app, release, &how).await?;
            Ok(output::print(session.format, &changed, |_| format!("{release} gets {} % of the requests", args.share))?)
        }
        Canary::Status(app) => {
            let mut all = session.client.beside(&app_of(&app)?).await?;
            all.retain(|beside| beside.share > 0);
            Ok(output::print(session.format, &all, |all| list(all))?)
        }
        Canary::Promote(args) => {
            let app = app_of(&args.app)?;
            let release = the_canary(session, &app).await?;
            let changed = session.client.promote(&app, release).await?;
            wait::change(session, &app, changed, &args.wait, "promoting").await
        }
        Canary::Stop(app) => {
            let app = app_of(&app)?;
            let release = the_canary(session, &app).await?;
            stop(session, &app, release).await
        }
    }
}

/// Does what `verb` of `preview` says.
pub async fn preview(session: &Session, verb: Preview) -> anyhow::Result<()> {
    match verb {
        Preview::Start(args) => {
            let how = SetBeside { share: 0, servos: args.servos };
            start(session, &app_of(&args.app)?, args.release, &how, &args.wait).await
        }
        Preview::List(app) => {
            let all = session.client.beside(&app_of(&app)?).await?;
            Ok(output::print(session.format, &all, |all| list(all))?)
        }
        Preview::Stop(args) => {
            let app = app_of(&args.app)?;
            let release = which(session, &app, args.release, "pontoon preview stop").await?;
            stop(session, &app, release).await
        }
    }
}

/// Makes what runs beside the live release the live one.
pub async fn promote(session: &Session, args: PromoteArgs) -> anyhow::Result<()> {
    let app = app_of(&args.app)?;
    let release = which(session, &app, args.release, "pontoon promote").await?;
    let changed = session.client.promote(&app, release).await?;
    wait::change(session, &app, changed, &args.wait, "promoting").await
}

/// Reads a share: `10%` or `10`.
pub(super) fn parse_share(text: &str) -> Result<u8, String> {
    let share: Option<u8> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    share.filter(|share| (1..=99).contains(share)).ok_or_else(|| format!("{text:?} is no share; write 1% to 99%"))
}

async fn start(
    session: &Session,
    app: &AppName,
    release: ReleaseNumber,
    how: &SetBeside,
    wait: &WaitArg,
) -> anyhow::Result<()> {
    let changed = session.client.set_beside(app, release, how).await?;
    let Changed { deployment: Some(id), .. } = changed else {
        let said = format!("{release} gets {} % of the requests", how.share);
        return Ok(output::print(session.format, &changed, |_| said)?);
    };
    if wait.no_wait {
        return Ok(output::print(session.format, &changed, |_| format!("starting {release}"))?);
    }
    let progress = Progress::start();
    let goes_on = format!("it goes on; `pontoon preview list --app {app}` shows how far it is");
    let deployment = wait::unless_interrupted(wait::deployment(&session.client, app, id, &progress), &goes_on).await?;
    runs(session, app, &deployment, progress).await
}

/// Prints that a release runs beside the live one, and where.
pub(super) async fn runs(
    session: &Session,
    app: &AppName,
    deployment: &Deployment,
    progress: Progress,
) -> anyhow::Result<()> {
    let all = session.client.beside(app).await?;
    drop(progress);
    let beside = all.into_iter().find(|beside| beside.release == Some(deployment.release));
    let beside = beside.ok_or_else(|| anyhow!("{} of {app} was stopped, or is live by now", deployment.release))?;
    Ok(output::print(session.format, &beside, |beside| said(deployment.release, beside))?)
}

fn said(release: ReleaseNumber, beside: &Beside) -> String {
    let at = match beside.urls.first() {
        Some(url) => url.as_str(),
        None => "no balancer is there yet to reach it through",
    };
    match beside.share {
        0 => format!("{release} runs beside the live release: {at}"),
        share => format!("{release} gets {share} % of the requests, and all of: {at}"),
    }
}

async fn stop(session: &Session, app: &AppName, release: ReleaseNumber) -> anyhow::Result<()> {
    let changed = session.client.stop_beside(app, release).await?;
    Ok(output::print(session.format, &changed, |_| format!("{release} of {app} ends"))?)
}

async fn the_canary(session: &Session, app: &AppName) -> anyhow::Result<ReleaseNumber> {
    let all = session.client.beside(app).await?;
    let canary = all.into_iter().find(|beside| beside.share > 0);
    let canary = canary.ok_or_else(|| {
        anyhow!("{app} has no canary; `pontoon deploy --canary 10%` or `pontoon canary start` begins one")
    })?;
    canary.release.ok_or_else(|| anyhow!("the canary of {app} is still built; try again once it runs"))
}

/// The one that is named, or the only one there is.
async fn which(
    session: &Session,
    app: &AppName,
    named: Option<ReleaseNumber>,
    verb: &str,
) -> anyhow::Result<ReleaseNumber> {
    if let Some(release) = named {
        return Ok(release);
    }
    let all = session.client.beside(app).await?;
    match all.iter().filter_map(|beside| beside.release).collect::<Vec<_>>().as_slice() {
        [only] => Ok(*only),
        [] => {
            Err(anyhow!("nothing runs beside the live release of {app}; `pontoon deploy --preview` begins a preview"))
        }
        several => {
            let names: Vec<_> = several.iter().map(ToString::to_string).collect();
            Err(anyhow!(
                "{} of {app} run beside the live release; say which, as in `{verb} {}`",
                names.join(" and "),
                names[0]
            ))
        }
    }
}

fn list(all: &[Beside]) -> String {
    let row = |one: &Beside| {
        [
            one.release
                .map_or_else(|| one.build.map_or("-".into(), |build| format!("build {build}")), |v| v.to_string()),
            one.state.clone(),
            if one.share == 0 { "-".to_owned() } else { format!("{} %", one.share) },
            format!("{} of {}", one.ready, one.servos),
            one.urls.first().cloned().unwrap_or_else(|| "-".to_owned()),
            age(one.since),
        ]
    };
    table(["RELEASE", "STATE", "SHARE", "SERVOS", "URL", "AGE"], all.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn shares_are_whole_percents_of_some_requests() {
        assert_eq!((parse_share("10%"), parse_share("99")), (Ok(10), Ok(99)));
        for bad in ["0", "100%", "0.5", "ten", "", "%", "-1", "300"] {
            assert!(parse_share(bad).unwrap_err().contains("1% to 99%"), "{bad}");
        }
    }

    #[test]
    fn the_list_says_what_each_gets() {
        let beside = |release, share, state: &str| Beside {
            release,
            build: Some(pontoon_model::BuildId(7)),
            deployment: None,
            state: state.into(),
            share,
            servos: 2,
            ready: 1,
            urls: release.map(|v: ReleaseNumber| format!("http://shop--{v}.localhost/")).into_iter().collect(),
            since: u64::MAX,
        };
        let all = [beside(Some(ReleaseNumber(2)), 10, "serving"), beside(None, 0, "building")];
        expect![[r#"
            RELEASE    STATE      SHARE   SERVOS   URL                          AGE
            v2         serving    10 %    1 of 2   http://shop--v2.localhost/   0s
            build b7   building   -       1 of 2   -                            0s"#]]
        .assert_eq(&list(&all));
    }
}
