//! Labels of apps.

use pontoon_model::App;
use pontoon_model::labels::{self, EcoString, InvalidLabel, MAX_LABELS};

use crate::command::ChangeLabels;
use crate::{Outcome, Rejected, Reply, State};

impl State {
    pub(super) fn change_labels(&mut self, command: &ChangeLabels) -> Outcome {
        labels::check_change(&command.set, &command.unset)?;
        match self.relabel(&command.app, |app| relabelled(app, command)) {
            Some(changed) => Ok(changed.map(|()| Reply::Done)?),
            None => Err(self.no_such_app(&command.app)),
        }
    }
}

/// The app with other labels; none if they are as they shall be.
fn relabelled(app: &App, command: &ChangeLabels) -> Result<Option<App>, InvalidLabel> {
    let gone = |name: &EcoString| command.unset.iter().any(|unset| unset == name);
    let kept = app.labels.keys().filter(|name| !gone(name)).count();
    let mut new = command.set.keys().filter(|name| !app.labels.contains_key(*name));
    if let Some(name) = new.nth(MAX_LABELS.saturating_sub(kept)) {
        return Err(InvalidLabel::TooMany { name: name.to_string() });
    }
    let same = |(name, value): (&EcoString, &EcoString)| app.labels.get(name) == Some(value);
    let removes = command.unset.iter().any(|name| app.labels.contains_key(name.as_str()));
    if !removes && command.set.iter().all(same) {
        return Ok(None);
    }
    let mut app = App::clone(app);
    if removes {
        app.labels.retain(|name, _| !gone(name));
    }
    // One by one: `extend` makes room as if none of them were there already, which moves all labels of the app.
    for (name, value) in command.set.iter() {
        app.labels.insert(name.clone(), value.clone());
    }
    Ok(Some(app))
}

impl From<InvalidLabel> for Rejected {
    fn from(error: InvalidLabel) -> Self {
        Self::invalid(error.to_string())
    }
}
