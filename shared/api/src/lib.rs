//! The REST API's bodies, `/v1`. Field names are part of the contract; unknown fields of requests are refused.
//!
//! | method and path | body | answer |
//! |---|---|---|
//! | `GET /v1/status` | | [`Status`] |
//! | `GET /v1/apps` | | `[App]` |
//! | `POST /v1/apps` | [`CreateApp`] | [`App`] |
//! | `GET /v1/apps/{app}` | | [`App`] |
//! | `DELETE /v1/apps/{app}` | | [`Changed`] |
//! | `POST /v1/apps/{app}/source` | tar.gz | [`Source`] |
//! | `POST /v1/apps/{app}/builds` | [`StartBuild`] | [`Build`] |
//! | `GET /v1/apps/{app}/builds/{build}` | | [`Build`] |
//! | `GET /v1/apps/{app}/builds/{build}/log?follow=true` | | [`LogLine`] per line (NDJSON) |
//! | `GET /v1/apps/{app}/deployments/{deployment}` | | [`Deployment`] |
//! | `GET /v1/apps/{app}/releases` | | `[Release]`, newest first |
//! | `POST /v1/apps/{app}/rollback` | [`Rollback`] | [`Changed`] |
//! | `POST /v1/apps/{app}/restart` | | [`Changed`] |
//! | `PUT /v1/apps/{app}/scale` | [`SetScale`] | [`Changed`] |
//! | `GET /v1/apps/{app}/env` | | `{NAME: value}` |
//! | `PATCH /v1/apps/{app}/env` | [`ChangeEnv`] | [`Changed`] |
//! | `GET /v1/apps/{app}/labels` | | `{name: value}` |
//! | `PATCH /v1/apps/{app}/labels` | [`ChangeLabels`] | [`Changed`] |
//! | `PATCH /v1/labels` | `[LabelItem]`, 1 to 1,000 | `[ItemChanged]`, in the same order |
//! | `POST /v1/apps/{app}/run` | [`RunOneOff`] | [`Servo`] |
//! | `GET /v1/apps/{app}/servos` | | `[Servo]` |
//! | `GET /v1/apps/{app}/servos/{servo}` | | [`Servo`] |
//! | `DELETE /v1/apps/{app}/servos/{servo}` | | [`Changed`]; a one-off only |
//! | `GET /v1/apps/{app}/servos/{servo}/log?follow=&tail=` | | [`LogLine`] per line (NDJSON) |
//! | `GET /v1/apps/{app}/logs?follow=&tail=` | | [`LogLine`] per line (NDJSON), all servos |
//! | `GET /v1/apps/{app}/requests` | | [`AppRequests`](requests::AppRequests) |
//! | `GET /v1/apps/{app}/requests/tail?status=` | | [`TailLine`](requests::TailLine) per line (NDJSON), as requests are answered; `status` is one, or a class such as `5xx` |
//! | `GET /v1/domains?app=` | | [`[Domain]`](edge::Domain), of all apps or of one |
//! | `POST /v1/apps/{app}/domains` | [`AddDomain`](edge::AddDomain) | [`DomainAdded`](edge::DomainAdded) |
//! | `DELETE /v1/apps/{app}/domains?domain=` | | [`Changed`] |
//! | `GET /v1/apps/{app}/traffic` | | [`Traffic`](edge::Traffic) |
//! | `PATCH /v1/apps/{app}/traffic` | [`ChangeTraffic`](edge::ChangeTraffic): what is absent stays | [`Changed`] |
//! | `GET /v1/apps/{app}/beside` | | [`[Beside]`](beside::Beside): canaries and previews |
//! | `PUT /v1/apps/{app}/beside/{release}` | [`SetBeside`](beside::SetBeside) | [`Changed`] |
//! | `POST /v1/apps/{app}/beside/{release}/promote` | | [`Changed`] |
//! | `DELETE /v1/apps/{app}/beside/{release}` | | [`Changed`] |
//! | `GET /v1/ports?app=` | | [`[Port]`](ports::Port), of all apps or of one |
//! | `POST /v1/apps/{app}/ports` | [`AddPort`](ports::AddPort) | [`Port`](ports::Port) |
//! | `DELETE /v1/apps/{app}/ports/{port}` | | [`Changed`] |
//! | `GET /v1/certificates` | | [`[Certificate]`](edge::Certificate), never a key |
//! | `POST /v1/certificates` | [`PutCertificate`](edge::PutCertificate) | [`Certificate`](edge::Certificate) |
//! | `DELETE /v1/certificates/{fingerprint}` | | [`Changed`] |
//! | `GET /v1/acme` | | [`Acme`](acme::Acme): where certificates are ordered, and what each host name has |
//! | `PUT /v1/acme` | [`SetAcme`](acme::SetAcme) | [`Changed`] |
//! | `DELETE /v1/acme` | | [`Changed`]; what was ordered goes on until its end |
//! | `POST /v1/acme/retry` | [`RetryOrders`](acme::RetryOrders) | [`Changed`] |
//! | `GET /v1/hosts`, `/v1/controllers`, `/v1/balancers`, `/v1/routes` | | `[Host]`, `[Controller]`, `[Balancer]`, `[Route]`; `/v1/routes?load=true` also says how busy they are |
//! | `GET /v1/join-tokens` | | [`[JoinToken]`](trust::JoinToken) |
//! | `POST /v1/join-tokens` | [`CreateJoinToken`](trust::CreateJoinToken) | [`JoinToken`](trust::JoinToken), with the token itself |
//! | `DELETE /v1/join-tokens/{id}` | | [`Changed`] |
//! | `GET /v1/machines` | | [`[Machine]`](trust::Machine) |
//! | `DELETE /v1/machines/{role}/{name}` | | [`Changed`]; its certificates are worth nothing from then on |
//! | `GET /v1/ca` | | [`Ca`](trust::Ca) |
//! | `POST /v1/ca/rotate` | | [`Changed`]; another authority signs |
//! | `POST /v1/ca/retire` | [`RetireAuthority`](trust::RetireAuthority) | [`Changed`]; the one before it is trusted no longer |
//! | `GET /v1/upgrade` | | [`Upgrade`]: what is in the way of another version of Pontoon |
//! | `DELETE /v1/controllers/{controller}?force=` | | [`MembershipChanged`] |
//! | `POST /v1/controllers/{controller}/promote` | | [`MembershipChanged`] |
//! | `POST /v1/leader` | [`TransferLeader`] | [`MembershipChanged`] |
//!
//! | `GET /v1/token` | | [`Token`]: the one that was sent |
//! | `GET /v1/tokens` | | `[Token]` |
//! | `POST /v1/tokens` | [`CreateToken`] | [`CreatedToken`]: the only answer that holds a token |
//! | `DELETE /v1/tokens/{token}` | | [`Changed`] |
//! | `GET /v1/audit?since=&until=&limit=&order=` | | [`Audit`]: between the two (Unix milliseconds), the newest `limit` (100; at most 1,000), with `order=oldest` the oldest |
//! | `GET /v1/backup?bundles=` | | a tar archive: the whole state at one index, with `bundles=true` also what was built; `pontoon backup` encrypts it |
//! | `GET /v1/events?from=INDEX` | | server-sent events, see below |
//!
//! What each asks of the token is in [`endpoint::Endpoint`], from which the server's router is built.
//!
//! Every `GET` takes `?consistency=stale` (the default: the answering controller's own state, at once) or
//! `?consistency=linearizable` (sees every change acknowledged before), and `?at_index=N` (at least as new as that). What
//! has read the state carries its Raft index in the header `Pontoon-Index`.
//!
//! `GET /v1/events` follows the state: `event: change` for each applied entry that changed rows, with `id:` its index and
//! `data: {"index":7,"time":1764000000000,"changes":[{"table":"apps","key":"guestbook","row":{…}}]}`; the row is null when
//! it is gone, and has the fields of the REST answer that the row itself holds, never environment values. Tables:
//! `apps`, `releases`, `builds`, `deployments`, `servos`, `hosts`, `balancers`, `controllers`, `certificates` (never a
//! key), `orders` (of certificates, while they are under way or have failed), `domains`, `traffic` (by app,
//! `maintenance` among its settings, without the pages; null: the defaults), `ports` (`APP/PROCESS`), `beside` (by
//! app: all its canaries and previews, where `servos` is null if their number follows from the share; null: none),
//! `cluster`. It begins after `from` (or the `Last-Event-ID` header, which wins), else at the present with `event:
//! start`, `data: {"index":N}`. An index that is no longer held gives 410 `compacted`, or `event: compacted`, `data:
//! {"oldest":N}` when that happens on the way: read the state anew and go on from its index.
//!
//! A request with the header `Pontoon-Controllers`, whatever it says, is told in the same header of the answer where all controllers
//! answer: addresses with ports, separated by commas.
//!
//! Every request carries `Authorization: Bearer TOKEN`. 401 says that it is not valid (any more), 403 that this is not in its
//! scopes, 429 that too many wrong ones came from the same address. A token of `deploy:APP` sees in lists and events what
//! is that app's. A change may carry `Idempotency-Key: UUID or 32 hex digits`, so that
//! a retry of it is applied once. Errors have a 4xx or 5xx status and an [`ErrorBody`].

pub mod acme;
pub mod beside;
pub mod edge;
pub mod endpoint;
pub mod error;
pub mod ports;
pub mod request;
pub mod requests;
pub mod response;
pub mod trust;

/// Where all controllers are, for who asks with it.
pub const CONTROLLERS_HEADER: &str = "pontoon-controllers";

pub use endpoint::{Endpoint, Needs};
pub use error::{ErrorBody, ErrorCode, ErrorDetail};
pub use request::{
    ChangeEnv, ChangeLabels, CreateApp, CreateToken, LabelItem, Rollback, RunOneOff, SetScale, StartBuild,
    TransferLeader,
};
pub use response::{
    App, AppScale, Audit, AuditRecord, Balancer, Build, Changed, Controller, ControllerTiming, CreatedToken,
    Deployment, Exit, Host, ItemChanged, LogLine, MembershipChanged, Release, Route, RouteTarget, RunningVersion,
    Servo, Source, Status, Token, Upgrade,
};
