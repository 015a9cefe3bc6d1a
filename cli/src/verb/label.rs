//! `pontoon label`: what people and programs note about an app. `KEY=VALUE` sets, `KEY-` removes, as in kubectl.

use clap::Args;
use pontoon_api::ChangeLabels;
use pontoon_model::AppName;
use pontoon_model::labels::Labels;

use crate::Usage;
use crate::output::{self, table};
use crate::session::Session;

/// Arguments of `label`.
#[derive(Debug, Args)]
pub struct LabelArgs {
    /// The app
    pub app: AppName,
    /// What to set (KEY=VALUE) or remove (KEY-); without any, the labels are listed
    #[arg(value_name = "KEY=VALUE|KEY-", value_parser = parse)]
    pub changes: Vec<Change>,
}

/// One label to set or remove.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Name and value.
    Set(String, String),
    /// Name.
    Unset(String),
}

impl Change {
    /// Which label it sets; one that is also removed is refused for that.
    fn sets(&self) -> Option<&str> {
        match self {
            Self::Set(name, _) => Some(name),
            Self::Unset(_) => None,
        }
    }
}

fn parse(text: &str) -> Result<Change, String> {
    let change = match (text.split_once('='), text.strip_suffix('-')) {
        (Some((name, value)), _) => Change::Set(name.to_owned(), value.to_owned()),
        (None, Some(name)) => Change::Unset(name.to_owned()),
        (None, None) => return Err("write KEY=VALUE to set a label, KEY- to remove one".into()),
    };
    let (Change::Set(name, _) | Change::Unset(name)) = &change;
    pontoon_model::labels::check_name(name).map_err(|error| error.to_string())?;
    Ok(change)
}

/// Lists or changes.
pub async fn run(session: &Session, args: LabelArgs) -> anyhow::Result<()> {
    let LabelArgs { app, changes } = args;
    if changes.is_empty() {
        let labels = session.client.labels(&app).await?;
        output::print(session.format, &labels, |labels| {
            table(["LABEL", "VALUE"], labels.iter().map(|(name, value)| [name.to_string(), value.to_string()]))
        })?;
        return Ok(());
    }
    Usage::unless_once(changes.iter().filter_map(Change::sets))?;
    let change = change(changes);
    pontoon_model::labels::check_change(&change.set, &change.unset).map_err(|error| Usage(error.to_string()))?;
    let changed = session.client.change_labels(&app, &change).await?;
    output::print(session.format, &changed, |_| format!("labels of {app} changed"))?;
    Ok(())
}

fn change(changes: Vec<Change>) -> ChangeLabels {
    let mut change = ChangeLabels::default();
    for one in changes {
        match one {
            Change::Set(name, value) => drop(change.set.insert(name.into(), value.into())),
            Change::Unset(name) => change.unset.push(name),
        }
    }
    change
}

/// As `name=value`, one after the other.
pub(super) fn words(labels: &Labels) -> String {
    labels.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_set_or_removed() {
        assert_eq!(parse("team=blue"), Ok(Change::Set("team".into(), "blue".into())));
        assert_eq!(parse("note=a=b-"), Ok(Change::Set("note".into(), "a=b-".into())));
        assert_eq!(parse("team-"), Ok(Change::Unset("team".into())));
        for bad in ["team", "=x", "-", "a b=c"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
