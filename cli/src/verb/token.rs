//! `pontoon token`: make, list and revoke API tokens.

use std::time::Duration;

use clap::{Args, Subcommand};
use pontoon_api::{CreateToken, CreatedToken, Token};
use pontoon_kit::clock;
use pontoon_model::{Scope, TokenId};

use crate::args::{Format, parse_duration};
use crate::output::{self, age, short, table};
use crate::session::Session;

/// The verbs of `token`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Make a token and print it, this once
    Create(CreateArgs),
    /// List the tokens, without the tokens themselves
    List,
    /// End a token: what carries it is refused from now on
    Revoke {
        /// Its id, as `pontoon token list` shows it
        id: TokenId,
    },
}

/// Arguments of `token create`.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// What it allows: admin, read, or deploy:APP; may be given several times
    #[arg(long = "scope", value_name = "SCOPE", required = true)]
    pub scopes: Vec<Scope>,
    /// How long it is valid, e.g. 30d or 12h; without it, until it is revoked
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub ttl: Option<Duration>,
    /// What it is for
    #[arg(long)]
    pub name: Option<String>,
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Create(args) => create(session, args).await,
        Verb::List => Ok(output::print(session.format, &session.client.tokens().await?, |all| list(all))?),
        Verb::Revoke { id } => {
            let changed = session.client.revoke_token(id).await?;
            Ok(output::print(session.format, &changed, |_| format!("token {id} is revoked"))?)
        }
    }
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

fn describe(made: &CreatedToken) -> String {
    let row = &made.row;
    format!("token {} ({}): {}, {}; it is shown this once", row.id, row.name, scopes(row), ends(row))
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
