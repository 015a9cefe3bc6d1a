//! `pontoon balancers`: where requests come in.

use pontoon_api::Balancer;

use crate::output::{self, or_none, table};
use crate::session::Session;

/// Prints them.
pub async fn run(session: &Session) -> anyhow::Result<()> {
    Ok(output::print(session.format, &session.client.balancers().await?, |all| list(all))?)
}

fn list(balancers: &[Balancer]) -> String {
    let row = |one: &Balancer| {
        let (name, site) = (one.name.to_string(), one.site.to_string());
        [name, site, one.listen.clone(), or_none(one.peer.as_ref()), or_none(one.applied)]
    };
    table(["NAME", "SITE", "LISTEN", "PEER", "APPLIED"], balancers.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn balancers_show_the_routes_they_have() {
        let balancer = Balancer {
            name: "balancer-east".parse().unwrap(),
            site: "dev.east".parse().unwrap(),
            listen: "127.0.0.1:8000".into(),
            applied: Some(42),
            peer: Some("127.0.0.1:7720".into()),
        };
        expect![[r#"
            NAME            SITE       LISTEN           PEER             APPLIED
            balancer-east   dev.east   127.0.0.1:8000   127.0.0.1:7720   42"#]]
        .assert_eq(&list(&[balancer]));
    }
}
