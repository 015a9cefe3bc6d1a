//! `pontoon context`: the clusters that are known here.

use clap::Subcommand;
use serde_json::json;

use crate::args::Format;
use crate::context::{Context, Contexts};
use crate::output::{self, table};

/// The verbs of `context`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// List the contexts; the current one has a star
    List,
    /// Use a context from now on
    Use {
        /// Which
        name: String,
    },
    /// Forget a context; its token stays valid
    Remove {
        /// Which
        name: String,
    },
}

/// Does what `verb` says; asks no controller.
pub fn run(verb: Verb, format: Format) -> anyhow::Result<()> {
    let path = Contexts::default_path()?;
    let mut contexts = Contexts::load(&path)?;
    match verb {
        Verb::List => {
            // Never the token.
            let row = |(name, context): (&str, &Context)| {
                let current = contexts.current() == Some(name);
                json!({ "name": name, "current": current, "url": context.url, "ca": context.ca.is_some() })
            };
            let rows: Vec<_> = contexts.iter().map(row).collect();
            output::print(format, &rows, |_| list(&contexts))?;
        }
        Verb::Use { name } => {
            contexts.choose(&name)?;
            contexts.save(&path)?;
            output::print(format, &json!({ "context": name }), |_| format!("the current context is {name}"))?;
        }
        Verb::Remove { name } => {
            contexts.remove(&name)?;
            contexts.save(&path)?;
            output::print(format, &json!({ "context": name }), |_| format!("context {name} is forgotten"))?;
        }
    }
    Ok(())
}

fn list(contexts: &Contexts) -> String {
    let row = |(name, context): (&str, &Context)| {
        let current = if contexts.current() == Some(name) { "*" } else { "" };
        [current.to_owned(), name.to_owned(), context.url.join(", ")]
    };
    table(["CURRENT", "NAME", "URL"], contexts.iter().map(row))
}
