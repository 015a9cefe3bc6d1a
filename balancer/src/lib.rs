//! The balancer: sends each request to a servo of the app that its host name belongs to.
//!
//! It reads route tables from a controller ([`session`]), holds the newest in memory ([`table`]) and on disk
//! ([`store`]), and goes on serving when no controller can be reached. [`proxy`] holds what happens to a request, [`health`]
//! looks after servos that failed, [`secrets`] holds certificates and keys, [`peers`] the balancers of other sites,
//! [`handover`] lets another process take over without a refused connection.

mod access_log;
mod active;
mod admin;
mod balancer;
mod config;
mod error;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod handover;
mod health;
mod millis;
pub mod peers;
mod proxy;
mod readiness;
mod report;
mod secrets;
mod session;
mod status;
mod store;
pub mod table;
mod tail;

pub use access_log::{AccessLogConfig, Format};
pub use balancer::{Balancer, check};
pub use config::{Config, ConfigError, Http1};
pub use error::BalancerError;
pub use handover::{HandoverError, ReloadError, Respawn, reload};

use pontoon_kit::CancellationToken;

/// Runs a balancer until `shutdown`, until another process of it has taken over, or until it hears that it was revoked, which is an
/// error; then lets requests in flight end.
/// `respawn`: how another process of it is started, if it is one of its own.
pub async fn run(config: Config, respawn: Option<Respawn>, shutdown: CancellationToken) -> Result<(), BalancerError> {
    let balancer = Balancer::start_as(config, respawn).await?;
    if let Err(error) = sd_notify::notify(false, &[sd_notify::NotifyState::Ready]) {
        tracing::warn!(%error, "systemd was not told that the balancer is ready");
    }
    tokio::select! {
        biased;
        () = balancer.handed_over() => balancer.stop().await,
        () = shutdown.cancelled() => {
            tracing::info!("the balancer is stopping: it takes no more connections, and requests in flight end");
            balancer.stop().await
        }
        () = balancer.revoked() => Err(balancer.leave().await),
        error = balancer.failed() => Err(error),
    }
}
