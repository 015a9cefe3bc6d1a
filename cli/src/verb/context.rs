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
                json!({
                    "name": name, "current": current, "url": context.url, "ca": context.ca.is_some(), "known": context.known,
                })
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
        // None before the first command that a controller of this version answers.
        let known = Some(context.known.len()).filter(|known| *known > 0);
        [current.to_owned(), name.to_owned(), output::or_none(known), context.url.join(", ")]
    };
    table(["CURRENT", "NAME", "CONTROLLERS", "URL"], contexts.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_context_is_listed_with_how_many_controllers_it_knows() {
        let context = |known: &[&str]| Context {
            url: vec!["https://10.0.0.1:7700".into()],
            token: "secret".into(),
            ca: None,
            known: known.iter().map(|url| (*url).to_owned()).collect(),
        };
        let mut contexts = Contexts::default();
        contexts.put("home", context(&["https://10.0.0.1:7700", "https://10.0.0.2:7700"]));
        contexts.put("work", context(&[]));
        expect![[r#"
            CURRENT   NAME   CONTROLLERS   URL
            -         home   2             https://10.0.0.1:7700
            *         work   -             https://10.0.0.1:7700"#]]
        .assert_eq(&list(&contexts));
    }
}
