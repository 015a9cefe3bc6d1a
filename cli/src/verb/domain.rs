//! `pontoon domain`: host names of one's own, by which apps are reached.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use clap::{Args, Subcommand};
use pontoon_api::Balancer;
use pontoon_api::edge::Domain;

use crate::Usage;
use crate::args::{AppArg, Format};
use crate::output::{self, age, table};
use crate::session::{Session, app_of};

/// The verbs of `domain`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Have an app reached by a domain, and say what to put into the DNS
    Add(DomainArgs),
    /// Have it reached by that no longer
    Remove(DomainArgs),
    /// List the domains of all apps, or of one
    List {
        /// Only this app's
        #[command(flatten)]
        app: AppArg,
    },
}

/// Arguments of `domain add` and `domain remove`.
#[derive(Debug, Args)]
pub struct DomainArgs {
    /// A host name like shop.example.org or *.example.org, with a path behind it if only that is meant
    pub domain: String,
    /// The app
    #[command(flatten)]
    pub app: AppArg,
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Add(args) => add(session, &args).await,
        Verb::Remove(args) => {
            let (domain, app) = (parse(&args.domain)?, app_of(&args.app)?);
            let changed = session.client.remove_domain(&app, &domain.to_string()).await?;
            Ok(output::print(session.format, &changed, |_| format!("{app} is no longer reached by {domain}"))?)
        }
        Verb::List { app } => {
            let domains = session.client.domains(app.app.as_ref()).await?;
            Ok(output::print(session.format, &domains, |all| list(all))?)
        }
    }
}

async fn add(session: &Session, args: &DomainArgs) -> anyhow::Result<()> {
    let (domain, app) = (parse(&args.domain)?, app_of(&args.app)?);
    domain.check_reachable().map_err(|error| Usage(error.to_string()))?;
    let added = session.client.add_domain(&app, &domain.to_string()).await?;
    output::print(session.format, &added, |added| match added.already {
        true => format!("{app} is reached by {domain} already: nothing has changed"),
        false => format!("{app} is reached by {domain} too"),
    })?;
    if session.format == Format::Table {
        // Who may change one app may not see the machines.
        let balancers = session.client.balancers().await.unwrap_or_default();
        output::note(&records(domain.host(), &balancers));
    }
    Ok(())
}

/// Checked here too: what is no domain is wrong usage.
fn parse(text: &str) -> anyhow::Result<pontoon_model::Domain> {
    text.parse().map_err(|error: pontoon_model::InvalidDomain| Usage(error.to_string()).into())
}

/// What to put into the DNS, so that users come to the balancers.
fn records(host: &str, balancers: &[Balancer]) -> String {
    let addresses: BTreeSet<_> =
        balancers.iter().filter_map(|one| one.listen.parse::<SocketAddr>().ok()).map(|address| address.ip()).collect();
    if addresses.is_empty() {
        return format!("in the DNS, let {host} lead to the balancers' addresses; `pontoon balancers` shows them");
    }
    let record = |ip: &std::net::IpAddr| format!("    {host}. {} {ip}", if ip.is_ipv4() { "A" } else { "AAAA" });
    let lines: Vec<String> = addresses.iter().map(record).collect();
    format!(
        "in the DNS, let it lead to the balancers (to the public addresses, if they have others):\n\n{}\n",
        lines.join("\n")
    )
}

fn list(domains: &[Domain]) -> String {
    let row = |one: &Domain| {
        let failed = one.certificate.error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
        let certificate = format!("{}{failed}", super::acme::state(&one.certificate));
        [one.domain.clone(), one.app.to_string(), age(one.added_at), certificate]
    };
    table(["DOMAIN", "APP", "AGE", "CERTIFICATE"], domains.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_records_name_each_address_once() {
        let balancer = |listen: &str| Balancer {
            name: "lb".parse().unwrap(),
            site: "east".parse().unwrap(),
            listen: listen.into(),
            applied: None,
            peer: None,
        };
        let all = [balancer("192.0.2.1:80"), balancer("192.0.2.1:8080"), balancer("[2001:db8::1]:80")];
        expect![[r#"
            in the DNS, let it lead to the balancers (to the public addresses, if they have others):

                a.example. A 192.0.2.1
                a.example. AAAA 2001:db8::1
        "#]]
        .assert_eq(&records("a.example", &all));
        assert!(records("a.example", &[]).contains("`pontoon balancers` shows them"));
    }
}
