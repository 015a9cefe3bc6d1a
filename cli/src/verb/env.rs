//! `pontoon env`: an app's environment. Values are secrets until proven otherwise: shown only when asked for.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use pontoon_api::ChangeEnv;

use super::wait;
use crate::args::{AppArg, Format, WaitArg};
use crate::output::{self, table};
use crate::session::{Session, app_of};
use crate::small_file::{self, MOST_ENV};
use crate::{Usage, dotenv};

/// The verbs of `env`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Set variables; makes a new release if one is live
    Set(SetArgs),
    /// Set the variables that a file or standard input holds; makes a new release if one is live
    Import(ImportArgs),
    /// Remove variables; makes a new release if one is live
    Unset(UnsetArgs),
    /// List the variables, values hidden
    List(ListArgs),
    /// Print one variable's value
    Get(GetArgs),
}

/// Arguments of `env set`.
#[derive(Debug, Args)]
#[command(
    after_help = "What is typed here can be seen by others of this machine, in its list of processes, and stays in the \
                        shell's history.\nFor a secret: pontoon env import FILE, or - for standard input."
)]
pub struct SetArgs {
    /// What to set
    #[arg(required = true, value_name = "NAME=VALUE", value_parser = parse_pair)]
    pub pairs: Vec<(String, String)>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Arguments of `env import`.
#[derive(Debug, Args)]
#[command(
    after_help = "A file has a NAME=VALUE on each line, as files called .env have; what is set otherwise stays. A value in 'single' \
                        quotes is taken as it is, one in \"double\" quotes knows \\n, \\t, \\\" and \\\\; both may have several lines. \
                        A $ is a $ everywhere.\n\nExamples:\n  pontoon env import .env\n  \
                        pontoon env import - <.env\n  pontoon env import --as TLS_KEY key.pem"
)]
pub struct ImportArgs {
    /// The file; - is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Take the whole file as the value of this one variable, without the line break at its end
    #[arg(long = "as", value_name = "NAME")]
    pub name: Option<String>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Arguments of `env unset`.
#[derive(Debug, Args)]
pub struct UnsetArgs {
    /// What to remove
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// Whether to wait
    #[command(flatten)]
    pub wait: WaitArg,
}

/// Arguments of `env list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// Show the values
    #[arg(long)]
    pub show: bool,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
}

/// Arguments of `env get`.
#[derive(Debug, Args)]
pub struct GetArgs {
    /// Which variable
    pub name: String,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".into()),
    }
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Set(args) => {
            Usage::unless_once(args.pairs.iter().map(|(name, _)| name))?;
            let change = ChangeEnv { set: args.pairs.into_iter().collect(), unset: Vec::new() };
            change_env(session, &args.app, change, &args.wait).await
        }
        Verb::Import(args) => {
            let change = ChangeEnv { set: imported(&args)?, unset: Vec::new() };
            change_env(session, &args.app, change, &args.wait).await
        }
        Verb::Unset(args) => {
            let change = ChangeEnv { set: BTreeMap::new(), unset: args.names };
            change_env(session, &args.app, change, &args.wait).await
        }
        Verb::List(args) => {
            let env = session.client.env(&app_of(&args.app)?).await?;
            list(&env, args.show, session.format)
        }
        Verb::Get(args) => {
            let app = app_of(&args.app)?;
            let env = session.client.env(&app).await?;
            match env.get(&args.name) {
                Some(value) => Ok(output::print(session.format, value, Clone::clone)?),
                None => bail!("{app} has no variable {}; `pontoon env list --app {app}` lists them", args.name),
            }
        }
    }
}

fn imported(args: &ImportArgs) -> anyhow::Result<BTreeMap<String, String>> {
    let what = if args.file == Path::new("-") { "standard input".to_owned() } else { args.file.display().to_string() };
    let text = small_file::read_or_stdin(&args.file, MOST_ENV).with_context(|| format!("cannot read {what}"))?;
    if let Some(name) = &args.name {
        let value = text.strip_suffix('\n').map_or(text.as_str(), |text| text.strip_suffix('\r').unwrap_or(text));
        return Ok(BTreeMap::from([(name.clone(), value.to_owned())]));
    }
    let set = dotenv::parse(&text).with_context(|| format!("cannot use {what}, and nothing was set"))?;
    if set.is_empty() {
        return Err(Usage(format!("{what} sets no variable; write lines like NAME=VALUE into it")).into());
    }
    Ok(set)
}

async fn change_env(session: &Session, app: &AppArg, change: ChangeEnv, wait: &WaitArg) -> anyhow::Result<()> {
    let app = app_of(app)?;
    let before = session.client.env(&app).await?;
    let changed = session.client.change_env(&app, &change).await?;
    let done = match changed.release {
        Some(release) => format!("changed, with {release}"),
        None if !changes(&before, &change) => "nothing changed".to_owned(),
        None => "changed; it takes effect with the next release".to_owned(),
    };
    wait::change(session, &app, changed, wait, &done).await
}

/// Whether `change` makes another environment of `env`.
fn changes(env: &BTreeMap<String, String>, change: &ChangeEnv) -> bool {
    change.set.iter().any(|(name, value)| env.get(name) != Some(value))
        || change.unset.iter().any(|name| env.contains_key(name))
}

fn list(env: &BTreeMap<String, String>, show: bool, format: Format) -> anyhow::Result<()> {
    if show {
        output::print(format, env, shown)?;
    } else {
        // Null, so that no program takes the hidden value for the real one.
        let hidden: BTreeMap<&String, Option<String>> = env.keys().map(|name| (name, None)).collect();
        output::print(format, &hidden, |_| {
            table(["NAME", "VALUE"], env.keys().map(|name| [name.clone(), "(hidden)".into()]))
        })?;
        if format == Format::Table && !env.is_empty() && io::stderr().is_terminal() {
            output::note("--show shows the values");
        }
    }
    Ok(())
}

/// A line each, as `pontoon env import` reads them: a value of several lines is told from several variables.
fn shown(env: &BTreeMap<String, String>) -> String {
    env.iter().map(|(name, value)| dotenv::line(name, value)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_hold_equals_signs_and_be_empty() {
        assert_eq!(parse_pair("A=b=c"), Ok(("A".into(), "b=c".into())));
        assert_eq!(parse_pair("A="), Ok(("A".into(), String::new())));
        assert!(parse_pair("A").is_err() && parse_pair("=b").is_err());
    }

    #[test]
    fn shown_values_are_lines() {
        let of =
            |pairs: [(&str, &str); 2]| BTreeMap::from(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        assert_eq!(shown(&of([("B", "2"), ("A", "1 x")])), "A=1 x\nB=2");
        assert_eq!(shown(&of([("A", "1\nB=2\x1b[2J"), ("C", "3")])), "A=\"1\\nB=2\\u{1b}[2J\"\nC=3");
    }
}
