//! Why a TLS handshake failed, found again below the layers that carried it.

use std::error::Error;
use std::io;

use rustls::{AlertDescription, CertificateError, OtherError};

use super::pinned::NotTheAuthority;

/// What whoever reads of a failed handshake can do something about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFailure {
    /// No authority that is trusted here signed what the other side shows.
    UnknownAuthority,
    /// It shows nothing of the one authority that was asked for by its fingerprint.
    NotTheAuthority {
        /// Whether the cluster's authority is not its first, so that what was asked for may be the one before.
        follows_another: bool,
    },
    /// What the other side shows is over, by this machine's clock.
    Ended,
    /// And this is not good yet.
    NotYet,
    /// It was revoked.
    Revoked,
    /// It is for others than who was asked for: these, where they are known.
    OtherName(Vec<String>),
    /// What answers does not speak TLS.
    NotTls,
    /// The other side gave up, with this word.
    Refused(AlertDescription),
    /// Something else, in rustls' words.
    Other(String),
}

impl TlsFailure {
    /// What is at the bottom of `error`, if that is a failure of TLS.
    pub fn of(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if let Some(found) = error.downcast_ref::<rustls::Error>() {
                return Some(Self::of_tls(found));
            }
            // Such an error calls the source of what it carries its own, and leaves that out itself.
            next = match error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
                Some(carried) => Some(carried as &(dyn Error + 'static)),
                None => error.source(),
            };
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Self {
        match error {
            rustls::Error::InvalidCertificate(wrong) => match wrong {
                CertificateError::UnknownIssuer | CertificateError::BadSignature => Self::UnknownAuthority,
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Ended,
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => Self::NotYet,
                CertificateError::Revoked => Self::Revoked,
                CertificateError::NotValidForName => Self::OtherName(Vec::new()),
                CertificateError::NotValidForNameContext { presented, .. } => Self::OtherName(presented.clone()),
                CertificateError::Other(OtherError(other)) => match other.downcast_ref::<NotTheAuthority>() {
                    Some(NotTheAuthority { follows_another }) => {
                        Self::NotTheAuthority { follows_another: *follows_another }
                    }
                    None => Self::Other(other.to_string()),
                },
                other => Self::Other(format!("the certificate cannot be used: {other}")),
            },
            rustls::Error::InvalidMessage(_) => Self::NotTls,
            rustls::Error::AlertReceived(alert) => Self::Refused(*alert),
            other => Self::Other(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::InvalidMessage;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("it was not sent")]
    struct Carrier(#[source] io::Error);

    #[test]
    fn it_is_found_below_what_carried_it_and_other_errors_are_none() {
        let of = |error: rustls::Error| TlsFailure::of(&Carrier(io::Error::other(io::Error::other(error))));
        assert_eq!(of(CertificateError::UnknownIssuer.into()), Some(TlsFailure::UnknownAuthority));
        assert_eq!(of(CertificateError::Expired.into()), Some(TlsFailure::Ended));
        assert_eq!(of(CertificateError::Revoked.into()), Some(TlsFailure::Revoked));
        assert_eq!(of(rustls::Error::InvalidMessage(InvalidMessage::InvalidContentType)), Some(TlsFailure::NotTls));
        let alert = AlertDescription::CertificateRevoked;
        assert_eq!(of(rustls::Error::AlertReceived(alert)), Some(TlsFailure::Refused(alert)));
        assert_eq!(TlsFailure::of(&Carrier(io::ErrorKind::ConnectionRefused.into())), None);
    }
}
