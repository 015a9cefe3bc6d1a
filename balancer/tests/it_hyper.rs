//! The same tests as `it` with every request of HTTP/1.1 carried by hyper.

use pontoon_balancer::Http1;

const HTTP1: Http1 = Http1::Hyper;

#[path = "it/acme.rs"]
mod acme;
#[path = "it/affinity.rs"]
mod affinity;
#[path = "it/dial_out.rs"]
mod dial_out;
#[path = "it/domains.rs"]
mod domains;
#[path = "it/drain.rs"]
mod drain;
#[path = "it/framing.rs"]
mod framing;
#[path = "it/health.rs"]
mod health;
#[path = "it/holding.rs"]
mod holding;
#[path = "it/http2.rs"]
mod http2;
#[path = "it/limits.rs"]
mod limits;
#[path = "it/outage.rs"]
mod outage;
#[path = "it/retries.rs"]
mod retries;
#[path = "it/room.rs"]
mod room;
#[path = "it/routing.rs"]
mod routing;
#[path = "it/sessions.rs"]
mod sessions;
#[path = "it/sites/mod.rs"]
mod sites;
#[path = "it/split.rs"]
mod split;
#[path = "it/stop.rs"]
mod stop;
#[path = "it/streaming.rs"]
mod streaming;
#[path = "it/support/mod.rs"]
mod support;
#[path = "it/tls.rs"]
mod tls;
