//! The words of Pontoon as types: ids, names, units and the records that controllers replicate.
//!
//! Nothing here does IO, reads a clock or draws a random number. One file per noun; start with
//! [`app`], [`release`] and [`servo`].

pub mod acme;
pub mod app;
pub mod app_versions;
pub mod assignment;
pub mod balancer;
pub mod beside;
pub mod build;
pub mod certificate;
pub mod controller;
pub mod deployment;
pub mod digest;
pub mod domain;
pub mod edge;
pub mod epoch;
pub mod host;
pub mod ids;
pub mod labels;
pub mod names;
pub mod peer;
pub mod port;
pub mod release;
pub mod route;
pub mod sealed;
pub mod servo;
pub mod time;
pub mod timing;
pub mod token;
pub mod traffic;
pub mod trust;
pub mod units;
pub mod wire;

pub use acme::{AcmeAccount, AcmeRow, AcmeSettings, Challenge, ChallengeKind, ExternalAccount, OrderRow, Trouble};
pub use app::{App, Count, Live, Scale, Size};
pub use assignment::{Assignment, BuildSpec, ServoSpec};
pub use balancer::Balancer;
pub use beside::{Beside, BesideOf, BesideRow};
pub use build::{Build, BuildOutcome, BuildState};
pub use certificate::{Certificate, CertificateOrigin};
pub use controller::Controller;
pub use deployment::{Deployment, Phase};
pub use digest::{BlobRef, Digest};
pub use domain::{Domain, DomainRow, InvalidDomain};
pub use edge::{EdgeEntry, EdgeKey, EdgeKeys, EdgeStamp, EdgeTable};
pub use host::{Capacity, Host, HostState, RuntimeKind};
pub use ids::{
    BuildId, ControllerId, DeploymentId, IdempotencyKey, Incarnation, ReleaseNumber, RouteVersion, ServoId, TokenId,
};
pub use names::{AppName, BalancerName, ControllerName, HostName, InvalidName, ProcessName, SiteName};
pub use peer::{PeerRow, Reach};
pub use port::{PortRow, PortSettings, ProxyHeader};
pub use release::{HealthCheck, Language, Process, Release, ReleaseReason};
pub use route::{Route, RouteServo, RouteTable};
pub use sealed::{BrokenSeal, Sealed, SealingKey, SealingKeyId, SecretPlace};
pub use servo::{Desired, Exit, Servo, ServoReport, ServoStatus};
pub use time::Timestamp;
pub use timing::ChosenTiming;
pub use token::{ApiToken, Scope};
pub use traffic::{Traffic, TrafficRow};
pub use trust::{AuthorityRow, Founding, JoinToken, Machine, MachineRole, RevokedKey, Secret};
pub use units::{CpuMillis, MemoryBytes};

/// This Pontoon, as machines and people are told of it. The next one of the test that upgrades a cluster calls itself another.
pub const VERSION: &str =
    if cfg!(feature = "next-level") { concat!(env!("CARGO_PKG_VERSION"), "-next") } else { env!("CARGO_PKG_VERSION") };
