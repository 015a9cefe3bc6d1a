//! The state as a sequence of enveloped rows: what a snapshot file holds.

use std::sync::Arc;

use pontoon_model::wire::{self, Envelope, Wire, WireError};
use pontoon_model::{App, Balancer, Build, Controller, Deployment, Host, IdempotencyKey, Release, Servo};
use serde::{Deserialize, Serialize};

use super::{Answered, Header, State};

#[derive(Serialize, Deserialize)]
struct AnsweredRow {
    key: IdempotencyKey,
    answered: Answered,
}

pontoon_model::wire! {
    190, 1 => Header;
    191, 1 => AnsweredRow;
}

fn rows<T: Wire + 'static>(rows: impl Iterator<Item = Arc<T>>) -> impl Iterator<Item = Result<Vec<u8>, WireError>> {
    rows.map(|row| wire::encode(&*row))
}

impl State {
    /// Every row in its own envelope, in a fixed order: equal states give equal bytes.
    pub fn to_records(&self) -> impl Iterator<Item = Result<Vec<u8>, WireError>> + '_ {
        let answered = self
            .answered
            .iter()
            .map(|(key, answered)| wire::encode(&AnsweredRow { key: *key, answered: answered.clone() }));
        std::iter::once(wire::encode(&self.header))
            .chain(rows(self.apps.values().cloned()))
            .chain(rows(self.releases.values().cloned()))
            .chain(rows(self.builds.values().cloned()))
            .chain(rows(self.deployments.values().cloned()))
            .chain(rows(self.servos.values().cloned()))
            .chain(rows(self.hosts.values().cloned()))
            .chain(rows(self.balancers.values().cloned()))
            .chain(rows(self.controllers.values().cloned()))
            .chain(answered)
    }

    /// Reads what [`State::to_records`] gave, each item one envelope.
    pub fn from_records(records: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Self, WireError> {
        let mut state = State::default();
        for record in records {
            state.insert_record(record.as_ref())?;
        }
        state.rebuild_indexes();
        Ok(state)
    }

    fn insert_record(&mut self, record: &[u8]) -> Result<(), WireError> {
        let (envelope, rest) = Envelope::read(record)?;
        if !rest.is_empty() {
            return Err(WireError::Malformed("bytes after a row"));
        }
        match envelope.kind {
            Header::KIND => self.header = Header::open(&envelope)?,
            App::KIND => {
                let row = App::open(&envelope)?;
                self.apps.insert(row.name.clone(), Arc::new(row));
            }
            Release::KIND => {
                let row = Release::open(&envelope)?;
                self.releases.insert((row.app.clone(), row.number), Arc::new(row));
            }
            Build::KIND => {
                let row = Build::open(&envelope)?;
                self.builds.insert(row.id, Arc::new(row));
            }
            Deployment::KIND => {
                let row = Deployment::open(&envelope)?;
                self.deployments.insert(row.id, Arc::new(row));
            }
            Servo::KIND => {
                let row = Servo::open(&envelope)?;
                self.servos.insert(row.id, Arc::new(row));
            }
            Host::KIND => {
                let row = Host::open(&envelope)?;
                self.hosts.insert(row.name.clone(), Arc::new(row));
            }
            Balancer::KIND => {
                let row = Balancer::open(&envelope)?;
                self.balancers.insert(row.name.clone(), Arc::new(row));
            }
            Controller::KIND => {
                let row = Controller::open(&envelope)?;
                self.controllers.insert(row.id, Arc::new(row));
            }
            AnsweredRow::KIND => {
                let row = AnsweredRow::open(&envelope)?;
                self.answered.insert(row.key, row.answered);
            }
            kind => return Err(WireError::TooNew { kind, version: envelope.version }),
        }
        Ok(())
    }
}
