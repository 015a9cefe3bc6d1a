//! `pontoon machines` and `pontoon revoke`: who belongs to the cluster, and who no longer does.

use clap::Args;
use pontoon_api::trust::Machine;
use pontoon_kit::clock;
use pontoon_model::MachineRole;

use crate::output::{self, age, or_none, table};
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
    Ok(output::print(session.format, &changed, |_| revoked(args.role, &args.name))?)
}

fn revoked(role: MachineRole, name: &str) -> String {
    let apps = match role {
        MachineRole::Agent => "; its apps have left the routes and are placed elsewhere",
        MachineRole::Controller | MachineRole::Balancer => "",
    };
    format!("{role} {name} no longer belongs to the cluster{apps}; it can join again with a new key and a new token")
}

fn rows(machines: &[Machine]) -> String {
    let row = |machine: &Machine| {
        let left = machine.certificate_ends.saturating_sub(clock::unix_millis()) / 86_400_000;
        let certificate =
            if machine.certificate_ends <= clock::unix_millis() { "ended".into() } else { format!("{left}d left") };
        let site = or_none(machine.site.as_ref());
        [machine.role.to_string(), machine.name.clone(), site, age(machine.joined_at), certificate, machine.key.short()]
    };
    table(["ROLE", "NAME", "SITE", "AGE", "CERTIFICATE", "KEY"], machines.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_model::Digest;

    use super::*;

    #[test]
    fn who_is_shut_out_is_told_in_whole_sentences() {
        let said = revoked(MachineRole::Balancer, "b1");
        assert_eq!(
            said,
            "balancer b1 no longer belongs to the cluster; it can join again with a new key and a new token"
        );
        let said = revoked(MachineRole::Agent, "h1");
        assert!(
            said.contains("cluster; its apps have left the routes and are placed elsewhere; it can join"),
            "{said}"
        );
    }

    #[test]
    fn machines_are_listed_with_where_they_stand() {
        let now = clock::unix_millis();
        let agent = Machine {
            role: MachineRole::Agent,
            name: "attic-1".into(),
            site: Some("home.attic".parse().unwrap()),
            joined_at: now - 3 * 3_600_000,
            certificate_ends: now + 90 * 86_400_000 + 5_000,
            key: Digest([0xab; 32]),
            signed_by: Digest([1; 32]),
        };
        let new = Machine { name: "new".into(), site: None, certificate_ends: 1, ..agent.clone() };
        expect![[r#"
            ROLE    NAME      SITE         AGE   CERTIFICATE   KEY
            agent   attic-1   home.attic   3h    90d left      abababababab
            agent   new       -            3h    ended         abababababab"#]]
        .assert_eq(&rows(&[agent, new]));
    }
}
