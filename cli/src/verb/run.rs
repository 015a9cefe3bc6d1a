//! `pontoon run`: a command once, in a servo of its own.

use std::io::{self, Write};

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use pontoon_api::{LogLine, Servo};
use pontoon_model::{AppName, ServoId};

use super::follow::{FollowError, Follower};
use super::wait;
use crate::args::{AppArg, Format};
use crate::client::Client;
use crate::progress::Progress;
use crate::session::{Session, app_of};
use crate::{Interrupted, Usage, output};

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The app
    #[command(flatten)]
    pub app: AppArg,
    /// The command; a single argument is given to the shell as it is
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Runs the command, shows its output; its exit code.
pub async fn run(session: &Session, args: RunArgs) -> anyhow::Result<u8> {
    if args.command.iter().all(|argument| argument.trim().is_empty()) {
        return Err(Usage("there is no command: write one, as in pontoon run -- ls -l".into()).into());
    }
    let app = app_of(&args.app)?;
    let client = &session.client;
    let servo = client.run_one_off(&app, &shell_command(&args.command)).await?;
    let id = servo.id;
    let ended = tokio::select! {
        ended = until_ended(client, &app, servo, session.format) => ended?,
        signal = tokio::signal::ctrl_c() => {
            signal.context("cannot listen for Ctrl-C")?;
            return Err(end(client, &app, id).await.into());
        }
    };
    if session.format == Format::Json {
        output::print(Format::Json, &ended, |_| String::new())?;
    }
    let exit = ended.exit.ok_or_else(|| anyhow!("{} ended without an exit code", ended.id))?;
    if exit.code != 0 {
        output::note(&format!("{} on {}: {}", ended.id, ended.host, exit.reason));
    }
    Ok(u8::try_from(exit.code).unwrap_or(1))
}

/// Nobody waits for it any more: like a command in a terminal, it ends with Ctrl-C.
async fn end(client: &Client, app: &AppName, servo: ServoId) -> Interrupted {
    Interrupted(match client.end_one_off(app, servo).await {
        Ok(_) => format!("{servo} is told to end"),
        Err(error) => {
            format!("{servo} goes on running, as it could not be ended ({error}); see `pontoon ps --app {app}`")
        }
    })
}

async fn until_ended(client: &Client, app: &AppName, mut servo: Servo, format: Format) -> anyhow::Result<Servo> {
    let progress = Progress::start();
    progress.now(&format!("starting {} on {}", servo.id, servo.host));
    let id = servo.id;
    let mut log = Follower::default();
    // The waiting spinner goes when the first line comes.
    let mut progress = Some(progress);
    loop {
        let running = !matches!(servo.state.as_str(), "placed");
        if running {
            let each = |line: LogLine| {
                progress = None;
                show(&line, format)
            };
            match log.follow(async || client.servo_log(app, id).await, each).await {
                Err(FollowError::Out(error)) => return Err(error.into()),
                Err(FollowError::Log(error)) => tracing::debug!(%error, "the servo's log broke"),
                Ok(()) => {}
            }
        }
        match servo.state.as_str() {
            _ if servo.exit.is_some() => return Ok(servo),
            "lost" => bail!("{} was lost with its host {} before it ended; run it again", servo.id, servo.host),
            _ => tokio::time::sleep(wait::POLL).await,
        }
        servo = wait::appeared(async || client.servo(app, id).await).await?;
    }
}

/// The command's stdout to ours, its stderr to ours; all to stderr where stdout is for the JSON result.
fn show(line: &LogLine, format: Format) -> io::Result<()> {
    if line.stderr || format == Format::Json {
        writeln!(io::stderr().lock(), "{}", line.text)
    } else {
        output::line(&line.text)
    }
}

/// One argument is a shell command line; several are a program and its arguments, quoted where the shell needs it.
fn shell_command(arguments: &[String]) -> String {
    match arguments {
        [line] => line.clone(),
        many => many.iter().map(|argument| quoted(argument)).collect::<Vec<_>>().join(" "),
    }
}

/// As a shell takes it for one argument.
pub(super) fn quoted(argument: &str) -> String {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&c);
    if !argument.is_empty() && argument.bytes().all(plain) {
        argument.to_owned()
    } else {
        format!("'{}'", argument.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_reach_the_program_as_they_were_typed() {
        let command =
            |arguments: &[&str]| shell_command(&arguments.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>());
        assert_eq!(command(&["ls | wc -l"]), "ls | wc -l");
        assert_eq!(command(&["python", "manage.py", "--no-input"]), "python manage.py --no-input");
        assert_eq!(command(&["echo", "it's", "a b", "$HOME", ""]), r"echo 'it'\''s' 'a b' '$HOME' ''");
    }
}
