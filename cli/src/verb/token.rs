//! `pontoon token`: make, list and revoke tokens, those that use the API and those that machines join with.

use std::io::{self, IsTerminal};
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use clap::{Args, Subcommand};
use pontoon_api::trust::{CreateJoinToken, JoinToken};
use pontoon_api::{Controller, CreateToken, CreatedToken, Token};
use pontoon_kit::clock;
use pontoon_model::{self as model, ApiToken, MachineRole, Scope, SiteName, TokenId};

use crate::Usage;
use crate::args::{Format, parse_duration};
use crate::output::{self, age, exactly, short, table};
use crate::session::Session;

/// The verbs of `token`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a token and print it, this once
    Create(CreateArgs),
    /// List the tokens, without the tokens themselves
    List {
        /// Those that machines join with
        #[arg(long)]
        join: bool,
    },
    /// End a token: what carries it is refused from now on
    Revoke {
        /// Its id, as `pontoon token list` shows it
        id: AnyId,
    },
}

/// A token of either kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AnyId {
    /// One that uses the API: `t7`.
    Api(TokenId),
    /// One that machines join with: twelve hexadecimal digits.
    Join(String),
}

impl FromStr for AnyId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(id) = text.parse() {
            return Ok(Self::Api(id));
        }
        match text.len() == 12 && text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            true => Ok(Self::Join(text.to_owned())),
            false => {
                Err("it is no token's id; `pontoon token list` and `pontoon token list --join` show them".to_owned())
            }
        }
    }
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What it allows: admin, read, or deploy:APP; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", required_unless_present = "role", conflicts_with_all = ["role", "site", "uses"])]
    pub scopes: Vec<Scope>,
    /// As what it lets a machine in: controller, agent or balancer
    #[arg(long, value_name = "ROLE")]
    pub role: Option<MachineRole>,
    /// Lets machines in at this site only
    #[arg(long, requires = "role")]
    pub site: Option<SiteName>,
    /// How many machines it lets in; without it, one
    #[arg(long, requires = "role", value_parser = clap::value_parser!(u32).range(1..))]
    pub uses: Option<u32>,
    /// How long it is valid, e.g. 30d or 12h; without it, until it is revoked, and a day for machines
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// What it is for
    #[arg(long, conflicts_with = "role")]
    pub name: Option<String>,
}

impl CreateArgs {
    fn check_ttl(&self) -> Result<(), Usage> {
        let longest = if self.role.is_some() { model::JoinToken::LONGEST_LIFE } else { ApiToken::LONGEST_LIFE };
        match self.ttl {
            Some(ttl) if ttl.is_zero() || ttl > longest => Err(Usage(format!(
                "--ttl must be above zero and at most {}d for such a token; write for example 12h or 30d",
                longest.as_secs() / 86_400
            ))),
            _ => Ok(()),
        }
    }
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    if let Verb::Create(args) = &verb {
        args.check_ttl()?;
    }
    match verb {
        Verb::Create(CreateArgs { role: Some(role), site, uses, ttl, .. }) => {
            let ttl_s = ttl.map(|ttl| ttl.as_secs());
            create_to_join(session, &CreateJoinToken { role, site, ttl_s, uses }).await
        }
        Verb::Create(args) => create(session, args).await,
        Verb::List { join: true } => {
            Ok(output::print(session.format, &session.client.join_tokens().await?, |all| list_to_join(all))?)
        }
        Verb::List { join: false } => {
            Ok(output::print(session.format, &session.client.tokens().await?, |all| list(all))?)
        }
        Verb::Revoke { id } => {
            let (changed, done) = match id {
                AnyId::Api(id) => {
                    // Afterwards nobody can ask with it whose it was.
                    let own = session.client.own_token().await?.id == id;
                    (session.client.revoke_token(id).await?, revoked(id, own))
                }
                AnyId::Join(id) => (
                    session.client.revoke_join_token(&id).await?,
                    format!(
                        "token {id} lets nobody in any more; machines that it has let in stay: `pontoon machines` lists them, \
                         `pontoon revoke ROLE NAME` shuts one out"
                    ),
                ),
            };
            Ok(output::print(session.format, &changed, |_| done.clone())?)
        }
    }
}

fn revoked(id: TokenId, own: bool) -> String {
    let next = if own { "; it was the one in use here: `pontoon login URL` takes another" } else { "" };
    format!("token {id} is revoked{next}")
}

async fn create(session: &Session, args: CreateArgs) -> anyhow::Result<()> {
    let ttl_seconds = args.ttl.map(|ttl| ttl.as_secs());
    let asked = CreateToken { name: args.name, scopes: args.scopes.into_iter().collect(), ttl_seconds };
    let made = session.client.create_token(&asked).await?;
    if session.format == Format::Table {
        // On stderr, so that what is piped on is the token and nothing else.
        output::note(&describe(&made));
    }
    Ok(output::print(session.format, &made, |made| made.token.clone())?)
}

async fn create_to_join(session: &Session, asked: &CreateJoinToken) -> anyhow::Result<()> {
    let made = session.client.create_join_token(asked).await?;
    if session.format == Format::Table {
        // The token is made: that nobody says where it is used is no reason to keep it back.
        let controllers = session.client.controllers().await.unwrap_or_default();
        // Whoever takes it from a pipe has it there, and not in a log of what was said beside it.
        let seen = made.token.as_deref().filter(|_| io::stdout().is_terminal());
        output::note(&describe_to_join(&made, best_to_join(&controllers), seen));
    }
    Ok(output::print(session.format, &made, |made| made.token.clone().unwrap_or_default())?)
}

/// Where a machine asks: one that answers, best the leader, and under an address that others can have a way to.
fn best_to_join(controllers: &[Controller]) -> Option<&str> {
    let is_here = |grpc: &str| grpc.parse::<SocketAddr>().is_ok_and(|address| address.ip().is_loopback());
    let best = |one: &&Controller| (one.role != "removed", one.reachable, !is_here(&one.grpc), one.role == "leader");
    controllers.iter().max_by_key(best).map(|one| one.grpc.as_str())
}

fn describe_to_join(made: &JoinToken, address: Option<&str>, token: Option<&str>) -> String {
    let site = made.site.as_ref().map_or_else(String::new, |site| format!(" --site {site}"));
    let role = made.role;
    let what_is = match (address, token) {
        (Some(_), Some(_)) => "",
        (Some(_), None) => " (TOKEN is what this prints; it may also be in PONTOON_JOIN_TOKEN)",
        (None, _) => " (ADDR is what `pontoon controllers` shows as GRPC)",
    };
    format!(
        "token {} lets in {} as {role}, for {}; it is shown this once. On that machine{what_is}:\n\n    pontoon {role} join {} \
         --token {}{site}\n",
        made.id,
        if made.uses_left == 1 { "one machine".to_owned() } else { format!("{} machines", made.uses_left) },
        life(made.made_at, made.expires_at),
        address.unwrap_or("ADDR"),
        token.unwrap_or("TOKEN"),
    )
}

/// The time that was asked for: what is left of it is always a little less, and would be said as `23h`.
fn life(made_at: u64, expires_at: u64) -> String {
    exactly(Duration::from_millis(expires_at.saturating_sub(made_at)))
}

fn list_to_join(tokens: &[JoinToken]) -> String {
    let row = |token: &JoinToken| {
        let left = token.expires_at.checked_sub(clock::unix_millis()).map(|left| short(Duration::from_millis(left)));
        let end = left.map_or_else(|| "expired".to_owned(), |left| format!("expires in {left}"));
        let site = output::or_none(token.site.as_ref());
        [token.id.clone(), token.role.to_string(), site, token.uses_left.to_string(), age(token.made_at), end]
    };
    table(["ID", "ROLE", "SITE", "LEFT", "AGE", "END"], tokens.iter().map(row))
}

fn describe(made: &CreatedToken) -> String {
    let row = &made.row;
    let end = row.expires_at.map(|at| format!("expires in {}", life(row.created_at, at)));
    let end = end.unwrap_or_else(|| ends(row));
    format!("token {} ({}): {}, {}; it is shown this once", row.id, row.name, scopes(row), end)
}

fn scopes(token: &Token) -> String {
    token.scopes.iter().map(Scope::to_string).collect::<Vec<_>>().join(" ")
}

fn ends(token: &Token) -> String {
    match token.expires_at {
        None => "does not expire".to_owned(),
        Some(_) if token.expired => "expired".to_owned(),
        Some(at) => format!("expires in {}", short(Duration::from_millis(at.saturating_sub(clock::unix_millis())))),
    }
}

fn list(tokens: &[Token]) -> String {
    let row = |token: &Token| {
        let used = token.last_used_at.map_or_else(|| "never".to_owned(), |at| format!("{} ago", age(at)));
        [token.id.to_string(), token.name.clone(), scopes(token), age(token.created_at), used, ends(token)]
    };
    table(["ID", "NAME", "SCOPES", "AGE", "USED", "END"], tokens.iter().map(row))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn a_new_token_is_told_with_the_time_that_was_asked_for() {
        for (seconds, said) in [(2, "2s"), (90, "90s"), (600, "10m"), (9_000, "150m"), (86_400, "1d"), (129_600, "36h")]
        {
            let made = JoinToken {
                id: "j1".into(),
                role: MachineRole::Agent,
                site: None,
                uses_left: 1,
                made_at: 1_000_000,
                expires_at: 1_000_000 + seconds * 1_000,
                token: None,
            };
            let told = describe_to_join(&made, None, None);
            assert!(told.contains(&format!("as agent, for {said};")), "{told}");
        }
    }

    #[test]
    fn the_line_that_joins_can_be_pasted() {
        let made = JoinToken {
            id: "j1".into(),
            role: MachineRole::Agent,
            site: "home.attic".parse().ok(),
            uses_left: 2,
            made_at: 0,
            expires_at: 3_600_000,
            token: None,
        };
        expect![[r#"
            token j1 lets in 2 machines as agent, for 1h; it is shown this once. On that machine:

                pontoon agent join 10.0.0.5:7710 --token abc --site home.attic
        "#]]
        .assert_eq(&describe_to_join(&made, Some("10.0.0.5:7710"), Some("abc")));
        let piped = describe_to_join(&made, Some("10.0.0.5:7710"), None);
        assert!(piped.contains("join 10.0.0.5:7710 --token TOKEN") && piped.contains("PONTOON_JOIN_TOKEN"), "{piped}");
        let unknown = describe_to_join(&made, None, Some("abc"));
        assert!(unknown.contains("join ADDR --token abc") && unknown.contains("shows as GRPC"), "{unknown}");
    }

    #[test]
    fn a_machine_joins_through_a_controller_that_it_can_reach() {
        let one = |grpc: &str, role: &str, reachable: bool| -> Controller {
            serde_json::from_value(serde_json::json!({
                "id": "1", "name": "north", "site": "a.b", "role": role, "grpc": grpc, "rest": "", "matched": null,
                "reachable": reachable,
            }))
            .unwrap()
        };
        let best = |all: &[Controller]| best_to_join(all).map(str::to_owned);
        let all = [
            one("10.0.0.1:7710", "leader", false),
            one("127.0.0.1:7710", "leader", true),
            one("10.0.0.2:7710", "voter", true),
            one("10.0.0.3:7710", "removed", true),
        ];
        assert_eq!(best(&all).as_deref(), Some("10.0.0.2:7710"));
        assert_eq!(best(&all[..2]).as_deref(), Some("127.0.0.1:7710"));
        assert_eq!(best(&[]), None);
    }

    #[test]
    fn tokens_are_listed_with_what_they_allow_and_when_they_end() {
        let now = clock::unix_millis();
        let first = Token {
            id: TokenId(1),
            name: "first".into(),
            scopes: [Scope::Admin].into(),
            created_at: now - 3 * 3_600_000,
            expires_at: None,
            last_used_at: Some(now - 600_000),
            expired: false,
        };
        let shop = Scope::Deploy("shop".parse().unwrap());
        let ci = Token {
            id: TokenId(12),
            name: "CI".into(),
            scopes: [Scope::Read, shop].into(),
            expires_at: Some(now + 30 * 86_400_000 + 5_000),
            last_used_at: None,
            ..first.clone()
        };
        let old = Token { id: TokenId(13), expires_at: Some(now - 1), expired: true, ..ci.clone() };
        expect![[r#"
            ID    NAME    SCOPES             AGE   USED      END
            t1    first   admin              3h    10m ago   does not expire
            t12   CI      read deploy:shop   3h    never     expires in 30d
            t13   CI      read deploy:shop   3h    never     expired"#]]
        .assert_eq(&list(&[first, ci, old]));
    }
}
