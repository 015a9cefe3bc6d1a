//! `pontoon acme`: certificates that the cluster orders by itself.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use pontoon_api::acme::{Acme, HostName, SetAcme};
use pontoon_api::edge::{CertificateState, NamedCertificate};
use pontoon_kit::clock;
use pontoon_model::AcmeSettings;

use crate::Usage;
use crate::output::{self, NONE, or_none, pairs, short, table};
use crate::session::Session;
use crate::small_file::{self, MOST_PEM};

/// The verbs of `acme`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Have a certificate ordered for every domain that has none of its own, and renewed
    Set(SetArgs),
    /// Show where certificates are ordered, and what each name has
    Show,
    /// Try failed orders again now
    Retry {
        /// Only that of this host name
        host: Option<String>,
    },
    /// Order none any more; those there are go on until their end
    Off,
}

/// Arguments of `acme set`.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Whom the authority may write to
    #[arg(long)]
    pub email: String,
    /// URL of the ACME directory; Let's Encrypt if not given
    #[arg(long)]
    pub directory: Option<String>,
    /// The directory of Let's Encrypt to try things with, whose certificates browsers do not take
    #[arg(long, conflicts_with = "directory")]
    pub staging: bool,
    /// File with the certificate of who signed that of a private directory, PEM
    #[arg(long, value_name = "FILE", requires = "directory")]
    pub ca_file: Option<PathBuf>,
    /// Key id of an account that you have with the authority already, as ZeroSSL and others want it
    #[arg(long, value_name = "ID", requires = "eab_hmac")]
    pub eab_kid: Option<String>,
    /// Its HMAC key, or @FILE
    #[arg(long, value_name = "KEY", requires = "eab_kid")]
    pub eab_hmac: Option<String>,
    /// A host name for which none shall be ordered; may be given again
    #[arg(long, value_name = "HOST")]
    pub except: Vec<String>,
    /// Agree to the authority's terms of service
    #[arg(long)]
    pub agree_tos: bool,
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Set(args) => set(session, args).await,
        Verb::Show => Ok(output::print(session.format, &session.client.acme().await?, show)?),
        Verb::Retry { host } => {
            let changed = session.client.retry_orders(host).await?;
            Ok(output::print(session.format, &changed, |_| {
                "tried again now; `pontoon acme show` says what becomes of it".to_owned()
            })?)
        }
        Verb::Off => {
            let changed = session.client.end_acme().await?;
            Ok(output::print(session.format, &changed, |_| {
                "no certificates are ordered any more; those there are go on until their end and are not renewed"
                    .to_owned()
            })?)
        }
    }
}

async fn set(session: &Session, args: SetArgs) -> anyhow::Result<()> {
    if !args.agree_tos {
        let terms = "read the authority's terms of service (Let's Encrypt: https://letsencrypt.org/repository), then give --agree-tos";
        return Err(Usage(terms.to_owned()).into());
    }
    let read =
        |path: &PathBuf| small_file::read(path, MOST_PEM).with_context(|| format!("cannot read {}", path.display()));
    let hmac = match args.eab_hmac.as_deref().map(|text| (text, text.strip_prefix('@'))) {
        Some((_, Some(path))) => Some(read(&path.into())?.trim().to_owned()),
        Some((text, None)) => Some(text.to_owned()),
        None => None,
    };
    let staging = args.staging.then(|| AcmeSettings::LETS_ENCRYPT_STAGING.to_owned());
    let body = SetAcme {
        directory: args.directory.or(staging),
        email: args.email,
        agree_tos: args.agree_tos,
        authority: args.ca_file.as_ref().map(read).transpose()?,
        eab_kid: args.eab_kid,
        eab_hmac: hmac,
        except: args.except,
    };
    let changed = session.client.set_acme(&body).await?;
    Ok(output::print(session.format, &changed, |_| {
        "each domain that has no certificate of its own gets one and keeps one, once the DNS leads to the balancers and port 80 \
         (or 443) can be reached from everywhere; `pontoon acme show` says how far each is"
            .to_owned()
    })?)
}

fn show(acme: &Acme) -> String {
    let head = match acme.on {
        false => "no certificates are ordered; `pontoon acme set` begins it".to_owned(),
        true => {
            let account = match (&acme.account, &acme.error) {
                (_, Some(error)) => error.clone(),
                (Some(account), None) => account.clone(),
                (None, None) => "is being made".to_owned(),
            };
            let except = Some(acme.except.join(" ")).filter(|text| !text.is_empty());
            pairs([
                ("directory", or_none(acme.directory.as_ref())),
                ("email", or_none(acme.email.as_ref())),
                ("account", account),
                ("except", or_none(except)),
            ])
        }
    };
    let row = |one: &HostName| {
        let next = one.certificate.next.map(soon).unwrap_or_default();
        [one.host.clone(), state(&one.certificate), next, or_none(one.certificate.error.as_ref())]
    };
    if acme.names.is_empty() {
        return format!("{head}\n\nno app has a domain; `pontoon domain add` gives it one");
    }
    format!("{head}\n\n{}", table(["HOST", "CERTIFICATE", "NEXT ORDER", "LAST ERROR"], acme.names.iter().map(row)))
}

/// What a host name has, in a few words.
pub(super) fn state(one: &NamedCertificate) -> String {
    let ends = || match one.ends.map(|ends| ends.checked_sub(clock::unix_millis())) {
        Some(Some(left)) => format!(", ends in {}", short(Duration::from_millis(left))),
        _ => String::new(),
    };
    match one.certificate {
        CertificateState::Uploaded => format!("uploaded{}", ends()),
        CertificateState::Ordered => format!("ordered{}", ends()),
        CertificateState::Waits if one.error.is_some() => "none yet: order failed".to_owned(),
        CertificateState::Waits => "being ordered".to_owned(),
        CertificateState::Wildcard => "none: upload one (`pontoon cert add`)".to_owned(),
        CertificateState::None => NONE.to_owned(),
    }
}

/// When something is, if not yet.
pub(super) fn soon(at: u64) -> String {
    match at.checked_sub(clock::unix_millis()) {
        Some(left) if left > 0 => format!("in {}", short(Duration::from_millis(left))),
        _ => "now".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn name(host: &str, certificate: CertificateState, ends: Option<u64>, error: Option<&str>) -> HostName {
        let now = clock::unix_millis();
        let next = matches!(certificate, CertificateState::Ordered | CertificateState::Waits).then_some(now + 605_000);
        let certificate = NamedCertificate {
            certificate,
            fingerprint: None,
            ends: ends.map(|days| now + days * 86_400_000 + 5_000),
            next,
            error: error.map(str::to_owned),
        };
        HostName { host: host.into(), certificate }
    }

    #[test]
    fn each_name_says_what_it_has_and_what_is_in_the_way() {
        let mut acme = Acme {
            on: true,
            directory: Some("https://a.b/dir".into()),
            email: Some("you@a.b".into()),
            private_authority: false,
            eab_kid: None,
            except: vec!["x.a.b".into()],
            account: None,
            error: None,
            names: vec![
                name("a.b", CertificateState::Ordered, Some(60), None),
                name("b.b", CertificateState::Waits, None, Some("port 80 cannot be reached")),
                name("*.c.b", CertificateState::Wildcard, None, None),
                name("d.b", CertificateState::Uploaded, Some(9), None),
                name("x.a.b", CertificateState::None, None, None),
            ],
        };
        expect![[r#"
            directory:  https://a.b/dir
            email:      you@a.b
            account:    is being made
            except:     x.a.b

            HOST    CERTIFICATE                             NEXT ORDER   LAST ERROR
            a.b     ordered, ends in 60d                    in 10m       -
            b.b     none yet: order failed                  in 10m       port 80 cannot be reached
            *.c.b   none: upload one (`pontoon cert add`)   -            -
            d.b     uploaded, ends in 9d                    -            -
            x.a.b   -                                       -            -"#]]
        .assert_eq(&show(&acme));
        acme.names.clear();
        acme.on = false;
        assert!(show(&acme).starts_with("no certificates are ordered; `pontoon acme set`"), "{}", show(&acme));
    }
}
