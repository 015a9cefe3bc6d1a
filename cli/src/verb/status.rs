//! `pontoon status`: the cluster at a glance.

use pontoon_api::Status;

use crate::output::{self, or_none, pairs};
use crate::session::Session;

/// Prints it.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.status().await?, show)?)
}

fn show(status: &Status) -> String {
    let silent = if status.leader_silent { " (does not answer)" } else { "" };
    let mut lines = vec![
        ("leader", or_none(status.leader.as_ref().map(|leader| format!("{leader}{silent}")))),
        ("answered by", format!("{} (version {}, index {})", status.controller, status.version, status.index)),
        ("controllers", status.controllers.to_string()),
        ("hosts", format!("{} of {} up", status.hosts_up, status.hosts)),
        ("balancers", status.balancers.to_string()),
        ("apps", status.apps.to_string()),
        ("servos", format!("{} of {} ready", status.servos_ready, status.servos)),
        ("base domain", status.base_domain.clone()),
    ];
    lines.extend(status.problems.iter().map(|problem| ("problem", problem.clone())));
    pairs(lines)
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn problems_come_last() {
        let status = Status {
            version: "0.1.0".into(),
            controller: "north".into(),
            leader: Some("east".into()),
            leader_silent: true,
            index: 42,
            controllers: 3,
            hosts_up: 1,
            hosts: 2,
            balancers: 2,
            apps: 1,
            servos_ready: 1,
            servos: 2,
            feature_level: 2,
            base_domain: "localhost".into(),
            problems: vec!["host-west has been silent for 12 s".into()],
        };
        expect![[r#"
            leader:       east (does not answer)
            answered by:  north (version 0.1.0, index 42)
            controllers:  3
            hosts:        1 of 2 up
            balancers:    2
            apps:         1
            servos:       1 of 2 ready
            base domain:  localhost
            problem:      host-west has been silent for 12 s"#]]
        .assert_eq(&show(&status));
    }
}
