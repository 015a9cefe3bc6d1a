//! The balancer: sends each request to a servo of the app that its host name belongs to.
//!
//! It reads route tables from a controller ([`session`]), holds the newest in memory ([`table`]) and on disk
//! ([`store`]), and goes on serving when no controller can be reached. [`proxy`] holds what happens to a request, [`health`]
//! looks after servos that failed, [`secrets`] holds certificates and keys, [`peers`] the balancers of other sites.

mod access_log;
mod admin;
mod balancer;
mod config;
mod error;
mod health;
pub mod peers;
mod proxy;
mod readiness;
mod secrets;
mod session;
mod status;
mod store;
pub mod table;

pub use access_log::{AccessLogConfig, Format};
pub use balancer::Balancer;
pub use config::{Config, ConfigError};
pub use error::BalancerError;

use pontoon_kit::CancellationToken;

/// Runs a balancer until `shutdown`, then lets requests in flight end.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), BalancerError> {
    let balancer = Balancer::start(config).await?;
    tokio::select! {
        () = shutdown.cancelled() => balancer.stop().await,
        error = balancer.failed() => Err(error),
    }
}
