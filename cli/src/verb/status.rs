//! `pontoon status`: the cluster at a glance.

use pontoon_api::{Controller, Status};

use crate::output::{self, or_none, pairs};
use crate::session::Session;

/// Prints it.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    let (status, controllers) = tokio::join!(session.client.status(), session.client.controllers());
    let mut status = status?;
    // Who sees one app only does not see the machines, and an answer that came is not thrown away.
    status.problems.extend(away(&controllers.unwrap_or_default()));
    Ok(output::print(session.format, &status, show)?)
}

/// Of each controller that does not answer the one that was asked, what that means.
fn away(controllers: &[Controller]) -> Vec<String> {
    let votes = |one: &&Controller| matches!(one.role.as_str(), "leader" | "voter");
    let voters = controllers.iter().filter(votes).count();
    let living = controllers.iter().filter(votes).filter(|one| one.reachable).count();
    let left = match living.checked_sub(voters / 2 + 1) {
        Some(0) => "and no other voter may fail before it is back".to_owned(),
        Some(more) => format!("and {more} more may fail before it is back"),
        None => "and too few voters are left to change anything".to_owned(),
    };
    let away = controllers.iter().filter(|one| !one.reachable && one.role != "removed");
    away.map(|one| {
        let name = &one.name;
        let remove = format!("start it, or `pontoon controller remove {name}` if it is gone for good");
        match votes(&one) {
            true => format!("controller {name} does not answer, {left}: {remove}"),
            false => format!("controller {name}, which follows only, does not answer: {remove}"),
        }
    })
    .collect()
}

fn show(status: &Status) -> String {
    let mut lines = vec![
        ("leader", or_none(status.leader.clone())),
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
    fn a_controller_that_does_not_answer_is_named_with_what_that_means() {
        let one = |name: &str, role: &str, reachable: bool| -> Controller {
            let row = serde_json::json!({"id": "c1", "name": name, "site": "x", "role": role, "grpc": "", "rest": "",
                "matched": null, "reachable": reachable});
            serde_json::from_value(row).unwrap()
        };
        let three = |b, c| [one("a", "leader", true), one("b", "voter", b), one("c", "voter", c)];
        assert!(away(&three(true, true)).is_empty() && away(&[one("old", "removed", false)]).is_empty());
        let lines = away(&three(true, false));
        assert_eq!(
            lines,
            [
                "controller c does not answer, and no other voter may fail before it is back: start it, or `pontoon controller \
              remove c` if it is gone for good"
            ]
        );
        assert!(away(&three(false, false))[0].contains("too few voters are left"));
        let five = [&three(true, false)[..], &[one("d", "voter", true), one("e", "voter", true)]].concat();
        assert!(away(&five)[0].contains("1 more may fail"), "{:?}", away(&five));
        assert!(away(&[one("a", "leader", true), one("l", "learner", false)])[0].contains("follows only"));
    }

    #[test]
    fn problems_come_last() {
        let status = Status {
            version: "0.1.0".into(),
            controller: "north".into(),
            leader: Some("east".into()),
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
            leader:       east
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
