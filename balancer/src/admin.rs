//! `/healthz`, `/healthz/site` and `/metrics`, on a listener of their own so that no app's path is taken.

use std::convert::Infallible;
use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pontoon_kit::CancellationToken;
use pontoon_model::AppName;
use serde::Serialize;
use tokio::net::TcpListener;

use crate::handover::{Progress, Purpose};
use crate::proxy::health;
use crate::proxy::listen::{self, Inherited};
use crate::proxy::ports::Board;
use crate::readiness::Readiness;
use crate::status::Link;
use crate::table::{LATENCY_BOUNDS, Table};

/// Half a request is dropped after this; also how long a connection may be idle.
const HEADER_READ: Duration = Duration::from_secs(10);
/// After a failed accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What `/healthz` says.
#[derive(Debug, Serialize)]
struct Health {
    /// The table's version; 0: none yet.
    version: u64,
    /// The version whose removed servos have no request in flight.
    drained: u64,
    /// The controller of the running session.
    controller: Option<SocketAddr>,
    /// How many host names are routed.
    routes: usize,
    /// Ports that lead to processes which do not speak HTTP.
    ports: Vec<Port>,
    /// No controller is heard: the table may be out of date. Requests are served all the same.
    stale: bool,
}

/// A port that leads to an app.
#[derive(Debug, Serialize)]
struct Port {
    port: u16,
    app: AppName,
    listening: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What the answers are made from.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) table: Arc<Table>,
    pub(crate) link: Arc<Link>,
    pub(crate) ports: Board,
    pub(crate) progress: Arc<Progress>,
    pub(crate) readiness: Arc<Readiness>,
}

impl Admin {
    /// Answers on `listener` until `shutdown`.
    pub(crate) async fn run(self, listener: TcpListener, shutdown: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                Ok((stream, _)) => self.clone().serve(stream, shutdown.clone()),
                Err(error) => {
                    tracing::debug!(%error, "cannot accept on the admin address");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(self, stream: tokio::net::TcpStream, shutdown: CancellationToken) {
        let service = service_fn(move |request: Request<Incoming>| {
            let answer = self.answer(request.uri());
            async move { Ok::<_, Infallible>(answer) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_READ)
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            tokio::select! {
                // Whether a reader of figures went away is nobody's business.
                _ = connection => {}
                () = shutdown.cancelled() => {}
            }
        });
    }

    fn answer(&self, uri: &Uri) -> Response<Full<Bytes>> {
        let (status, kind, text) = match uri.path() {
            "/healthz" => match serde_json::to_string(&self.health()) {
                Ok(text) => (StatusCode::OK, "application/json", text + "\n"),
                Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, "text/plain", error.to_string()),
            },
            "/healthz/site" => {
                let (status, text) = health::said(&self.readiness, uri.query());
                (status, "text/plain", text)
            }
            "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4", self.metrics()),
            _ => (StatusCode::NOT_FOUND, "text/plain", "here are /healthz, /healthz/site and /metrics\n".to_owned()),
        };
        let mut response = Response::new(Full::from(text));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        response
    }

    fn health(&self) -> Health {
        let progress = self.progress.now();
        let controller = self.link.controller();
        Health {
            version: progress.applied.0,
            drained: progress.drained.0,
            controller,
            routes: self.table.len(),
            ports: self
                .ports
                .all()
                .iter()
                .map(|status| Port {
                    port: status.port,
                    app: status.app.clone(),
                    listening: status.problem.is_none(),
                    problem: status.problem.clone(),
                })
                .collect(),
            stale: controller.is_none(),
        }
    }

    fn metrics(&self) -> String {
        let health = self.health();
        let mut text = String::new();
        let mut line = |text_line: std::fmt::Arguments<'_>| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{text_line}");
        };
        line(format_args!("pontoon_balancer_route_version {}", health.version));
        line(format_args!("pontoon_balancer_drained_version {}", health.drained));
        line(format_args!("pontoon_balancer_routes {}", health.routes));
        line(format_args!("pontoon_balancer_stale {}", u8::from(health.stale)));
        line(format_args!("pontoon_balancer_certificates {}", self.table.secrets().certificates()));
        for peer in self.table.peers().all() {
            let labels = format!("peer=\"{}\",site=\"{}\"", peer.name, peer.site);
            line(format_args!("pontoon_balancer_peer_up{{{labels}}} {}", u8::from(peer.is_up())));
            if let Some(took) = peer.round_trip() {
                line(format_args!("pontoon_balancer_peer_round_trip_seconds{{{labels}}} {}", took.as_secs_f64()));
            }
        }
        for status in self.ports.all() {
            let (port, app) = (status.port, &status.app);
            let (open, refused, received, sent) = status.counts.read();
            for (name, count) in [
                ("listening", u64::from(status.problem.is_none())),
                ("connections", open.into()),
                ("refused_total", refused),
                ("received_bytes_total", received),
                ("sent_bytes_total", sent),
            ] {
                line(format_args!("pontoon_balancer_port_{name}{{port=\"{port}\",app=\"{app}\"}} {count}"));
            }
        }
        for (host, split) in self.table.splits() {
            let (Some(live), Some(beside)) = (self.table.route(&host), self.table.route(&split.beside)) else {
                continue;
            };
            line(format_args!(
                "pontoon_balancer_split_share{{app=\"{}\",host=\"{host}\"}} {}",
                live.app.name,
                split.share()
            ));
            for (of, route) in [(false, &live), (true, &beside)] {
                let release = route.release().map_or_else(String::new, |release| release.to_string());
                for (class, count) in (1..).zip(split.answers(of)) {
                    line(format_args!(
                        "pontoon_balancer_release_answers_total{{app=\"{}\",host=\"{host}\",release=\"{release}\",status=\"{class}xx\"}} {count}",
                        live.app.name
                    ));
                }
            }
        }
        // Of a large table most have nothing to say.
        for route in self.table.awake() {
            let (host, app, counts) = (&route.host, &route.app.name, route.statistics());
            for (name, count) in [
                ("requests_total", counts.requests()),
                ("errors_total", counts.errors()),
                ("in_flight", counts.in_flight()),
            ] {
                line(format_args!("pontoon_balancer_{name}{{app=\"{app}\",host=\"{host}\"}} {count}"));
            }
            for (class, count) in (1..).zip(counts.answers()) {
                line(format_args!(
                    "pontoon_balancer_answers_total{{app=\"{app}\",host=\"{host}\",status=\"{class}xx\"}} {count}"
                ));
            }
            let Some((buckets, all, sum)) = counts.latency() else { continue };
            let name = "pontoon_balancer_first_byte_seconds";
            for (bound, count) in LATENCY_BOUNDS.iter().zip(buckets) {
                let le = *bound as f64 / 1e6;
                line(format_args!("{name}_bucket{{app=\"{app}\",host=\"{host}\",le=\"{le}\"}} {count}"));
            }
            line(format_args!("{name}_bucket{{app=\"{app}\",host=\"{host}\",le=\"+Inf\"}} {all}"));
            line(format_args!("{name}_sum{{app=\"{app}\",host=\"{host}\"}} {}", sum as f64 / 1e6));
            line(format_args!("{name}_count{{app=\"{app}\",host=\"{host}\"}} {all}"));
        }
        text
    }
}

/// Listens for [`Admin::run`].
pub(crate) fn listen(address: SocketAddr, inherited: &mut Inherited) -> io::Result<std::net::TcpListener> {
    match inherited.take(Purpose::Admin, address).pop() {
        Some(listener) => Ok(listener),
        None => listen::bind(address, false),
    }
}
