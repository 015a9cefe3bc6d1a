//! `pontoon cert`: certificates that balancers show to browsers.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use pontoon_api::acme::HostName;
use pontoon_api::edge::{Certificate, CertificateState, PutCertificate};
use pontoon_kit::clock;
use pontoon_model::CertificateOrigin;

use crate::args::Format;
use crate::output::{self, or_none, short, table};
use crate::session::Session;
use crate::small_file::{self, MOST_PEM};

/// The verbs of `cert`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Give the balancers a certificate and its key
    Add(AddArgs),
    /// List the certificates
    List,
    /// Have a certificate shown no longer
    Remove {
        /// Its fingerprint or the beginning of it, as `pontoon cert list` shows it
        #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
        fingerprint: String,
    },
}

/// Arguments of `cert add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// File with the certificate and those between it and a root, PEM
    pub chain: PathBuf,
    /// File with its key, PEM
    pub key: PathBuf,
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Add(AddArgs { chain, key }) => {
            let certificate = PutCertificate { chain: read(&chain)?, key: read(&key)? };
            let taken = session.client.put_certificate(&certificate).await?;
            let said = |taken: &Certificate| {
                let names = taken.names.join(", ");
                format!("balancers show certificate {} for {names}; it {}", taken.fingerprint.short(), ends(taken))
            };
            output::print(session.format, &taken, said)?;
            if let Some(note) = &taken.note {
                output::note(note);
            }
            Ok(())
        }
        Verb::List => {
            output::print(session.format, &session.client.certificates().await?, |all| list(all))?;
            without(session).await
        }
        Verb::Remove { fingerprint } => {
            let all = session.client.certificates().await?;
            let digits = fingerprint.to_ascii_lowercase();
            let meant: Vec<_> = all.iter().filter(|one| one.fingerprint.to_string().starts_with(&digits)).collect();
            let [one] = meant.as_slice() else {
                bail!(
                    "{} certificates begin with {fingerprint:?}; `pontoon cert list` shows those there are",
                    meant.len()
                );
            };
            let changed = session.client.remove_certificate(&one.fingerprint).await?;
            let said =
                format!("certificate {} for {} is shown no longer", one.fingerprint.short(), one.names.join(", "));
            Ok(output::print(session.format, &changed, |_| said)?)
        }
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    small_file::read(path, MOST_PEM).with_context(|| format!("cannot read {}", path.display()))
}

fn ends(certificate: &Certificate) -> String {
    match certificate.ends.checked_sub(clock::unix_millis()) {
        Some(left) => format!("ends in {}", short(Duration::from_millis(left))),
        None => "has ended".to_owned(),
    }
}

fn list(certificates: &[Certificate]) -> String {
    let row = |one: &Certificate| {
        let origin = match one.origin {
            CertificateOrigin::Uploaded => "uploaded",
            CertificateOrigin::Ordered => "ordered",
        };
        let next = one.next.map(super::acme::soon).unwrap_or_default();
        [one.fingerprint.short(), one.names.join(" "), origin.to_owned(), ends(one), next, or_none(one.error.as_ref())]
    };
    table(["FINGERPRINT", "NAMES", "ORIGIN", "END", "NEXT ORDER", "LAST ERROR"], certificates.iter().map(row))
}

/// The names that have none, if people look.
async fn without(session: &Session) -> anyhow::Result<()> {
    if session.format != Format::Table {
        return Ok(());
    }
    // The list itself was answered; what is said beside it may need a newer controller.
    let Ok(acme) = session.client.acme().await else { return Ok(()) };
    let lacking =
        |one: &&HostName| matches!(one.certificate.certificate, CertificateState::Waits | CertificateState::Wildcard);
    for one in acme.names.iter().filter(lacking) {
        let why = one.certificate.error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let next = one.certificate.next.map(|at| format!("; next try {}", super::acme::soon(at))).unwrap_or_default();
        output::note(&format!("{}: {}{why}{next}", one.host, super::acme::state(&one.certificate)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_model::Digest;

    use super::*;

    #[test]
    fn certificates_are_listed_with_their_names_and_ends() {
        let now = clock::unix_millis();
        let one = Certificate {
            fingerprint: Digest([0xAB; 32]),
            names: vec!["*.a.example".into(), "a.example".into()],
            begins: now,
            ends: now + 90 * 86_400_000 + 5_000,
            origin: CertificateOrigin::Uploaded,
            next: None,
            error: None,
            note: None,
        };
        let ordered = Certificate {
            origin: CertificateOrigin::Ordered,
            next: Some(now + 60 * 86_400_000 + 5_000),
            error: Some("why".into()),
            ..one.clone()
        };
        let old = Certificate { fingerprint: Digest([0xCD; 32]), ends: now - 1, ..one.clone() };
        expect![[r#"
            FINGERPRINT    NAMES                   ORIGIN     END           NEXT ORDER   LAST ERROR
            abababababab   *.a.example a.example   uploaded   ends in 90d   -            -
            cdcdcdcdcdcd   *.a.example a.example   uploaded   has ended     -            -
            abababababab   *.a.example a.example   ordered    ends in 90d   in 60d       why"#]]
        .assert_eq(&list(&[one, old, ordered]));
    }
}
