//! `pontoon machines` and `pontoon revoke`: who belongs to the cluster, and who no longer does.

use clap::Args;
use pontoon_api::trust::Machine;
use pontoon_kit::clock;
use pontoon_model::MachineRole;

use crate::output::{self, age, table};
use crate::session::Session;

/// Arguments of `revoke`.
#[derive(Debug, Args)]
pub struct RevokeArgs {
    /// controller, agent or balancer
    pub role: MachineRole,
    /// Its name, as `pontoon machines` shows it
    pub name: String,
}

/// Lists them.
pub async fn list(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.machines().await?, |all| rows(all))?)
}

/// Shuts one out.
pub async fn revoke(session: &Session, args: &RevokeArgs) -> anyhow::Result<()> {
    let changed = session.client.revoke(args.role, &args.name).await?;
    output::print(session.format, &changed, |_| {
        format!(
            "{} {} no longer belongs to the cluster; it can join again with a new key and a new token",
            args.role, args.name
        )
    })?;
    Ok(())
}

fn rows(machines: &[Machine]) -> String {
    let row = |machine: &Machine| {
        let left = machine.certificate_ends.saturating_sub(clock::unix_millis()) / 86_400_000;
        let certificate =
            if machine.certificate_ends <= clock::unix_millis() { "ended".into() } else { format!("{left}d left") };
        [machine.role.to_string(), machine.name.clone(), age(machine.joined_at), certificate, machine.key.short()]
    };
    table(["ROLE", "NAME", "AGE", "CERTIFICATE", "KEY"], machines.iter().map(row))
}
