//! `pontoon login` and `pontoon logout`: a cluster's addresses and token, checked and kept as a context.

use std::io::{self, IsTerminal};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::Context as _;
use clap::Args;
use pontoon_api::Token;
use pontoon_model::{Digest, Scope};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;

use crate::Usage;
use crate::args::Format;
use crate::client::{Client, tls};
use crate::context::{self, Context, Contexts, split_urls, variables_set};
use crate::output;
use crate::small_file::{self, MOST_SECRET};

/// Arguments of `login`.
#[derive(Debug, Args)]
pub struct LoginArgs {
    /// Where the controllers answer, e.g. https://10.0.0.5:7700; several separated by commas
    #[arg(value_name = "URL")]
    pub url: String,
    /// Read the token from standard input instead of asking for it
    #[arg(long)]
    pub token_stdin: bool,
    /// What the context is called, as --context; without it, the address
    #[arg(long, value_name = "CONTEXT")]
    pub name: Option<String>,
    /// The certificate of who signed the controllers' (PEM), for https
    #[arg(long, value_name = "FILE", conflicts_with = "fingerprint")]
    pub ca: Option<PathBuf>,
    /// The same by its sha256, as an admin told it: it is taken from what the controller shows
    #[arg(long, value_name = "SHA256", value_parser = tls::parse_fingerprint)]
    pub fingerprint: Option<Digest>,
}

/// Checks the token against the cluster and keeps it.
pub async fn run(args: LoginArgs, global: Option<&str>, format: Format) -> anyhow::Result<()> {
    let urls = split_urls(&args.url);
    if let Some(bare) = urls.iter().find(|url| !url.starts_with("http://") && !url.starts_with("https://")) {
        let host = bare.split_once("://").map_or(bare.as_str(), |(_, host)| host);
        return Err(Usage(format!("{bare} says neither https:// nor http://; write for example https://{host}")).into());
    }
    let parsed = |url: &String| reqwest::Url::parse(url).ok().filter(reqwest::Url::has_host);
    if urls.is_empty() || urls.iter().any(|url| parsed(url).is_none()) {
        return Err(Usage(format!(
            "{:?} is no URL of a controller; write for example https://10.0.0.5:7700",
            args.url
        ))
        .into());
    }
    let first = urls.first().and_then(parsed);
    let host = first.as_ref().and_then(reqwest::Url::host_str).unwrap_or_default();
    let named = match (args.name.as_deref(), global) {
        (Some(name), Some(other)) if name != other => {
            return Err(Usage(format!("--name {name} and --context {other} call it two things: leave out one")).into());
        }
        (name, global) => name.or(global),
    };
    let name = named.map_or_else(|| host.trim_matches(['[', ']']).replace(':', "-"), str::to_owned);
    context::check_name(&name).map_err(|error| Usage(error.to_string()))?;
    let path = Contexts::default_path()?;
    let mut contexts = Contexts::load(&path)?;
    // Before anything is sent: that token belongs to another cluster.
    if contexts.find(&name).is_some_and(|known| known.url.iter().all(|url| !urls.contains(url))) {
        let known = contexts.find(&name).map(|known| known.url.join(", ")).unwrap_or_default();
        let message =
            format!("the context {name} leads to {known}: give --name another name, or remove that one first");
        return Err(Usage(message).into());
    }
    let ca = match (&args.ca, &args.fingerprint) {
        (Some(file), _) => Some(context::read_ca(file)?),
        (None, Some(fingerprint)) => {
            let first = first.as_ref().context("an address is needed")?;
            Some(tls::fetch_authority(first, *fingerprint).await?)
        }
        (None, None) => contexts.find(&name).and_then(|known| known.ca.clone()),
    };
    let token = if args.token_stdin { read_token()? } else { ask_token()? };
    let mut context = Context { url: urls, token, ca, known: Vec::new() };
    let client = Client::new(&context)?;
    if first.is_some_and(|url| url.scheme() == "http" && !is_loopback(&url)) {
        output::note(
            "the token goes over the network unencrypted: https needs `rest_tls` in the controllers' configuration",
        );
    }
    let token = client.own_token().await?;
    context.ca = client.followed().or(context.ca);
    context.known = client.told();
    contexts.put(&name, context);
    contexts.save(&path)?;
    let set = variables_set();
    if !set.is_empty() {
        let set = set.join(" and ");
        output::note(&format!("{set}, set in this environment, go before every context: unset what is not meant to"));
    }
    Ok(output::print(format, &token, |token| done(&name, token))?)
}

fn done(name: &str, token: &Token) -> String {
    let scopes = token.scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" ");
    format!("logged in: context {name} with token {} ({}), scope {scopes}", token.id, token.name)
}

fn is_loopback(url: &reqwest::Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn read_token() -> anyhow::Result<String> {
    let text = small_file::read_from(io::stdin(), MOST_SECRET).context("cannot read the token from standard input")?;
    let long =
        || Usage(format!("standard input has more than {MOST_SECRET} bytes: pipe the token in and nothing else"));
    checked(&text.ok_or_else(long)?)
}

fn ask_token() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return Err(Usage("no terminal to ask for the token: say --token-stdin and pipe it in".into()).into());
    }
    checked(&ask_silently("Token").context("cannot read the token")?)
}

/// Asks at the terminal for what is not shown while it is typed.
pub(crate) fn ask_silently(what: &str) -> io::Result<String> {
    output::note(&format!("{what} (it is not shown):"));
    let silent = Silent::begin()?;
    let mut text = String::new();
    let read = io::stdin().read_line(&mut text);
    drop(silent);
    read.map(|_| text)
}

fn checked(text: &str) -> anyhow::Result<String> {
    match text.trim() {
        "" => Err(Usage("the token is empty: make one with `pontoon token create`, and pipe or type it".into()).into()),
        token => Ok(token.to_owned()),
    }
}

/// A terminal that does not show what is typed, until it is dropped or a signal ends this process. Where `stty` is missing
/// it does.
struct Silent;

/// Whether one is.
static SILENT: AtomicBool = AtomicBool::new(false);

impl Silent {
    fn begin() -> io::Result<Self> {
        static WATCHED: Once = Once::new();
        let mut watched = Ok(());
        WATCHED.call_once(|| watched = Self::end_at_signals());
        watched?;
        SILENT.store(true, Ordering::SeqCst);
        Self::set("-echo");
        Ok(Self)
    }

    /// Whoever presses Ctrl-C gets a terminal back that shows what is typed. What a signal does besides stays as it is.
    fn end_at_signals() -> io::Result<()> {
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
        let watch = move || {
            for signal in signals.forever() {
                if SILENT.swap(false, Ordering::SeqCst) {
                    Self::set("echo");
                    // Behind the question; what is said next begins a line.
                    output::note("");
                }
                let _ = emulate_default_handler(signal);
            }
        };
        thread::Builder::new().name("signals".into()).spawn(watch).map(drop)
    }

    fn set(mode: &str) {
        // From the terminal that is our standard input.
        let _ = Command::new("stty").arg(mode).stdin(Stdio::inherit()).stderr(Stdio::null()).status();
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        if SILENT.swap(false, Ordering::SeqCst) {
            Self::set("echo");
        }
    }
}

/// Arguments of `logout`.
#[derive(Debug, Args)]
pub struct LogoutArgs {
    /// Which context; without it, the current one
    #[arg(value_name = "CONTEXT")]
    pub name: Option<String>,
}

/// Forgets a context. Its token goes on being valid: `pontoon token revoke` ends it.
pub fn logout(args: LogoutArgs, global: Option<&str>, format: Format) -> anyhow::Result<()> {
    let path = Contexts::default_path()?;
    let mut contexts = Contexts::load(&path)?;
    let named = args.name.as_deref().or(global).or(contexts.current()).map(str::to_owned);
    let name = named.ok_or_else(|| Usage("no context is chosen: name the one to forget".into()))?;
    contexts.remove(&name)?;
    contexts.save(&path)?;
    let value = serde_json::json!({ "context": name });
    Ok(output::print(format, &value, |_| {
        format!("context {name} is forgotten; its token stays valid until `pontoon token revoke`")
    })?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for (url, loopback) in [
            ("http://127.0.0.1:7700", true),
            ("http://[::1]:7700", true),
            ("http://localhost", true),
            ("http://10.0.0.5", false),
            ("http://localhost.example.org", false),
        ] {
            assert_eq!(is_loopback(&reqwest::Url::parse(url).unwrap()), loopback, "{url}");
        }
    }
}
