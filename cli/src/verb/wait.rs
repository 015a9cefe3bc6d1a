//! Waiting for what a change began, and saying how far it is.

use std::future::Future;
use std::time::Duration;

use anyhow::anyhow;
use pontoon_api::{App, Changed, Deployment};
use pontoon_model::{AppName, DeploymentId, ProcessName, ReleaseNumber};

use super::scale;
use crate::Interrupted;
use crate::args::{Format, WaitArg};
use crate::client::{Client, ClientError};
use crate::output;
use crate::progress::Progress;
use crate::session::Session;

/// Between two looks: short beside the start of a container, long beside the work of a look.
pub(super) const POLL: Duration = Duration::from_millis(100);
/// How long something just made may be unknown to the controller that is asked.
const APPEARS_WITHIN: Duration = Duration::from_secs(5);
/// How the reason begins of a deployment that did not fail by itself: the API has no state of its own for it.
const SUPERSEDED: &str = "a newer deployment";

/// Waits until `deployment` is live; an error with its reason if it failed.
pub(super) async fn deployment(
    client: &Client,
    app: &AppName,
    id: DeploymentId,
    progress: &Progress,
) -> anyhow::Result<Deployment> {
    loop {
        let deployment = appeared(async || client.deployment(app, id).await).await?;
        match deployment.state.as_str() {
            "done" => return Ok(deployment),
            "failed" => return Err(failure(&deployment, progress)),
            _ => progress.now(&step(&deployment)),
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Asks again while the answer is "no such thing": the controller asked may not have heard of it yet.
pub(super) async fn appeared<T>(ask: impl AsyncFn() -> Result<T, ClientError>) -> Result<T, ClientError> {
    let started = std::time::Instant::now();
    loop {
        match ask().await {
            Err(error) if error.is_not_found() && started.elapsed() < APPEARS_WITHIN => {
                tokio::time::sleep(POLL).await;
            }
            answer => return answer,
        }
    }
}

/// What a deployment is doing, in a few words.
fn step(deployment: &Deployment) -> String {
    let Deployment { ready, wanted, .. } = deployment;
    let words = match deployment.state.as_str() {
        "switching" => "switching traffic".to_owned(),
        _ if *wanted == 0 => "nothing to start".to_owned(),
        _ if *ready == 0 => format!("placing and starting {wanted} {}", servos(*wanted)),
        "replacing" => format!("{ready} of {wanted} servos ready, replacing the others"),
        _ => format!("{ready} of {wanted} {} ready", servos(*wanted)),
    };
    match &deployment.reason {
        Some(reason) => format!("{words}; waiting: {reason}"),
        None => words,
    }
}

pub(super) fn servos(count: u32) -> &'static str {
    if count == 1 { "servo" } else { "servos" }
}

fn failure(deployment: &Deployment, progress: &Progress) -> anyhow::Error {
    last_lines(progress, &deployment.last_lines);
    let reason = deployment.reason.as_deref().unwrap_or("no reason is known");
    if reason.starts_with(SUPERSEDED) {
        return anyhow!("the deployment of {} was superseded: {reason}", deployment.release);
    }
    anyhow!("the deployment of {} failed, traffic stays where it was: {reason}", deployment.release)
}

/// Shows the end of what something wrote before it failed.
pub(super) fn last_lines(progress: &Progress, lines: &[String]) {
    if !lines.is_empty() {
        progress.line("its last lines:");
        lines.iter().for_each(|line| progress.line(&format!("  {line}")));
    }
}

/// After a change: waits for the deployment it began, if any, and prints the result. `done` is what to say where
/// nothing needs to be waited for.
pub(super) async fn change(
    session: &Session,
    app: &AppName,
    changed: Changed,
    wait: &WaitArg,
    done: &str,
) -> anyhow::Result<()> {
    let Some(id) = changed.deployment.filter(|_| !wait.no_wait) else {
        return Ok(output::print(session.format, &changed, |_| done.to_owned())?);
    };
    let progress = Progress::start();
    let goes_on = format!("the deployment goes on; `pontoon ps --app {app}` shows how far it is");
    let deployment = unless_interrupted(deployment(&session.client, app, id, &progress), &goes_on).await?;
    live(session, app, &deployment, progress).await
}

/// Prints that a release is live, and where.
pub(super) async fn live(
    session: &Session,
    app: &AppName,
    deployment: &Deployment,
    progress: Progress,
) -> anyhow::Result<()> {
    let said = match session.format {
        Format::Json => String::new(),
        Format::Table => what_is_live(deployment.release, &session.client.app(app).await?),
    };
    drop(progress);
    Ok(output::print(session.format, deployment, |_| said)?)
}

/// A URL only where something answers there.
fn what_is_live(release: ReleaseNumber, app: &App) -> String {
    let web = ProcessName::web();
    let wanted = |process: &ProcessName| app.scale.get(process).map_or(0, scale::total);
    if wanted(&web) > 0 {
        return match app.urls.first() {
            Some(url) => format!("{release} is live: {url}"),
            None => format!("{release} is live; no balancer is there yet to reach it through"),
        };
    }
    let running: Vec<_> = app.scale.keys().filter(|process| wanted(process) > 0).map(ToString::to_string).collect();
    // One that takes traffic rather than one that does not.
    let to_start = app.scale.keys().find(|process| **process == web).or_else(|| app.scale.keys().next());
    match (to_start, running.as_slice()) {
        (Some(process), []) => format!(
            "{release} is live, but nothing of it runs, as it is scaled to 0; \
             `pontoon scale {process}=1 --app {}` starts a servo",
            app.name
        ),
        (Some(process), running) if *process == web => format!(
            "{release} is live, and runs {}; it has no URL, as web is scaled to 0; \
             `pontoon scale web=1 --app {}` starts a servo",
            running.join(", "),
            app.name
        ),
        (_, running) => {
            format!("{release} is live, and runs {}; it has no URL without a web process", running.join(", "))
        }
    }
}

/// Does `work`; Ctrl-C ends it, with an error that says what goes on without us.
pub(super) async fn unless_interrupted<T>(
    work: impl Future<Output = anyhow::Result<T>>,
    goes_on: &str,
) -> anyhow::Result<T> {
    tokio::select! {
        result = work => result,
        signal = tokio::signal::ctrl_c() => match signal {
            Ok(()) => Err(Interrupted(goes_on.to_owned()).into()),
            Err(error) => Err(error.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;
    use pontoon_api::AppScale;
    use pontoon_model::{CpuMillis, MemoryBytes};

    use super::*;

    #[test]
    fn a_deployment_says_what_it_is_doing() {
        let mut deployment = Deployment {
            id: DeploymentId(1),
            app: "guestbook".parse().unwrap(),
            release: "v3".parse().unwrap(),
            state: "starting".into(),
            ready: 0,
            wanted: 2,
            reason: None,
            last_lines: Vec::new(),
        };
        assert_eq!(step(&deployment), "placing and starting 2 servos");
        deployment.reason = Some("0 of 2 hosts fit".into());
        assert_eq!(step(&deployment), "placing and starting 2 servos; waiting: 0 of 2 hosts fit");
        deployment.reason = None;
        deployment.ready = 2;
        assert_eq!(step(&deployment), "2 of 2 servos ready");
        deployment.state = "switching".into();
        assert_eq!(step(&deployment), "switching traffic");
    }

    #[test]
    fn a_url_is_only_said_where_something_answers() {
        let mut app = App {
            name: "queue".parse().unwrap(),
            created_at: 0,
            domains: vec!["queue.localhost".into()],
            urls: vec!["http://queue.localhost:8000/".into()],
            live: None,
            deployment: None,
            labels: Default::default(),
            scale: BTreeMap::new(),
            ready: 0,
            waiting: Vec::new(),
        };
        let mut said = |scale: &[(&str, u32)]| {
            let one = |(process, count): &(&str, u32)| {
                let (memory, cpu) = (MemoryBytes::mib(256), CpuMillis(500));
                (process.parse().unwrap(), AppScale { count: *count, sites: BTreeMap::new(), memory, cpu })
            };
            app.scale = scale.iter().map(one).collect();
            what_is_live("v1".parse().unwrap(), &app)
        };
        assert_eq!(said(&[("web", 1), ("worker", 0)]), "v1 is live: http://queue.localhost:8000/");
        expect!["v1 is live, but nothing of it runs, as it is scaled to 0; `pontoon scale worker=1 --app queue` starts a servo"].assert_eq(&said(&[("worker", 0)]));
        expect![
            "v1 is live, but nothing of it runs, as it is scaled to 0; `pontoon scale web=1 --app queue` starts a servo"
        ]
        .assert_eq(&said(&[("web", 0), ("worker", 0)]));
        expect!["v1 is live, and runs worker; it has no URL, as web is scaled to 0; `pontoon scale web=1 --app queue` starts a servo"].assert_eq(&said(&[("web", 0), ("worker", 2)]));
        expect!["v1 is live, and runs worker; it has no URL without a web process"].assert_eq(&said(&[("worker", 2)]));
    }
}
