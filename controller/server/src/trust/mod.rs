//! Who belongs to the cluster: what controllers answer machines that join or renew, and what every machine is told.

mod authority;
mod enrolment;
mod founding;
mod keeper;
mod notices;

pub(crate) use authority::{SignError, next_authority, roots, sign as certificate_for, timestamp};
pub use enrolment::EnrolmentService;
pub use founding::Founder;
pub use keeper::Keeper;
pub(crate) use notices::Notices;
