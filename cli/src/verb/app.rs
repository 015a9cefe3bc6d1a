//! `pontoon app`: make, list, show, destroy.

use std::io::{self, IsTerminal, Write};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use pontoon_api::App;
use pontoon_model::AppName;

use crate::Usage;
use crate::args::AppArg;
use crate::output::{self, age, or_none, pairs, table};
use crate::session::{Session, app_of};

/// The verbs of `app`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make an app
    Create {
        /// Its name: also the first label of its host name
        name: AppName,
    },
    /// List the apps
    List,
    /// Show an app
    Show(Which),
    /// Destroy an app with its releases, environment and servos
    Destroy {
        /// Which app
        #[command(flatten)]
        which: Which,
        /// Do not ask
        #[arg(short, long)]
        yes: bool,
    },
}

/// An app, with or without `--app` before its name.
#[derive(Debug, Args)]
pub struct Which {
    /// Its name
    pub name: Option<AppName>,
    /// Its name
    #[command(flatten)]
    pub app: AppArg,
}

impl Which {
    fn name(self) -> anyhow::Result<AppName> {
        match (self.name, &self.app.app) {
            (Some(name), Some(other)) if name != *other => {
                Err(Usage(format!("two apps are named, {name} and {other}: name one")).into())
            }
            (Some(name), _) => Ok(name),
            (None, _) => app_of(&self.app),
        }
    }
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    let client = &session.client;
    match verb {
        Verb::Create { name } => {
            let app = client.create_app(&name).await?;
            output::print(session.format, &app, |app| format!("created {}", app.name))?;
        }
        Verb::List => output::print(session.format, &client.apps().await?, |apps| list(apps))?,
        Verb::Show(which) => output::print(session.format, &client.app(&which.name()?).await?, show)?,
        Verb::Destroy { which, yes } => {
            let name = which.name()?;
            if !yes {
                client.app(&name).await?;
                ask(&name)?;
            }
            let changed = client.destroy_app(&name).await?;
            output::print(session.format, &changed, |_| format!("destroyed {name}"))?;
        }
    }
    Ok(())
}

/// Goes on only if the name is typed.
fn ask(name: &AppName) -> anyhow::Result<()> {
    if !io::stdin().is_terminal() {
        return Err(Usage(format!("destroying {name} cannot be undone: say --yes")).into());
    }
    let mut err = io::stderr().lock();
    write!(err, "This destroys {name} with its releases, environment and servos for good.\nType its name to go on: ")?;
    err.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).context("cannot read the answer")?;
    if answer.trim() != name.as_str() {
        bail!("that is not {name}: nothing was destroyed");
    }
    Ok(())
}

fn list(apps: &[App]) -> String {
    let row = |app: &App| {
        let wanted: u32 = app.scale.values().map(super::scale::total).sum();
        let url = app.urls.first().cloned().unwrap_or_default();
        [app.name.to_string(), or_none(app.live), format!("{}/{wanted}", app.ready), age(app.created_at), url]
    };
    table(["NAME", "LIVE", "READY", "AGE", "URL"], apps.iter().map(row))
}

fn show(app: &App) -> String {
    let mut lines = vec![
        ("name", app.name.to_string()),
        ("live", or_none(app.live)),
        ("deployment", or_none(app.deployment)),
        ("ready", app.ready.to_string()),
        ("age", age(app.created_at)),
        ("domains", app.domains.join(", ")),
        ("urls", app.urls.join(", ")),
    ];
    if !app.labels.is_empty() {
        lines.push(("labels", super::label::words(&app.labels)));
    }
    lines.extend(app.waiting.iter().map(|waiting| ("waiting", waiting.clone())));
    format!("{}\n\n{}", pairs(lines), super::scale::list(&app.scale))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use expect_test::expect;
    use pontoon_api::AppScale;
    use pontoon_kit::clock;
    use pontoon_model::{CpuMillis, MemoryBytes};

    use super::*;

    fn guestbook() -> App {
        let scale = AppScale {
            count: 1,
            sites: BTreeMap::from([("home.attic".parse().unwrap(), 2)]),
            memory: MemoryBytes::mib(256),
            cpu: CpuMillis(500),
        };
        App {
            name: "guestbook".parse().unwrap(),
            created_at: clock::unix_millis() - 3 * 3_600_000,
            domains: vec!["guestbook.localhost".into()],
            urls: vec!["http://guestbook.localhost:8000/".into(), "http://guestbook.localhost:8001/".into()],
            live: Some("v3".parse().unwrap()),
            deployment: None,
            labels: [("team".into(), "blue".into())].into_iter().collect(),
            scale: BTreeMap::from([("web".parse().unwrap(), scale)]),
            ready: 2,
            waiting: vec!["0 of 2 hosts in home.attic fit: 2 lack 256M".into()],
        }
    }

    #[test]
    fn apps_are_listed_one_a_line() {
        expect![[r#"
            NAME        LIVE   READY   AGE   URL
            guestbook   v3     2/3     3h    http://guestbook.localhost:8000/"#]]
        .assert_eq(&list(&[guestbook()]));
    }

    #[test]
    fn an_app_is_shown_with_what_it_waits_for() {
        expect![[r#"
            name:        guestbook
            live:        v3
            deployment:  -
            ready:       2
            age:         3h
            domains:     guestbook.localhost
            urls:        http://guestbook.localhost:8000/, http://guestbook.localhost:8001/
            labels:      team=blue
            waiting:     0 of 2 hosts in home.attic fit: 2 lack 256M

            PROCESS   ANYWHERE   SITES          MEMORY   CPU
            web       1          home.attic=2   256M     0.5"#]]
        .assert_eq(&show(&guestbook()));
    }

    #[test]
    fn json_is_what_the_api_answers() {
        let json = serde_json::to_value(guestbook()).unwrap();
        assert_eq!((&json["name"], &json["live"], &json["ready"]), (&"guestbook".into(), &3.into(), &2.into()));
    }

    #[test]
    fn two_different_names_are_refused() {
        let which = Which { name: "a".parse().ok(), app: AppArg { app: "b".parse().ok() } };
        assert!(which.name().unwrap_err().is::<Usage>());
    }
}
