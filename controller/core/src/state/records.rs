//! The state as a sequence of enveloped rows: what a snapshot file holds.

use std::sync::Arc;

use pontoon_model::wire::{self, Envelope, Wire, WireError};
use pontoon_model::{
    AcmeRow, ApiToken, App, AuthorityRow, Balancer, BesideRow, Build, Certificate, Challenge, ChosenTiming, Controller,
    Deployment, DomainRow, EdgeKeys, EdgeStamp, Founding, Host, JoinToken, Machine, OrderRow, PeerRow, PortRow,
    Release, RevokedKey, RouteVersion, SealingKey, Servo, TrafficRow,
};

use super::answers::AnsweredRow;
use super::names::Names;
use super::{Header, State};
use crate::level;

pontoon_model::wire! {
    190, 1 => Header;
    191, 1 => AnsweredRow;
}

fn rows<T: Wire + 'static>(
    rows: impl Iterator<Item = Arc<T>>,
    level: u32,
) -> impl Iterator<Item = Result<Vec<u8>, WireError>> {
    let version = level::version_at(T::KIND, T::VERSION, level);
    rows.map(move |row| row.seal_as(version))
}

impl State {
    /// Every row in its own envelope, in a fixed order and in the versions of the feature level: equal states give equal
    /// bytes, and every member can read them.
    pub fn to_records(&self) -> impl Iterator<Item = Result<Vec<u8>, WireError>> + '_ {
        let level = self.header.feature_level;
        let header = Header { answers_forgotten_upto: self.answers.forgotten_upto(), ..self.header.clone() };
        std::iter::once(wire::encode(&header))
            .chain(rows(self.apps.values().cloned(), level))
            .chain(rows(self.releases.values().cloned(), level))
            .chain(rows(self.builds.values().cloned(), level))
            .chain(rows(self.deployments.values().cloned(), level))
            .chain(rows(self.servos.values().cloned(), level))
            .chain(rows(self.hosts.values().cloned(), level))
            .chain(rows(self.balancers.values().cloned(), level))
            .chain(rows(self.controllers.values().cloned(), level))
            .chain(self.trust.founding.iter().map(wire::encode))
            .chain(rows(self.trust.authorities.values().cloned(), level))
            .chain(rows(self.trust.tokens.values().cloned(), level))
            .chain(rows(self.trust.machines.values().cloned(), level))
            .chain(rows(self.trust.revoked.values().cloned(), level))
            .chain(rows(self.trust.sealing.values().cloned(), level))
            .chain(rows(self.api_tokens.values().cloned(), level))
            .chain(self.timing.iter().map(wire::encode))
            .chain(rows(self.edge.domains.values().cloned(), level))
            .chain(rows(self.edge.traffic.values().cloned(), level))
            .chain(rows(self.edge.certificates.values().cloned(), level))
            .chain(rows(self.edge.keys.iter().cloned(), level))
            .chain(rows(self.edge.challenges.values().cloned(), level))
            .chain(rows(self.edge.ports.values().cloned(), level))
            .chain(rows(self.edge.beside.values().cloned(), level))
            .chain(rows(self.acme.row.iter().cloned(), level))
            .chain(rows(self.acme.orders.values().cloned(), level))
            .chain(rows(self.edge.peers.values().cloned(), level))
            .chain(self.edge_stamp().iter().map(wire::encode).collect::<Vec<_>>())
            .chain(self.answers.rows().map(|row| wire::encode(&row)))
    }

    /// None before anything was written that needs it: not every member could read it.
    fn edge_stamp(&self) -> Option<EdgeStamp> {
        let version = self.edge.version;
        (version != RouteVersion::default()).then_some(EdgeStamp { version })
    }

    /// Reads what [`State::to_records`] gave, each item one envelope.
    pub fn from_records(records: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<Self, WireError> {
        let (mut state, mut names) = (State::default(), Names::default());
        for record in records {
            state.insert_record(record.as_ref(), &mut names)?;
        }
        state.rebuild_indexes();
        Ok(state)
    }

    fn insert_record(&mut self, record: &[u8], names: &mut Names) -> Result<(), WireError> {
        let (envelope, rest) = Envelope::read(record)?;
        if !rest.is_empty() {
            return Err(WireError::Malformed("bytes after a row"));
        }
        match envelope.kind {
            Header::KIND => {
                let mut header = Header::open(&envelope)?;
                if header.feature_level > level::NEWEST {
                    return Err(WireError::LevelTooNew { level: header.feature_level });
                }
                // Kept in one place only.
                self.answers.set_forgotten_upto(std::mem::take(&mut header.answers_forgotten_upto));
                self.header = header;
            }
            App::KIND => {
                let row = names.of_app(App::open(&envelope)?);
                self.apps.insert(row.name.clone(), Arc::new(row));
            }
            Release::KIND => {
                let row = names.of_release(Release::open(&envelope)?);
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
                let row = names.of_servo(Servo::open(&envelope)?);
                self.servos.insert(row.id, Arc::new(row));
            }
            Host::KIND => {
                let row = names.of_host(Host::open(&envelope)?);
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
            Founding::KIND => {
                let row = Founding::open(&envelope)?;
                self.change_trust(|trust| trust.founding = Some(row));
            }
            AuthorityRow::KIND => {
                let row = AuthorityRow::open(&envelope)?;
                self.change_trust(|trust| trust.authorities.insert(row.fingerprint, row.into()));
            }
            JoinToken::KIND => {
                let row = JoinToken::open(&envelope)?;
                self.change_trust(|trust| trust.tokens.insert(row.secret, row.into()));
            }
            Machine::KIND => {
                let row = Machine::open(&envelope)?;
                self.change_trust(|trust| trust.machines.insert((row.role, row.name.clone()), row.into()));
            }
            RevokedKey::KIND => {
                let row = RevokedKey::open(&envelope)?;
                self.change_trust(|trust| trust.revoked.insert(row.key, row.into()));
            }
            SealingKey::KIND => {
                let row = SealingKey::open(&envelope)?;
                self.change_trust(|trust| trust.sealing.insert(row.id, row.into()));
            }
            ApiToken::KIND => {
                let row = ApiToken::open(&envelope)?;
                self.api_tokens.insert(row.id, Arc::new(row));
            }
            ChosenTiming::KIND => self.timing = Some(ChosenTiming::open(&envelope)?),
            DomainRow::KIND => {
                let row = DomainRow::open(&envelope)?;
                self.change_edge(|edge| edge.put_domain(row.into()));
            }
            TrafficRow::KIND => {
                let row = TrafficRow::open(&envelope)?;
                self.change_edge(|edge| edge.traffic.insert(row.app.clone(), row.into()));
            }
            Certificate::KIND => {
                let row = Certificate::open(&envelope)?;
                self.change_edge(|edge| edge.certificates.insert(row.fingerprint, row.into()));
            }
            EdgeKeys::KIND => {
                let row = EdgeKeys::open(&envelope)?;
                self.change_edge(|edge| edge.keys = Some(row.into()));
            }
            Challenge::KIND => {
                let row = Challenge::open(&envelope)?;
                self.change_edge(|edge| edge.challenges.insert(row.host.clone(), row.into()));
            }
            AcmeRow::KIND => {
                let row = AcmeRow::open(&envelope)?;
                self.change_acme(|acme| acme.row = Some(row.into()));
            }
            OrderRow::KIND => {
                let row = OrderRow::open(&envelope)?;
                self.change_acme(|acme| acme.orders.insert(row.host.clone(), row.into()));
            }
            PeerRow::KIND => {
                let row = PeerRow::open(&envelope)?;
                self.change_edge(|edge| edge.peers.insert(row.name.clone(), row.into()));
            }
            PortRow::KIND => {
                let row = PortRow::open(&envelope)?;
                self.change_edge(|edge| edge.ports.insert((row.app.clone(), row.process.clone()), row.into()));
            }
            BesideRow::KIND => {
                let row = BesideRow::open(&envelope)?;
                // Most changes of it are none of what balancers know.
                Arc::make_mut(&mut self.edge).beside.insert(row.app.clone(), row.into());
            }
            // After the rows, whose reading is no change.
            EdgeStamp::KIND => {
                let EdgeStamp { version } = EdgeStamp::open(&envelope)?;
                self.change_edge(|edge| edge.version = version);
            }
            AnsweredRow::KIND => self.answers.put_row(AnsweredRow::open(&envelope)?)?,
            kind => return Err(WireError::TooNew { kind, version: envelope.version }),
        }
        Ok(())
    }
}
