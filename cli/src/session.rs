//! What every client verb is given: a client, the form of output, how to show progress.

use std::path::Path;

use pontoon_model::AppName;

use crate::Usage;
use crate::args::{AppArg, Format};
use crate::client::Client;
use crate::context::{Context, ContextError};
use crate::manifest::Manifest;

/// One run of a client verb.
#[derive(Debug)]
pub struct Session {
    /// Talks to the controllers.
    pub client: Client,
    /// How results are printed.
    pub format: Format,
}

impl Session {
    /// Takes addresses and token from the environment, or the context of this name, or the current one.
    pub fn open(format: Format, context: Option<&str>) -> anyhow::Result<Self> {
        let context = Context::choose(context).map_err(|error| match error {
            ContextError::Both { .. } => anyhow::Error::from(Usage(error.to_string())),
            error => error.into(),
        })?;
        Ok(Self { client: Client::new(&context)?, format })
    }
}

/// The app that is meant: `--app`, else the name in `pontoon.toml` of the current directory.
pub fn app_of(arg: &AppArg) -> anyhow::Result<AppName> {
    if let Some(app) = &arg.app {
        return Ok(app.clone());
    }
    let manifest = Manifest::load(Path::new("."))?;
    manifest.and_then(|manifest| manifest.name).ok_or_else(|| {
        Usage(
            "no app is named: give --app NAME, or run this where a pontoon.toml has a line like name = \"guestbook\""
                .into(),
        )
        .into()
    })
}
