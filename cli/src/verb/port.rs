//! `pontoon port`: ports of balancers for processes that do not speak HTTP.

use std::ops::RangeInclusive;
use std::time::Duration;

use clap::{Args, Subcommand};
use pontoon_api::ports::{AddPort, Port, PortAt};
use pontoon_model::{AppName, PortSettings, ProcessName, ProxyHeader};

use super::scale;
use crate::Usage;
use crate::args::{AppArg, Format, parse_duration};
use crate::output::{self, age, table};
use crate::session::Session;

/// The verbs of `port`.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Have a process that does not speak HTTP reached at a port of every balancer, or change how its connections are treated
    Add(AddArgs),
    /// Have it reached there no longer
    Remove {
        /// The port
        port: u16,
    },
    /// List the ports of all apps, or of one, and whether the balancers listen there
    List {
        /// Only this app's
        #[command(flatten)]
        app: AppArg,
    },
}

/// Arguments of `port add`.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// The app
    pub app: AppName,
    /// Its process type: tcp, or tcp-NAME
    #[arg(long, value_name = "NAME", default_value = "tcp")]
    pub process: ProcessName,
    /// Which port; without it, a free one of those that the controllers have for this (10000 to 10999)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub port: Option<u16>,
    /// Tell servos first whose a connection is, by this version of the PROXY protocol: v1 or v2
    #[arg(long, value_name = "VERSION", default_value = "off")]
    pub proxy_protocol: ProxyHeader,
    /// End a connection on which nothing moved for this long, e.g. 10m; without it, none
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub idle: Option<Duration>,
    /// Connections at the same time, per balancer
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(connections()))]
    pub connections: u32,
}

fn connections() -> RangeInclusive<i64> {
    let (least, most) = PortSettings::CONNECTIONS.into_inner();
    least.into()..=most.into()
}

/// Does what `verb` says.
pub async fn run(session: &Session, verb: Verb) -> anyhow::Result<()> {
    match verb {
        Verb::Add(args) => add(session, args).await,
        Verb::Remove { port } => {
            let ports = session.client.ports(None).await?;
            let row = ports.iter().find(|row| row.port == port);
            let row = row
                .ok_or_else(|| anyhow::anyhow!("no app has port {port}; `pontoon port list` shows those there are"))?;
            let changed = session.client.remove_port(&row.app, port).await?;
            let said = format!("port {port} no longer leads to {} of {}", row.process, row.app);
            Ok(output::print(session.format, &changed, |_| said)?)
        }
        Verb::List { app } => {
            let ports = session.client.ports(app.app.as_ref()).await?;
            Ok(output::print(session.format, &ports, |all| list(all))?)
        }
    }
}

async fn add(session: &Session, args: AddArgs) -> anyhow::Result<()> {
    let idle = args.idle.unwrap_or_default().as_millis();
    let idle_ms = u32::try_from(idle).map_err(|_| Usage("--idle is at most 24h".into()))?;
    let wanted = AddPort {
        process: Some(args.process.clone()),
        port: args.port,
        proxy_protocol: args.proxy_protocol,
        idle_ms,
        connections: Some(args.connections),
    };
    let port = session.client.add_port(&args.app, &wanted).await?;
    output::print(session.format, &port, |row| {
        format!("{} of {} is reached at port {} of every balancer", row.process, row.app, row.port)
    })?;
    if session.format == Format::Table {
        let app = session.client.app(&args.app).await?;
        if app.live.is_some() && app.scale.get(&args.process).is_none_or(|scale| scale::total(scale) == 0) {
            output::note(&format!(
                "nothing answers there yet, as {0} is scaled to 0; `pontoon scale {0}=1 --app {1}` starts a servo",
                args.process, args.app
            ));
        }
    }
    Ok(())
}

fn list(ports: &[Port]) -> String {
    let row = |one: &Port| {
        [
            one.port.to_string(),
            one.app.to_string(),
            one.process.to_string(),
            at(&one.balancers),
            one.proxy_protocol.to_string(),
            one.connections.to_string(),
            age(one.added_at),
        ]
    };
    let head = ["PORT", "APP", "PROCESS", "BALANCERS", "PROXY", "CONNECTIONS", "AGE"];
    let problems = ports.iter().flat_map(|port| &port.balancers).filter_map(|at| {
        let problem = at.problem.as_ref()?;
        Some(format!("{}: {problem}\n", at.balancer))
    });
    let problems: String = problems.collect();
    match problems.is_empty() {
        true => table(head, ports.iter().map(row)),
        false => format!("{}\n\n{}", table(head, ports.iter().map(row)).trim_end(), problems.trim_end()),
    }
}

/// How many listen, of those that have said so.
fn at(balancers: &[PortAt]) -> String {
    let listening = balancers.iter().filter(|at| at.listening).count();
    match balancers.len() {
        0 => "-".to_owned(),
        all => format!("{listening} of {all}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_list_says_where_a_balancer_does_not_listen() {
        let port = |port, balancers| Port {
            port,
            app: "mq".parse().unwrap(),
            process: ProcessName::tcp(),
            proxy_protocol: ProxyHeader::Off,
            idle_ms: 0,
            connections: 1_000,
            added_at: u64::MAX,
            balancers,
        };
        let said = |balancer: &str, problem: Option<&str>| PortAt {
            balancer: balancer.parse().unwrap(),
            listening: problem.is_none(),
            problem: problem.map(str::to_owned),
        };
        let all = [
            port(1883, vec![said("lb-1", None), said("lb-2", Some("cannot listen on 0.0.0.0:1883: in use"))]),
            port(10_000, vec![]),
        ];
        expect![[r#"
            PORT    APP   PROCESS   BALANCERS   PROXY   CONNECTIONS   AGE
            1883    mq    tcp       1 of 2      off     1000          0s
            10000   mq    tcp       -           off     1000          0s

            lb-2: cannot listen on 0.0.0.0:1883: in use"#]]
        .assert_eq(&list(&all));
    }
}
