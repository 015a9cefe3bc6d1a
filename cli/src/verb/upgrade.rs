//! `pontoon upgrade --check`: what is in the way of upgrading Pontoon itself, and what this version would do.

use clap::Args;
use pontoon_api::{RunningVersion, Upgrade};
use pontoon_controller::NEWEST_LEVEL;

use crate::output::{self, or_none, table};
use crate::session::Session;

/// What `pontoon upgrade` takes.
#[derive(Debug, Args)]
pub struct UpgradeArgs {
    /// Say what is in the way, and change nothing; exit code 1 if something is
    #[arg(long, required = true)]
    check: bool,
}

/// Prints it; the exit code says whether anything is in the way.
pub async fn run(session: &Session, _: UpgradeArgs) -> anyhow::Result<u8> {
    let mut upgrade = session.client.upgrade().await?;
    upgrade.obstacles.extend(too_old(upgrade.feature_level, NEWEST_LEVEL));
    output::print(session.format, &upgrade, |upgrade| show(upgrade, pontoon_model::VERSION, NEWEST_LEVEL))?;
    Ok(u8::from(!upgrade.obstacles.is_empty()))
}

/// What only the version at hand knows is in the way.
fn too_old(now: u32, level: u32) -> Option<String> {
    (level < now).then(|| {
        format!("the cluster is at feature level {now}, and this version reads {level} at most: ask with the version that is to be installed")
    })
}

fn show(upgrade: &Upgrade, version: &str, level: u32) -> String {
    let row = |one: &RunningVersion| {
        let role = if one.connected { one.role.clone() } else { format!("{}, unreachable", one.role) };
        [
            role,
            one.name.clone(),
            one.version.clone().unwrap_or_else(|| "unknown".to_owned()),
            or_none(one.feature_level),
        ]
    };
    let mut text = table(["ROLE", "NAME", "VERSION", "READS"], upgrade.running.iter().map(row));
    text.push_str(&format!("\n\n{}\n", effect(upgrade.feature_level, version, level)));
    for obstacle in &upgrade.obstacles {
        text.push_str(&format!("in the way: {obstacle}\n"));
    }
    for warning in &upgrade.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if upgrade.obstacles.is_empty() {
        text.push_str(
            "nothing is in the way: stop one controller, install the new version, start it, wait until `pontoon controllers` shows \
             no lag; then the next, the leader last; then balancers and agents\n",
        );
    }
    text
}

/// What this binary would do, on all controllers.
fn effect(now: u32, version: &str, level: u32) -> String {
    match level.cmp(&now) {
        std::cmp::Ordering::Greater => format!(
            "this is version {version}, which reads feature levels up to {level}; the cluster is at {now}. Once all controllers \
             run it, the level rises by itself, and from then on no controller can go back to an older version"
        ),
        std::cmp::Ordering::Equal => format!(
            "this is version {version}, which reads feature levels up to {level}, as the cluster has: every controller can go back"
        ),
        std::cmp::Ordering::Less => format!(
            "this is version {version}, which reads feature levels up to {level} only; the cluster is at {now}, so it cannot take \
             part: a newer version is needed"
        ),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn upgrade() -> Upgrade {
        let running = |role: &str, name: &str, version: Option<&str>, connected, feature_level| RunningVersion {
            role: role.into(),
            name: name.into(),
            version: version.map(Into::into),
            connected,
            feature_level,
        };
        Upgrade {
            feature_level: 3,
            running: vec![
                running("controller", "north", Some("0.2.0"), true, Some(4)),
                running("controller", "east", None, false, None),
                running("agent", "attic", Some("0.1.0"), true, None),
                running("balancer", "lb", None, true, None),
            ],
            obstacles: vec!["controller east does not answer".into()],
            warnings: vec!["the feature level is 3".into()],
        }
    }

    #[test]
    fn what_is_in_the_way_is_said_after_who_runs_what() {
        expect![[r#"
            ROLE                      NAME    VERSION   READS
            controller                north   0.2.0     4
            controller, unreachable   east    unknown   -
            agent                     attic   0.1.0     -
            balancer                  lb      unknown   -

            this is version 0.2.0, which reads feature levels up to 4; the cluster is at 3. Once all controllers run it, the level rises by itself, and from then on no controller can go back to an older version
            in the way: controller east does not answer
            warning: the feature level is 3
        "#]].assert_eq(&show(&upgrade(), "0.2.0", 4));
    }

    #[test]
    fn a_version_that_is_too_old_is_told_so() {
        assert!(too_old(3, 2).is_some_and(|why| why.contains("is at feature level 3")));
        assert_eq!((too_old(3, 3), too_old(3, 4)), (None, None));
        assert!(effect(3, "0.1.0", 2).contains("cannot take part"));
        assert!(effect(3, "0.1.0", 3).contains("can go back"));
    }
}
