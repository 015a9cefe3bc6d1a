//! The verbs, one file each.

pub mod acme;
pub mod app;
pub mod audit;
pub mod backup;
pub mod balancers;
pub mod ca;
pub mod canary;
pub mod cert;
pub mod completions;
pub mod context;
pub mod controller;
pub mod controllers;
pub mod deploy;
pub mod domain;
pub mod env;
pub mod events;
mod follow;
pub mod hosts;
pub mod http;
pub mod images;
pub mod init;
pub mod join;
pub mod label;
pub mod login;
pub mod logs;
pub mod machines;
pub mod port;
pub mod ps;
pub mod recover;
pub mod releases;
pub mod requests;
pub mod restart;
pub mod restore;
pub mod rollback;
pub mod routes;
pub mod run;
pub mod scale;
pub mod status;
pub mod token;
pub mod upgrade;
mod wait;

use std::future::Future;
use std::path::Path;

use anyhow::Context as _;

use self::controller::ControllerArgs;
use crate::args::{Cli, Command};
use crate::role::RoleArgs;
use crate::session::Session;
use crate::{Usage, dev, output, role};

/// Does what the command line says; the process's exit code.
pub fn dispatch(cli: Cli) -> anyhow::Result<u8> {
    let (format, context) = (cli.output, cli.context.as_deref());
    match cli.command {
        Command::Dev(args) => dev::run(args, format).map(|()| 0),
        Command::Controller(ControllerArgs { verb: None, role }) => {
            run_or_check("controller", &role, role::controller, role::check_controller_with_files)
        }
        Command::Controller(ControllerArgs { verb: Some(controller::Verb::Init(args)), .. }) => {
            init::init(&args, format).map(|()| 0)
        }
        Command::Controller(ControllerArgs { verb: Some(controller::Verb::Join(args)), .. }) => {
            init::join(&args, format).map(|()| 0)
        }
        Command::Controller(ControllerArgs { verb: Some(controller::Verb::Recover(args)), .. }) => {
            block_on(recover::run(&args)).map(|()| 0)
        }
        Command::Agent(args) => match args.verb {
            Some(role::AgentVerb::Join(join)) => join::agent(&join, format).map(|()| 0),
            None => run_or_check("agent", &args.role, role::agent, role::check_agent_with_files),
        },
        Command::Balancer(args) => match args.verb {
            Some(role::BalancerVerb::Join(join)) => join::balancer(&join, format).map(|()| 0),
            Some(role::BalancerVerb::Reload(role)) => {
                let process = role::reload_balancer(&role.config)?;
                let done = serde_json::json!({ "process": process });
                output::print(format, &done, |_| {
                    format!("process {process} serves now; the one before ends what it has in flight")
                })?;
                Ok(0)
            }
            None => run_or_check("balancer", &args.role, role::balancer, role::check_balancer_with_files),
        },
        Command::Restore(args) => restore::run(&args, format).map(|()| 0),
        Command::Images(verb) => images::run(&verb).map(|()| 0),
        Command::Completions(args) => completions::run(&args).map(|()| 0),
        Command::Version => {
            let version = serde_json::json!({ "version": pontoon_model::VERSION });
            output::print(format, &version, |_| format!("pontoon {}", pontoon_model::VERSION))?;
            Ok(0)
        }
        Command::Login(args) => block_on(login::run(args, context, format)).map(|()| 0),
        Command::Logout(args) => login::logout(args, context, format).map(|()| 0),
        Command::Context(verb) => context::run(verb, format).map(|()| 0),
        command => block_on(async {
            let session = Session::open(format, context)?;
            let done = client_verb(command, &session).await;
            // Also of a refusal: whoever it came from was sure.
            session.keep_followed();
            session.keep_told();
            done
        }),
    }
}

/// Runs a role until it is told to end, or looks only whether it could be run.
fn run_or_check(
    role: &str,
    RoleArgs { config, check: only_check }: &RoleArgs,
    run: fn(&Path) -> anyhow::Result<()>,
    check: fn(&Path) -> anyhow::Result<()>,
) -> anyhow::Result<u8> {
    let Some(config) = config else {
        let init = if role == "controller" { "`pontoon controller init` begins a cluster, " } else { "" };
        return Err(Usage(format!(
            "{init}`pontoon {role} join` makes this machine one of a cluster, and `pontoon {role} --config FILE` runs what they \
             wrote; --help lists the rest"
        ))
        .into());
    };
    match only_check {
        true => {
            check(config)?;
            output::line(&format!("{} can be used", config.display()))?;
        }
        false => run(config)?,
    }
    Ok(0)
}

async fn client_verb(command: Command, session: &Session) -> anyhow::Result<u8> {
    match command {
        Command::App(verb) => app::run(session, verb).await,
        Command::Deploy(args) => deploy::run(session, args).await,
        Command::Releases(app) => releases::run(session, &app).await,
        Command::Rollback(args) => rollback::run(session, args).await,
        Command::Ps(app) => ps::run(session, &app).await,
        Command::Logs(args) => logs::run(session, args).await,
        Command::Scale(args) => scale::run(session, args).await,
        Command::Env(verb) => env::run(session, verb).await,
        Command::Events(args) => events::run(session, args).await,
        Command::Label(args) => label::run(session, args).await,
        Command::Domain(verb) => domain::run(session, verb).await,
        Command::Http(verb) => http::run(session, verb).await,
        Command::Maintenance(args) => http::maintenance(session, args).await,
        Command::Canary(verb) => canary::canary(session, verb).await,
        Command::Preview(verb) => canary::preview(session, verb).await,
        Command::Promote(args) => canary::promote(session, args).await,
        Command::Port(verb) => port::run(session, verb).await,
        Command::Cert(verb) => cert::run(session, verb).await,
        Command::Acme(verb) => acme::run(session, verb).await,
        Command::Restart(args) => restart::run(session, args).await,
        Command::Machines => machines::list(session).await,
        Command::Revoke(args) => machines::revoke(session, &args).await,
        Command::Ca(verb) => ca::run(session, verb).await,
        Command::Token(verb) => token::run(session, verb).await,
        Command::Audit(args) => audit::run(session, args).await,
        Command::Backup(args) => backup::run(session, &args).await,
        Command::Hosts => hosts::run(session).await,
        Command::Controller(ControllerArgs { verb: Some(verb), .. }) => controller::run(session, verb).await,
        Command::Controllers => controllers::run(session).await,
        Command::Balancers => balancers::run(session).await,
        Command::Routes => routes::run(session).await,
        Command::Requests(args) => requests::show(session, &args).await,
        Command::TailRequests(args) => requests::tail(session, &args).await,
        Command::Status => status::run(session).await,
        // These have exit codes of their own: the command's, and whether anything is in the way.
        Command::Run(args) => return run::run(session, args).await,
        Command::Upgrade(args) => return upgrade::run(session, args).await,
        Command::Dev(_)
        | Command::Controller(ControllerArgs { verb: None, .. })
        | Command::Agent(_)
        | Command::Balancer(_)
        | Command::Images(_)
        | Command::Restore(_)
        | Command::Login(_)
        | Command::Logout(_)
        | Command::Context(_)
        | Command::Completions(_)
        | Command::Version => unreachable!("done before a client is made"),
    }
    .map(|()| 0)
}

/// A client verb needs one thread.
pub(crate) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    runtime.block_on(work)
}
