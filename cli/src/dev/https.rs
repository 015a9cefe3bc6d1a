//! HTTPS of `pontoon dev`: a certificate for the host names of all apps, made anew when they change, by an authority of this machine
//! that can be trusted without harm, since it is good for names below `localhost` only.
//!
//! One certificate for `*.localhost` would not do: clients take no wildcard right below a top-level name.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};
use std::{fs, io};

use anyhow::Context as _;
use pontoon_api::edge::PutCertificate;
use pontoon_kit::file;
use pontoon_model::Digest;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, NameConstraints,
};

use super::provision::BASE_DOMAIN;
use crate::client::Client;

/// Between two looks at the apps: whoever has made one opens it within seconds.
const LOOK: Duration = Duration::from_secs(1);
/// Some clients take no certificate that is good for longer; a new one is made at each start.
const LIFE: Duration = Duration::from_secs(397 * 86_400);
const AUTHORITY_LIFE: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of containers and virtual machines may go behind.
const BACKDATED: Duration = Duration::from_secs(86_400);

/// What it takes.
pub(super) struct Https {
    issuer: Issuer<'static, KeyPair>,
    /// Where its certificate is, for whoever wants to trust it.
    pub(super) certificate: PathBuf,
    /// Where the fingerprint of what is shown is kept, so that nothing is left behind.
    shown: PathBuf,
    /// Where balancers listen.
    pub(super) addresses: [SocketAddr; 2],
}

impl Https {
    /// With the authority of `data_dir`, made if there is none.
    pub(super) fn open(data_dir: &Path, addresses: [SocketAddr; 2]) -> anyhow::Result<Self> {
        let folder = data_dir.join("https");
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let (certificate, key, shown) = (folder.join("ca.pem"), folder.join("ca-key.pem"), folder.join("shown"));
        if !key.exists() {
            let (pem, of_key) = make_authority().context("cannot make an authority for HTTPS")?;
            // The key comes last: an authority without it is made anew.
            write(&certificate, pem.as_bytes(), 0o644)?;
            write(&key, of_key.serialize_pem().as_bytes(), 0o600)?;
        }
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
        let unusable = || format!("{} is damaged: remove it, and another is made", folder.display());
        let key = KeyPair::from_pem(&read(&key)?).with_context(unusable)?;
        let issuer = Issuer::from_ca_cert_pem(&read(&certificate)?, key).with_context(unusable)?;
        Ok(Self { issuer, certificate, shown, addresses })
    }

    /// Has the balancers show a certificate for the names of all apps, from now on.
    pub(super) async fn keep(&self, client: &Client) -> Infallible {
        let mut names = BTreeSet::new();
        loop {
            match self.follow(client, &names).await {
                Ok(now) => names = now,
                // The cluster may have no leader for a moment.
                Err(error) => tracing::debug!("no certificate for HTTPS yet: {error:#}"),
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// The names that the certificate is for now.
    async fn follow(&self, client: &Client, names: &BTreeSet<String>) -> anyhow::Result<BTreeSet<String>> {
        let below = format!(".{BASE_DOMAIN}");
        let all = client.apps().await?.into_iter().flat_map(|app| app.domains);
        let wanted: BTreeSet<String> = all.filter(|name| name.ends_with(&below)).collect();
        if wanted == *names || wanted.is_empty() {
            return Ok(wanted);
        }
        let made = client.put_certificate(&self.issue(&wanted)?).await?;
        let before = file::read_if_there(&self.shown)?.and_then(|text| String::from_utf8(text).ok());
        write(&self.shown, made.fingerprint.to_string().as_bytes(), 0o600)?;
        if let Some(before) = before.and_then(|text| text.parse::<Digest>().ok())
            && let Err(error) = client.remove_certificate(&before).await
        {
            tracing::debug!(%error, "the former certificate for HTTPS was not removed");
        }
        Ok(wanted)
    }

    fn issue(&self, names: &BTreeSet<String>) -> anyhow::Result<PutCertificate> {
        let mut params = CertificateParams::new(names.iter().cloned().collect::<Vec<_>>())?;
        params.distinguished_name.push(DnType::CommonName, "apps of pontoon dev");
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        set_validity(&mut params, LIFE);
        let key = KeyPair::generate()?;
        let own = params.signed_by(&key, &self.issuer)?.pem();
        let authority = fs::read_to_string(&self.certificate)?;
        Ok(PutCertificate { chain: own + &authority, key: key.serialize_pem() })
    }
}

fn make_authority() -> Result<(String, KeyPair), rcgen::Error> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Pontoon dev on this machine");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let permitted_subtrees = vec![GeneralSubtree::DnsName(BASE_DOMAIN.into())];
    params.name_constraints = Some(NameConstraints { permitted_subtrees, excluded_subtrees: Vec::new() });
    set_validity(&mut params, AUTHORITY_LIFE);
    Ok((params.self_signed(&key)?.pem(), key))
}

fn set_validity(params: &mut CertificateParams, life: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATED).into();
    params.not_after = (now + life).into();
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    let written: io::Result<()> = file::replace(path, bytes, mode);
    written.with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::ring::default_provider;
    use rustls_pki_types::pem::PemObject as _;
    use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

    use super::*;

    #[test]
    fn who_trusts_the_authority_takes_the_names_of_apps_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let addresses = ["127.0.0.1:1".parse().unwrap(); 2];
        let first = Https::open(folder.path(), addresses).unwrap();
        let trusted = fs::read(&first.certificate).unwrap();
        // The next start has the same authority.
        let https = Https::open(folder.path(), addresses).unwrap();
        assert_eq!(fs::read(&https.certificate).unwrap(), trusted);
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&trusted).unwrap()).unwrap();
        let provider = Arc::new(default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let takes = |names: &[&str], asked: &str| {
            let made = https.issue(&names.iter().map(|name| (*name).to_owned()).collect()).unwrap();
            let chain: Vec<_> =
                CertificateDer::pem_slice_iter(made.chain.as_bytes()).collect::<Result<_, _>>().unwrap();
            let asked = ServerName::try_from(asked.to_owned()).unwrap();
            verifier.verify_server_cert(&chain[0], &chain[1..], &asked, &[], UnixTime::now()).is_ok()
        };
        let apps = ["shop.localhost", "blog.localhost"];
        assert!(takes(&apps, "shop.localhost") && takes(&apps, "blog.localhost"));
        assert!(!takes(&apps, "other.localhost"));
        assert!(!takes(&["bank.example"], "bank.example"), "it cannot speak for the rest of the world");
    }
}
