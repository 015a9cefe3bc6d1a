//! Certificates that the cluster orders by itself, from an ACME directory.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::edge::NamedCertificate;

/// Where certificates shall be ordered.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetAcme {
    /// URL of the directory; absent: Let's Encrypt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Whom the authority may write to.
    pub email: String,
    /// That the authority's terms of service are agreed to; must be true.
    #[serde(default)]
    pub agree_tos: bool,
    /// Certificate of who signed the directory's own, PEM; absent: whom the controllers' machines trust.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub authority: Option<String>,
    /// Key id of an account that one has with the authority already (external account binding).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eab_kid: Option<String>,
    /// Its HMAC key, base64url.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eab_hmac: Option<String>,
    /// Host names for which nothing shall be ordered.
    #[serde(default)]
    pub except: Vec<String>,
}

impl fmt::Debug for SetAcme {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SetAcme {{ directory: {:?}, email: {:?}, eab_hmac: [hidden] }}", self.directory, self.email)
    }
}

/// Orders that have failed shall be begun again now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryOrders {
    /// That of one host name; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
}

/// Where certificates are ordered, and how far each is; no key is in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acme {
    /// Whether any are; if not, everything but `names` is null or empty.
    pub on: bool,
    /// URL of the directory.
    pub directory: Option<String>,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// Whether the directory's certificate was signed by somebody who was named.
    pub private_authority: bool,
    /// Key id of the account that one has with the authority already.
    pub eab_kid: Option<String>,
    /// Host names for which nothing is ordered.
    pub except: Vec<String>,
    /// URL of the cluster's account; null until the leader has made it.
    pub account: Option<String>,
    /// Why the directory cannot be used, if so.
    pub error: Option<String>,
    /// Each host name that an app has, and its certificate.
    pub names: Vec<HostName>,
}

/// A host name and its certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostName {
    /// It.
    pub host: String,
    /// What it has.
    #[serde(flatten)]
    pub certificate: NamedCertificate,
}
