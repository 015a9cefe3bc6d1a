//! `pontoon releases`: an app's releases, newest first.

use pontoon_api::Release;

use crate::args::AppArg;
use crate::output::{self, age, table};
use crate::progress::size;
use crate::session::{Session, app_of};

/// Prints them.
pub async fn run(session: &Session, app: &AppArg) -> anyhow::Result<()> {
    let releases = session.client.releases(&app_of(app)?).await?;
    Ok(output::print(session.format, &releases, |releases| list(releases))?)
}

fn list(releases: &[Release]) -> String {
    let row = |release: &Release| {
        let live = if release.live { "live" } else { "" };
        [
            release.number.to_string(),
            live.to_owned(),
            age(release.created_at),
            release.language.to_string(),
            release.bundle.short(),
            size(release.bundle_size),
            release.reason.clone(),
        ]
    };
    table(["RELEASE", "LIVE", "AGE", "LANGUAGE", "BUNDLE", "SIZE", "REASON"], releases.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use pontoon_kit::clock;
    use pontoon_model::{Digest, Language, ReleaseNumber};

    use super::*;

    #[test]
    fn the_live_one_is_marked() {
        let release = |number, live| Release {
            number: ReleaseNumber(number),
            created_at: clock::unix_millis() - 600_000,
            live,
            reason: "build b1".into(),
            language: Language::Python,
            bundle: Digest::of(b"x"),
            bundle_size: 3_400_000,
        };
        expect![[r#"
            RELEASE   LIVE   AGE   LANGUAGE   BUNDLE         SIZE     REASON
            v2        live   10m   python     2d711642b726   3.4 MB   build b1
            v1        -      10m   python     2d711642b726   3.4 MB   build b1"#]]
        .assert_eq(&list(&[release(2, true), release(1, false)]));
    }
}
