//! `pontoon controllers`: who agrees on what runs.

use pontoon_api::Controller;

use crate::output::{self, or_none, table};
use crate::session::Session;

/// Prints them.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.controllers().await?, |all| list(all))?)
}

fn list(controllers: &[Controller]) -> String {
    let row = |one: &Controller| {
        [
            one.name.clone(),
            one.site.to_string(),
            one.role.clone(),
            or_none(one.matched),
            one.rest.clone(),
            one.grpc.clone(),
            one.id.clone(),
        ]
    };
    table(["NAME", "SITE", "ROLE", "MATCHED", "REST", "GRPC", "ID"], controllers.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn ids_are_never_cut() {
        let controller = Controller {
            id: "c9223372036854775807".into(),
            name: "north".into(),
            site: "dev.north".parse().unwrap(),
            role: "leader".into(),
            grpc: "127.0.0.1:7710".into(),
            rest: "127.0.0.1:7700".into(),
            matched: None,
        };
        expect![[r#"
            NAME    SITE        ROLE     MATCHED   REST             GRPC             ID
            north   dev.north   leader   -         127.0.0.1:7700   127.0.0.1:7710   c9223372036854775807"#]]
        .assert_eq(&list(&[controller]));
    }
}
