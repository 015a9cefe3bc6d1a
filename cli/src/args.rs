//! What can be typed.

use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use pontoon_model::{AppName, CpuMillis};

use crate::verb;

/// Runs applications on your own machines.
#[derive(Debug, Parser)]
#[command(name = "pontoon", version, max_term_width = 100)]
#[command(after_help = "Start with `pontoon dev`: a whole cluster on this machine, in one process.")]
pub struct Cli {
    /// How results are printed: table or json
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table, hide_possible_values = true)]
    pub output: Format,
    /// Which of the clusters of `pontoon context list` is meant; without it, the current one
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people
    Table,
    /// For programs: what the REST API answers
    Json,
}

/// Which app is meant.
#[derive(Debug, Clone, Default, Args)]
pub struct AppArg {
    /// The app; without it, the name in pontoon.toml of the current directory
    #[arg(short, long, value_name = "NAME")]
    pub app: Option<AppName>,
}

/// Whether to wait for what a change began.
#[derive(Debug, Clone, Default, Args)]
pub struct WaitArg {
    /// Return at once instead of waiting until the change has taken effect
    #[arg(long)]
    pub no_wait: bool,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make, list, show or destroy apps
    #[command(subcommand)]
    App(verb::app::Verb),
    /// Build a directory's source and make it live
    Deploy(verb::deploy::DeployArgs),
    /// List an app's releases, newest first
    Releases(AppArg),
    /// Make an older release live again
    Rollback(verb::rollback::RollbackArgs),
    /// Send a share of an app's requests to another release than the live one
    #[command(subcommand)]
    Canary(verb::canary::Canary),
    /// Run releases beside the live one, at host names of their own
    #[command(subcommand)]
    Preview(verb::canary::Preview),
    /// Make a release that runs beside the live one the live one
    Promote(verb::canary::PromoteArgs),
    /// List an app's servos
    Ps(AppArg),
    /// Print what an app's servos wrote
    Logs(verb::logs::LogsArgs),
    /// Change how many servos an app has, where, and how large
    Scale(verb::scale::ScaleArgs),
    /// Change or show an app's environment
    #[command(subcommand)]
    Env(verb::env::Verb),
    /// Change or list an app's labels
    Label(verb::label::LabelArgs),
    /// Have apps reached by host names of your own
    #[command(subcommand)]
    Domain(verb::domain::Verb),
    /// Show or change how balancers treat an app's requests
    #[command(subcommand)]
    Http(verb::http::Verb),
    /// Answer all requests of an app with a page that says so, or no longer
    Maintenance(verb::http::MaintenanceArgs),
    /// Have processes that do not speak HTTP reached at ports of the balancers
    #[command(subcommand)]
    Port(verb::port::Verb),
    /// Give balancers certificates for HTTPS, list or remove them
    #[command(subcommand)]
    Cert(verb::cert::Verb),
    /// Have certificates ordered and renewed by the cluster (ACME, e.g. Let's Encrypt)
    #[command(subcommand)]
    Acme(verb::acme::Verb),
    /// Run a command once, in a servo of the live release
    Run(verb::run::RunArgs),
    /// Replace an app's servos by new ones of the same release
    Restart(verb::restart::RestartArgs),
    /// Follow what changes
    Events(verb::events::EventsArgs),
    /// Make, list or revoke API tokens
    #[command(subcommand)]
    Token(verb::token::Verb),
    /// Show what was asked of the controllers, and by whom
    Audit(verb::audit::AuditArgs),
    /// Write everything the controllers agree on into an encrypted file
    Backup(verb::backup::BackupArgs),
    /// Make the first controller of a cluster from such a file
    Restore(verb::restore::RestoreArgs),
    /// Check a token against a cluster and keep it
    Login(verb::login::LoginArgs),
    /// Forget a cluster's token
    Logout(verb::login::LogoutArgs),
    /// List, choose or forget the clusters that are known here
    #[command(subcommand)]
    Context(verb::context::Verb),
    /// List the hosts
    Hosts,
    /// List the controllers
    Controllers,
    /// List the balancers
    Balancers,
    /// List the machines that belong to the cluster
    Machines,
    /// Shut a machine out of the cluster: its certificate is worth nothing from then on
    Revoke(verb::machines::RevokeArgs),
    /// Show or change the cluster's certificate authority
    #[command(subcommand)]
    Ca(verb::ca::Verb),
    /// List the host names and the servos behind them, and how busy they are
    Routes,
    /// Show how many requests an app has, and how they are answered
    Requests(verb::requests::RequestsArgs),
    /// Print an app's requests as they are answered, until Ctrl-C
    TailRequests(verb::requests::TailArgs),
    /// Show the cluster at a glance
    Status,
    /// Say what is in the way of another version of Pontoon
    Upgrade(verb::upgrade::UpgradeArgs),
    /// Run a whole cluster on this machine, in this process
    Dev(crate::dev::DevArgs),
    /// Run a controller, or change who the controllers are
    Controller(verb::controller::ControllerArgs),
    /// Run the agent of a host, or make this machine one
    Agent(crate::role::AgentArgs),
    /// Run a balancer, or make this machine one
    Balancer(crate::role::BalancerArgs),
    /// Make the images that builds and servos start from
    #[command(subcommand)]
    Images(verb::images::Verb),
    /// Print the version
    Version,
    /// Print completions for a shell
    Completions(verb::completions::CompletionsArgs),
}

/// Reads an amount of CPU: `0.5`, `2`, or thousandths of a core as `500m`.
pub fn parse_cpu(text: &str) -> Result<CpuMillis, String> {
    let wrong = || format!("{text:?} is not an amount of CPU; write for example 0.5 or 500m");
    if let Some(millis) = text.strip_suffix('m') {
        return millis.parse().map(CpuMillis).map_err(|_| wrong());
    }
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|c| c.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = format!("{part:0<3}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1000).and_then(|millis| millis.checked_add(part)).map(CpuMillis).ok_or_else(wrong)
}

/// Reads a time: `90s`, `45m`, `12h`, `30d`, `2w`.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a time; write for example 12h or 30d");
    let (number, unit) = text.split_at_checked(text.len().saturating_sub(1)).ok_or_else(wrong)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 7 * 86_400,
        _ => return Err(wrong()),
    };
    let digits = !number.is_empty() && number.bytes().all(|c| c.is_ascii_digit());
    let number: u64 = digits.then(|| number.parse().ok()).flatten().ok_or_else(wrong)?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("pontoon").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn these_lines_are_understood() {
        for line in [
            "app create guestbook",
            "app list -o json",
            "app destroy guestbook --yes",
            "app show --app guestbook",
            "deploy",
            "deploy examples/guestbook --app guestbook",
            "releases -a guestbook",
            "rollback",
            "rollback v2",
            "rollback 2 --no-wait",
            "ps",
            "logs -f --tail 20",
            "scale 3 --memory 256M --cpu 0.5",
            "scale web=2 worker=1 --site home.attic=1 --site do.nyc3=2",
            "scale --memory 1G",
            "env set A=1 B=x=y",
            "env import .env",
            "env import - --app guestbook --no-wait",
            "env import --as TLS_KEY key.pem",
            "env unset A B",
            "env list --show",
            "env get A",
            "domain add shop.example.org --app guestbook",
            "domain remove *.example.org/shop -a guestbook",
            "domain list",
            "domain list --app guestbook",
            "http show guestbook",
            "http set guestbook affinity=on hold=10s body=10MiB",
            "maintenance on",
            "maintenance off --app guestbook",
            "deploy . --preview",
            "deploy --canary 10% --servos 2",
            "canary start v2 --share 10% --servos 2 --app shop",
            "canary set 50",
            "canary status",
            "canary promote --no-wait",
            "canary stop -a shop",
            "preview start 3",
            "preview list -o json",
            "preview stop v3",
            "promote",
            "promote v3 --app shop",
            "port add mq",
            "port add mq --process tcp-mqtt --port 1883 --proxy-protocol v2 --idle 10m --connections 50",
            "port list",
            "port list --app mq -o json",
            "port remove 1883",
            "cert add chain.pem key.pem",
            "cert list -o json",
            "cert remove 0a1b2c",
            "acme set --email you@example.org --agree-tos",
            "acme set --email you@example.org --staging --except a.example.org --except b.example.org --agree-tos",
            "acme set --email a@b.c --directory https://a/dir --ca-file ca.pem --eab-kid k --eab-hmac @f --agree-tos",
            "acme show -o json",
            "acme retry",
            "acme retry shop.example.org",
            "acme off",
            "balancer join 10.0.0.5:7710 --token T --listen-tls 0.0.0.0:443",
            "balancer reload --config /etc/pontoon/balancer.toml",
            "tail-requests guestbook --status 5xx",
            "requests guestbook -o json",
            "label guestbook",
            "label guestbook team=blue note= old-",
            "run -- python manage.py migrate --no-input",
            "run ls -l",
            "restart",
            "events",
            "events --from 12 -o json",
            "token create --scope read",
            "token create --scope deploy:shop --scope read --ttl 30d --name CI",
            "token list",
            "token list --join",
            "token create --role agent --site home.attic --uses 3 --ttl 2h",
            "token revoke 0a1b2c3d4e5f",
            "token revoke t7",
            "audit --since 1h -n 20 -o json",
            "audit --since 30d --until 7d --all -o json",
            "backup today.age --bundles --passphrase-file p",
            "restore today.age --data-dir /tmp/c --name north --advertise 10.0.0.5",
            "login http://127.0.0.1:7700 --token-stdin --name home",
            "login https://10.0.0.5:7700 --ca ca.pem",
            "logout",
            "logout home",
            "context list",
            "context use home",
            "context remove home",
            "status --context home",
            "hosts",
            "controllers",
            "balancers",
            "routes",
            "status --output json",
            "dev --runtime process --port 9000 --data-dir /tmp/x",
            "dev --deploy .",
            "controller --config c.toml",
            "controller --config c.toml --check",
            "controller recover --from-this-copy --config c.toml --yes",
            "controller remove north",
            "controller remove north --force",
            "controller promote north -o json",
            "controller transfer-leader",
            "controller transfer-leader north",
            "agent --config a.toml",
            "balancer --config b.toml",
            "agent join 10.0.0.5:7710 --token T --name a --site home --memory 2G",
            "balancer join c1.example.org:7710 --token T --listen 0.0.0.0:8080",
            "machines",
            "upgrade --check",
            "revoke agent attic-1",
            "ca status",
            "ca rotate",
            "ca retire --force",
            "images build --runtime python --runtime node",
            "version",
            "completions bash",
        ] {
            assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
        }
    }

    #[test]
    fn these_lines_are_refused_with_exit_code_2() {
        for line in [
            "",
            "app",
            "app create",
            "app create My_App",
            "rollback latest",
            "scale -- -1",
            "scale web=two",
            "scale 3 --memory much",
            "scale 3 --site home.attic",
            "env set",
            "env set A",
            "env set =x",
            "env import",
            "env import --as A",
            "domain",
            "domain add",
            "http show",
            "http set guestbook",
            "maintenance",
            "maintenance maybe",
            "deploy --preview --canary 10%",
            "deploy --canary 100%",
            "deploy --servos 2",
            "canary start v2",
            "canary start --share 10%",
            "canary set",
            "canary set 0%",
            "preview start",
            "promote latest",
            "port add",
            "port add mq --port 0",
            "port add mq --port 65536",
            "port add mq --proxy-protocol v3",
            "port remove",
            "cert add chain.pem",
            "cert remove",
            "acme",
            "acme set --agree-tos",
            "acme set --email a@b.c --staging --directory https://a/dir --agree-tos",
            "acme set --email a@b.c --eab-kid k --agree-tos",
            "label",
            "label guestbook team",
            "label guestbook =x",
            "label guestbook -team",
            "run",
            "controller --check",
            "controller init --cluster=",
            "controller init --advertise 0.0.0.0",
            "balancer reload --config b.toml --check",
            "agent --config a.toml join 10.0.0.5:7710 --token T",
            "agent join 10.0.0.5:7710",
            "token create",
            "token create --role agent --scope read",
            "token create --scope read --uses 2",
            "token create --role king",
            "token create --role agent --uses 0",
            "login https://a --fingerprint zz",
            "revoke king x",
            "revoke agent",
            "ca",
            "controller remove",
            "controller recover --config c.toml",
            "controller --config c.toml promote north",
            "dev --runtime podman",
            "status -o yaml",
            "token create",
            "token create --scope write",
            "token create --scope read --ttl long",
            "token revoke seven",
            "audit --since yesterday",
            "audit -n 1001",
            "audit --all -n 5",
            "backup",
            "restore",
            "login",
            "login https://a --ca x --fingerprint y",
            "context use",
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert_ne!(error.kind(), ErrorKind::DisplayHelp, "{line}");
        }
    }

    #[test]
    fn cpu_reads_what_people_write() {
        for (text, millis) in [("0.5", 500), ("2", 2000), ("1.25", 1250), ("250m", 250), ("0.125", 125)] {
            assert_eq!(parse_cpu(text), Ok(CpuMillis(millis)), "{text}");
        }
        for bad in ["", "-1", "half", ".5", "1.", "1.2345", "1e3", "9999999"] {
            assert!(parse_cpu(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times_are_a_number_and_a_unit() {
        for (text, seconds) in [("90s", 90), ("45m", 2_700), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)] {
            assert_eq!(parse_duration(text), Ok(Duration::from_secs(seconds)), "{text}");
        }
        for bad in ["", "s", "30", "1.5h", "-1d", "1y", "1é", "99999999999999999w"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
