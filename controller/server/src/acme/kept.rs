//! What is kept of the account with the authority: the client's own JSON, and beside it what the authority was told.

use instant_acme::AccountCredentials;
use pontoon_model::{AcmeAccount, Secret};
use serde::{Deserialize, Serialize};

use super::failure::Failure;

/// As [`AcmeAccount::credentials`] has it. Earlier versions have the client's part alone, and read no other.
#[derive(Serialize, Deserialize)]
struct Kept<C> {
    #[serde(flatten)]
    credentials: C,
    /// Whom the authority writes to, as it was told last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    contact: Option<String>,
}

/// The account and whom the authority was told to write to.
pub(super) fn keep(url: String, credentials: &AccountCredentials, contact: &str) -> Result<AcmeAccount, Failure> {
    let kept = Kept { credentials, contact: Some(contact.to_owned()) };
    Ok(AcmeAccount { url, credentials: Secret(serde_json::to_string(&kept).map_err(unreadable)?) })
}

/// What is needed to speak for it.
pub(super) fn credentials(account: &AcmeAccount) -> Result<AccountCredentials, Failure> {
    serde_json::from_str(&account.credentials.0).map_err(unreadable)
}

/// Whether the authority was told of `contact`. It was not if nothing is known of it.
pub(super) fn is_told(account: &AcmeAccount, contact: &str) -> bool {
    serde_json::from_str::<Kept<serde_json::Map<String, serde_json::Value>>>(&account.credentials.0)
        .is_ok_and(|kept| kept.contact.as_deref() == Some(contact))
}

fn unreadable(error: serde_json::Error) -> Failure {
    Failure::Here { why: format!("the account cannot be read: {error}") }
}
