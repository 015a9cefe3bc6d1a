//! How a machine of any role comes to belong to a cluster, and keeps its certificate from ending.
//!
//! Both ask the controllers' `Enrolment` service: [`join()`] with a token and before there is a certificate, [`Renewal`] with the
//! machine's own key for as long as it runs.

mod join;
mod remembered;
mod renewal;
mod revoked;

pub use join::{JoinError, Who, join};
pub use pontoon_proto::{Admitted, Contact};
pub use remembered::{Remembered, listed};
pub use renewal::{Renewal, RenewalAsked, obey};
pub use revoked::{ASK_EVERY, hear_of_revoked};

use pontoon_kit::Role;
use pontoon_kit::guard::Needs;
use pontoon_model::MachineRole;
use pontoon_proto::{MayCall, may_call};

/// Who may call which method: what a server asks before it reads anything.
pub fn needs(path: &str) -> Option<Needs> {
    Some(match may_call(path)? {
        MayCall::Anybody => Needs::Nothing,
        MayCall::Agent => Needs::Role(Role::Agent),
        MayCall::Balancer => Needs::Role(Role::Balancer),
        MayCall::Controller => Needs::Role(Role::Controller),
    })
}

/// The same role in the state's words.
pub fn machine_role(role: Role) -> MachineRole {
    match role {
        Role::Controller => MachineRole::Controller,
        Role::Agent => MachineRole::Agent,
        Role::Balancer => MachineRole::Balancer,
    }
}

/// The same role in the certificates' words.
pub fn role_of(role: MachineRole) -> Role {
    match role {
        MachineRole::Controller => Role::Controller,
        MachineRole::Agent => Role::Agent,
        MachineRole::Balancer => Role::Balancer,
    }
}
