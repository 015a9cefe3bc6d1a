//! What a user uploads: inspected before anything happens, then read for what it is and how it starts.

mod detect;
mod inspect;
mod manifest;
mod path;

pub use detect::{Detected, detect};
pub use inspect::{Inspection, MAX_COMPRESSED, inspect};
pub use manifest::Manifest;

use pontoon_api::ErrorCode;

/// Why an uploaded source cannot be used; the message is what the user reads.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SourceError {
    /// A limit is exceeded.
    #[error("{0}")]
    TooLarge(String),
    /// Not an archive, a dangerous one, or not an app.
    #[error("{0}")]
    Bad(String),
}

impl SourceError {
    /// What programs are told.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::TooLarge(_) => ErrorCode::TooLarge,
            Self::Bad(_) => ErrorCode::BadSource,
        }
    }
}

/// Inspects the archive at `path` and finds out what it is and how it starts.
pub fn examine(path: &std::path::Path) -> Result<(Inspection, Detected), SourceError> {
    let unreadable = |error| SourceError::Bad(format!("the uploaded archive cannot be read: {error}"));
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let inspection = inspect(std::io::BufReader::new(file))?;
    let detected = detect(&inspection)?;
    Ok((inspection, detected))
}
