//! What every client verb is given: a client, the form of output, how to show progress.

use std::path::Path;

use pontoon_model::AppName;

use crate::Usage;
use crate::args::{AppArg, Format};
use crate::client::Client;
use crate::context::{CA_VARIABLE, Chosen, Context, ContextError, Kept, URL_VARIABLE, variables_set};
use crate::manifest::Manifest;
use crate::output;

/// One run of a client verb.
#[derive(Debug)]
pub struct Session {
    /// Talks to the controllers.
    pub client: Client,
    /// How results are printed.
    pub format: Format,
    /// Where the cluster's context is.
    kept: Option<Kept>,
}

impl Session {
    /// Takes addresses and token from the environment, or the context of this name, or the current one.
    pub fn open(format: Format, context: Option<&str>) -> anyhow::Result<Self> {
        let Chosen { context, kept } = Context::choose(context).map_err(|error| match error {
            ContextError::Both { .. } => anyhow::Error::from(Usage(error.to_string())),
            error => error.into(),
        })?;
        if kept.is_some() && variables_set().contains(&CA_VARIABLE) {
            output::note(&format!(
                "{CA_VARIABLE} is set without {URL_VARIABLE}, and is not used: a context has its own"
            ));
        }
        Ok(Self { client: Client::new(&context)?, format, kept })
    }

    /// With a client that is there already, of a cluster that no context needs to be kept of.
    pub fn of(client: Client, format: Format) -> Self {
        Self { client, format, kept: None }
    }

    /// Notes in the context where the controllers are by now.
    pub fn keep_told(&self) {
        let told = self.client.told();
        if let (Some(kept), false) = (&self.kept, told.is_empty())
            && let Err(error) = kept.put_known(&told)
        {
            output::note(&format!("where the cluster's controllers are cannot be noted: {error}"));
        }
    }

    /// Notes in the context which authority follows the one it knows, while the one it knows is enough to be sure of that.
    pub fn keep_followed(&self) {
        let Some(ca) = self.client.followed() else { return };
        match &self.kept {
            Some(kept) => {
                if let Err(error) = kept.put_ca(&ca) {
                    output::note(&format!("the cluster's new authority cannot be noted: {error}"));
                }
            }
            None => output::note(&format!(
                "the cluster's authority was changed: put the new certificate into the file of {CA_VARIABLE} before it is \
                 changed again; `pontoon ca status -o json` has it"
            )),
        }
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
