//! `pontoon ca`: who signs the cluster's certificates.

use clap::Subcommand;
use pontoon_api::trust::Ca;

use crate::output::{self, age, table};
use crate::session::Session;

/// What can be done with the authority.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Show who signs and who still has a certificate of the authority before
    Status,
    /// Make another authority; every machine gets a certificate of it, then the former is trusted no longer
    Rotate,
    /// End the trust in the former authority
    Retire {
        /// Even if that shuts out machines that have no certificate of the new one yet
        #[arg(long)]
        force: bool,
    },
}

/// Does it.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Status => output::print(session.format, &session.client.ca().await?, show)?,
        Verb::Rotate => {
            let changed = session.client.rotate_ca().await?;
            output::print(session.format, &changed, |_| {
                "another authority signs; `pontoon ca status` shows it, and who still has a certificate of the former one.\n\
                 Tokens to join with that were made before name the former one: make others. Whoever is logged in learns of the \
                 new one with the next command, also who sleeps through up to five changes."
                    .into()
            })?;
        }
        Verb::Retire { force } => {
            let changed = session.client.retire_ca(force).await?;
            output::print(session.format, &changed, |_| {
                "the former authority is trusted no longer; a machine that was off gets a certificate of the new one by itself \
                 when it is back, and who is logged in learns of it with the next command. Join tokens that name the former one must \
                 be made anew."
                    .into()
            })?;
        }
    }
    Ok(())
}

fn show(ca: &Ca) -> String {
    let row = |authority: &pontoon_api::trust::Authority| {
        let signs = if authority.signs { "signs" } else { "trusted until nobody has a certificate of it" };
        [authority.fingerprint.to_string(), age(authority.made_at), signs.to_owned()]
    };
    let mut text = table(["FINGERPRINT", "AGE", "STATE"], ca.authorities.iter().map(row));
    if !ca.behind.is_empty() {
        let names: Vec<_> = ca.behind.iter().map(|machine| format!("{} {}", machine.role, machine.name)).collect();
        text += &format!("\n\nwith a certificate of the former one: {}", names.join(", "));
    }
    text
}
