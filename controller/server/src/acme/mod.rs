//! Certificates from an ACME directory: the leader orders one for each host name that needs it, and again at two thirds of
//! its life.
//!
//! What is due when is decided in [`pontoon_core::certificates`], from the state alone, so a new leader goes on where the
//! one before it died: an order that was under way then is begun anew. [`order`] is one order, [`failure`] why there is no
//! certificate, [`web`] how the authority is reached, [`kept`] what is kept of the account.

mod failure;
mod kept;
mod order;
#[cfg(test)]
mod tests;
mod web;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use data_encoding::BASE64URL_NOPAD;
use instant_acme::{Account, ExternalAccountKey, NewAccount};
use pontoon_core::apply::edge::MAX_CERTIFICATES;
use pontoon_core::certificates::{self, Due};
use pontoon_core::command::{NoteAcmeAccount, NoteOrder, PutCertificate, RemoveCertificate, SetChallenge};
use pontoon_core::{Acme, Command, Edge, State};
use pontoon_model::{
    AcmeAccount, AcmeRow, AcmeSettings, Certificate, ControllerId, ExternalAccount, OrderRow, SecretPlace, Timestamp,
    Trouble,
};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::raft::{Leadership, Peers, Proposer, StateFeed};
use crate::sealing::{SealError, SealingKeys};
use crate::sessions::Heard;
use crate::uploaded;
use failure::Failure;
use order::{Desk, Made};
use web::{Web, Wish};

/// How often it is looked whether anything is due: people wait for the first certificate.
const LOOK: Duration = Duration::from_secs(1);
/// Orders at a time: a thousand names take an hour, and authorities count the orders of an account (Let's Encrypt: 300 in
/// three hours).
const MOST_ORDERS: usize = 4;
/// An order that takes longer has hung: both ways are looked at, and each request has its own end.
const MOST_PATIENCE: Duration = Duration::from_secs(5 * 60);
/// A leader that died in the middle of an order is followed by one that begins it anew after this. Orders take seconds.
const TAKEN_OVER_AFTER: Duration = Duration::from_secs(20);

/// Orders certificates while this controller leads.
pub struct AcmeKeeper {
    /// This controller.
    pub own: ControllerId,
    /// What there is.
    pub feed: StateFeed,
    /// Where changes go.
    pub proposer: Proposer,
    /// Only the leader orders.
    pub leadership: watch::Receiver<Leadership>,
    /// How far the balancers are that are connected here.
    pub heard: Heard,
    /// Who knows of the others.
    pub peers: Peers,
    /// Seals keys of certificates and of the account.
    pub sealing: SealingKeys,
}

impl AcmeKeeper {
    /// Never ends.
    pub async fn run(self) {
        let mut leadership = self.leadership.clone();
        loop {
            if leadership.wait_for(|now| now.leading).await.is_err() {
                // The consensus has ended, and this task ends with the controller.
                return std::future::pending().await;
            }
            let lead = Lead::new(&self);
            let mut lost = leadership.clone();
            tokio::select! {
                never = lead.run() => match never {},
                // Orders under way end with it: the next leader begins them anew.
                _ = lost.wait_for(|now| !now.leading) => {}
            }
        }
    }
}

/// Why settings cannot be used, as far as it can be seen without the authority; the sentence is for who gave them.
pub fn check(settings: &AcmeSettings) -> Result<(), String> {
    settings.check()?;
    let why = |failure: Failure| failure.to_string();
    if let Some(pem) = &settings.authority {
        web::private(pem).map_err(why)?;
    }
    settings.external.as_ref().map_or(Ok(()), |external| external_key(external).map(drop).map_err(why))
}

fn external_key(external: &ExternalAccount) -> Result<ExternalAccountKey, Failure> {
    // Authorities show it with or without its padding, and some in the other alphabet.
    let text = external.hmac.0.trim().trim_end_matches('=').replace('+', "-").replace('/', "_");
    let key = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|error| Failure::Here {
        why: format!(
            "the HMAC key of the external account is not base64url ({error}); give it as the authority shows it"
        ),
    })?;
    Ok(ExternalAccountKey::new(external.kid.clone(), &key))
}

/// What became of an order.
struct Ended {
    /// How long the authority wants nothing else either.
    pause: Option<Duration>,
}

/// One term of leading.
struct Lead {
    feed: StateFeed,
    desk: Desk,
    orders: JoinSet<Ended>,
    under_way: BTreeMap<Id, String>,
    /// Of the settings of this version.
    account: Option<(u64, Account, Wish)>,
    /// Of the settings that are in force.
    version: u64,
    paused_until: Option<Instant>,
    looked: Option<(Arc<Edge>, Arc<Acme>, Due)>,
}

impl Lead {
    fn new(keeper: &AcmeKeeper) -> Self {
        let desk = Desk {
            own: keeper.own,
            proposer: keeper.proposer.clone(),
            heard: keeper.heard.clone(),
            peers: keeper.peers.clone(),
            sealing: keeper.sealing.clone(),
        };
        Self {
            feed: keeper.feed.clone(),
            desk,
            orders: JoinSet::new(),
            under_way: BTreeMap::new(),
            account: None,
            version: 0,
            paused_until: None,
            looked: None,
        }
    }

    async fn run(mut self) -> Infallible {
        loop {
            self.begin_what_is_due().await;
            tokio::select! {
                Some(ended) = self.orders.join_next_with_id() => self.end(ended),
                () = sleep(LOOK) => {}
            }
        }
    }

    async fn begin_what_is_due(&mut self) {
        let (state, now) = (self.feed.snapshot(), self.feed.now());
        let due = self.due(&state, now);
        for fingerprint in due.ended {
            self.write(RemoveCertificate { fingerprint }).await;
        }
        let Some(row) = state.acme().row() else {
            self.orders.abort_all();
            self.account = None;
            return;
        };
        if self.version != row.version {
            // Whoever has changed them wants to see whether it does now; what is under way is of the former ones.
            self.version = row.version;
            self.paused_until = None;
            self.orders.abort_all();
        }
        if self.paused_until.is_some_and(|until| until > Instant::now()) {
            return;
        }
        let busy: BTreeSet<&String> = self.under_way.values().collect();
        let mut waiting = due.hosts.into_iter().filter(|host| !busy.contains(host)).collect::<Vec<_>>().into_iter();
        // The account is made, or changed, at once, so that whoever has set the directory sees whether it does.
        if self.is_ready(row) && waiting.len() == 0 {
            return;
        }
        let Some((account, wish)) = self.open(row).await else { return };
        while self.orders.len() < MOST_ORDERS
            && let Some(host) = waiting.next()
        {
            let begun = OrderRow {
                host: host.clone(),
                trouble: state.acme().order(&host).and_then(|order| order.trouble.clone()),
                begun_at: now,
                next_try: now.plus(TAKEN_OVER_AFTER),
            };
            if !self.write(NoteOrder { host: host.clone(), order: Some(begun) }).await {
                return;
            }
            let order = one(self.feed.clone(), self.desk.clone(), (account.clone(), wish.clone()), host.clone());
            let id = self.orders.spawn(order).id();
            self.under_way.insert(id, host);
        }
    }

    /// Whether there is an account, and the authority was told whom to write to.
    fn is_ready(&self, row: &AcmeRow) -> bool {
        if row.account.is_none() {
            return false;
        }
        // One that cannot be opened here is complained of when it is needed.
        let opened = self.desk.sealing.open_acme(row).ok().and_then(|row| row.account);
        opened.as_ref().is_none_or(|account| kept::is_told(account, &row.settings.email))
    }

    /// What is due; looked at anew only when something has changed, or a time has come.
    fn due(&mut self, state: &State, now: Timestamp) -> Due {
        if let Some((edge, acme, due)) = &self.looked
            && Arc::ptr_eq(edge, state.edge())
            && Arc::ptr_eq(acme, state.acme())
            && due.next.is_none_or(|next| next > now)
        {
            return due.clone();
        }
        let due = certificates::due(state, now);
        self.looked = Some((state.edge().clone(), state.acme().clone(), due.clone()));
        due
    }

    fn end(&mut self, ended: Result<(Id, Ended), JoinError>) {
        let (id, pause) = match ended {
            Ok((id, Ended { pause })) => (id, pause),
            Err(error) => {
                if error.is_panic() {
                    tracing::error!(%error, "an order of a certificate broke off");
                }
                (error.id(), None)
            }
        };
        self.under_way.remove(&id);
        if let Some(pause) = pause {
            tracing::warn!("the authority wants no orders for {pause:?}");
            self.paused_until = Some(Instant::now() + pause);
        }
    }

    /// The account with the authority, made if there is none; none if it cannot be had now.
    async fn open(&mut self, row: &AcmeRow) -> Option<(Account, Wish)> {
        if let Some((_, account, wish)) = self.account.as_ref().filter(|(of, _, _)| *of == row.version) {
            // Somebody may have written that the authority does not know it.
            if row.account.as_ref().is_some_and(|known| known.url == account.id()) {
                return Some((account.clone(), wish.clone()));
            }
        }
        let wish = Wish::default();
        match opened(row, wish.clone(), &self.desk.sealing).await {
            Ok((account, made)) => {
                let sealed = made.map(|made| self.sealed(made)).transpose();
                let made =
                    sealed.inspect_err(|error| tracing::warn!(%error, "the cluster's account cannot be kept")).ok()?;
                if made.is_some() || row.trouble.is_some() {
                    let account = made.clone().or_else(|| row.account.clone());
                    if !self.write(NoteAcmeAccount { of: row.version, account, trouble: None }).await {
                        return None;
                    }
                }
                if let Some(made) = made {
                    let what =
                        if row.account.is_some() { "was told whom to write to" } else { "gave the cluster an account" };
                    tracing::info!(directory = row.settings.directory, account = made.url, "the authority {what}");
                }
                self.account = Some((row.version, account.clone(), wish.clone()));
                Some((account, wish))
            }
            Err(failure) => {
                let failures = row.trouble.as_ref().map_or(0, |trouble| trouble.failures).saturating_add(1);
                let wait = failure.wait(failures, wish.take());
                let error = failure.explain("the names", &[]);
                tracing::warn!(
                    directory = row.settings.directory,
                    error,
                    "no certificates can be ordered for {wait:?}"
                );
                self.paused_until = Some(Instant::now() + wait);
                let trouble = Some(Trouble { failures, error, at: self.feed.now() });
                // One that the authority does not know is made anew.
                let account = row.account.clone().filter(|_| !failure.is_unknown_account());
                self.write(NoteAcmeAccount { of: row.version, account, trouble }).await;
                None
            }
        }
    }

    /// An account as it is kept.
    fn sealed(&self, made: AcmeAccount) -> Result<AcmeAccount, SealError> {
        let place = SecretPlace::AcmeAccount { url: made.url.clone() };
        let state = self.feed.snapshot();
        let credentials = self.desk.sealing.seal(state.trust(), &place, &made.credentials.0)?;
        Ok(AcmeAccount { credentials, ..made })
    }

    /// Whether it was taken, and is known here.
    async fn write(&self, command: impl Into<Command>) -> bool {
        write(&self.feed, &self.desk, command.into()).await
    }
}

async fn write(feed: &StateFeed, desk: &Desk, command: Command) -> bool {
    let name = command.name();
    match desk.proposer.propose(command).await {
        Ok((_, index)) => {
            // Not again because this controller does not know yet what it has just had written.
            drop(timeout(LOOK, feed.at(index)).await);
            true
        }
        Err(error) => {
            tracing::debug!(%error, "{name} was not taken");
            false
        }
    }
}

/// The account of the settings, and what is to be kept of it if it was made or changed now.
async fn opened(row: &AcmeRow, wish: Wish, keys: &SealingKeys) -> Result<(Account, Option<AcmeAccount>), Failure> {
    let row = keys.open_acme(row).map_err(|error| Failure::Here { why: error.to_string() })?;
    let settings = &row.settings;
    let builder = Account::builder_with_http(Box::new(Web::new(settings, wish)?));
    let contact = format!("mailto:{}", settings.email);
    if let Some(known) = &row.account {
        let account = builder.from_credentials(kept::credentials(known)?).await?;
        if kept::is_told(known, &settings.email) {
            return Ok((account, None));
        }
        account.update_contacts(&[&contact]).await?;
        let told = kept::keep(known.url.clone(), &kept::credentials(known)?, &settings.email)?;
        return Ok((account, Some(told)));
    }
    let external = settings.external.as_ref().map(external_key).transpose()?;
    let new = NewAccount { contact: &[&contact], terms_of_service_agreed: true, only_return_existing: false };
    let (account, credentials) = builder.create(&new, settings.directory.clone(), external.as_ref()).await?;
    let made = kept::keep(account.id().to_owned(), &credentials, &settings.email)?;
    Ok((account, Some(made)))
}

/// One order, and what is written of its end.
async fn one(feed: StateFeed, desk: Desk, (account, wish): (Account, Wish), host: String) -> Ended {
    let made = if has_room(&feed, &host) {
        let ordered = timeout(MOST_PATIENCE, desk.order(&account, &host)).await;
        ordered.unwrap_or(Err(Failure::Slow)).and_then(|made| Ok((read(&feed, &desk, &made)?, made.way)))
    } else {
        Err(Failure::Here {
            why: format!("there are {MAX_CERTIFICATES} certificates already; remove some with `pontoon cert remove`"),
        })
    };
    let failure = match made {
        Ok((certificate, way)) => {
            let ends = certificate.ends;
            // In its place, and the end of the order and of what was shown for it, in one step.
            match desk.proposer.propose(PutCertificate { certificate }.into()).await {
                Ok((_, index)) => {
                    tracing::info!(host, ?way, %ends, "a certificate was ordered");
                    drop(timeout(LOOK, feed.at(index)).await);
                    return Ended { pause: None };
                }
                Err(error) => Failure::Unwritten(error),
            }
        }
        Err(failure) => failure,
    };
    note_failure(&feed, &desk, &host, &failure, wish.take()).await
}

async fn note_failure(feed: &StateFeed, desk: &Desk, host: &str, failure: &Failure, wish: Option<Duration>) -> Ended {
    write(feed, desk, SetChallenge { host: host.to_owned(), challenge: None }.into()).await;
    let (state, now) = (feed.snapshot(), feed.now());
    if failure.is_unknown_account()
        && let Some(row) = state.acme().row()
    {
        write(feed, desk, NoteAcmeAccount { of: row.version, account: None, trouble: None }.into()).await;
    }
    // Otherwise the name or the directory is gone, or somebody wants it tried at once.
    if let Some(order) = state.acme().order(host) {
        let failures = order.trouble.as_ref().map_or(0, |trouble| trouble.failures).saturating_add(1);
        let error = failure.explain(host, &addresses(&state));
        let wait = failure.wait(failures, wish);
        tracing::warn!(host, error, "no certificate; tried again in {wait:?}");
        let trouble = Some(Trouble { failures, error, at: now });
        let order = OrderRow { trouble, next_try: now.plus(wait), ..OrderRow::clone(order) };
        write(feed, desk, NoteOrder { host: host.to_owned(), order: Some(order) }.into()).await;
    }
    Ended { pause: failure.pause(wish) }
}

/// Whether one more certificate is taken, or comes in the place of another.
fn has_room(feed: &StateFeed, host: &str) -> bool {
    feed.look(|state| {
        let certificates = || state.edge().certificates();
        certificates().count() < MAX_CERTIFICATES || certificates().any(|row| row.names == [host])
    })
}

/// As it is kept.
fn read(feed: &StateFeed, desk: &Desk, made: &Made) -> Result<Certificate, Failure> {
    let certificate = uploaded::ordered(&made.chain, &made.key)
        .map_err(|error| Failure::Authority { why: format!("its certificate cannot be used: {error}") })?;
    let place = SecretPlace::Certificate(certificate.fingerprint);
    let key = desk.sealing.seal(feed.snapshot().trust(), &place, &certificate.key.0);
    let key = key.map_err(|error| Failure::Here { why: error.to_string() })?;
    Ok(Certificate { key, ..certificate })
}

/// Where users reach the balancers, each address once.
fn addresses(state: &State) -> Vec<IpAddr> {
    let all: BTreeSet<IpAddr> = state.balancers().map(|balancer| balancer.listen.ip()).collect();
    all.into_iter().filter(|address| !address.is_unspecified()).collect()
}
