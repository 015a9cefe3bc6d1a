//! The one binary, `pontoon`: the client's verbs over REST, the roles controller, agent and balancer, and
//! `pontoon dev`, which runs all of them in one process.
//!
//! [`args`] says what can be typed, `verb/` has one file per verb, [`client`] every REST call,
//! [`dev::provision`] makes a cluster's configuration (also for tests).

pub mod args;
pub mod client;
pub mod context;
pub mod dev;
mod dotenv;
pub mod manifest;
pub mod output;
pub mod pack;
pub mod progress;
pub mod role;
pub mod seal;
mod session;
mod small_file;
pub mod verb;

use std::collections::BTreeSet;
use std::io;
use std::process::ExitCode;

use clap::Parser;
use client::ClientError;

/// A command line that clap cannot see is wrong, e.g. no app named anywhere. Exits with 2, as clap does.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

impl Usage {
    /// Refuses a name that is there twice: which of the two is meant, nobody knows.
    fn unless_once<T: Ord + std::fmt::Display>(names: impl IntoIterator<Item = T>) -> Result<(), Self> {
        let mut seen = BTreeSet::new();
        for name in names {
            if seen.contains(&name) {
                return Err(Self(format!("{name} is there twice; leave one of them out")));
            }
            seen.insert(name);
        }
        Ok(())
    }
}

/// Ctrl-C ended the waiting; the text says what goes on without us. Exits with 130, as shells do.
#[derive(Debug, thiserror::Error)]
#[error("interrupted: {0}")]
pub struct Interrupted(pub String);

/// Exit code of a failure.
const FAILED: u8 = 1;
/// Exit code of a wrong command line.
const WRONG_USAGE: u8 = 2;
/// Exit code after Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Parses the command line, does what it says, prints a failure once.
pub fn main() -> ExitCode {
    let cli = args::Cli::parse();
    match verb::dispatch(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let refused = error.downcast_ref::<ClientError>();
    if error.is::<Usage>() || refused.is_some_and(ClientError::is_wrong_usage) {
        WRONG_USAGE
    } else if error.is::<Interrupted>() {
        INTERRUPTED
    } else {
        FAILED
    }
}

/// Whoever read our output (`| head`) has enough: not a failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
            // A connection that breaks is another matter.
            && !error.is::<ClientError>()
    })
}

/// Prints the chain, a line per cause, leaving out causes that only repeat what was said.
pub(crate) fn report(error: &anyhow::Error) {
    output::note(&format!("error: {error}"));
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !said.contains(&text) {
            output::note(&format!("  because: {text}"));
            said = text;
        }
    }
}
