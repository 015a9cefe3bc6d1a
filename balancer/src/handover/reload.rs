//! `pontoon balancer reload`: the running process starts another of itself, which takes over.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;

use tokio::net::UnixStream;
use tokio::process::Command;
use tokio::sync::watch;

use super::channel::Channel;
use super::message::{Asked, Told};
use super::take::unexpected;
use super::{HandoverError, PREPARE, SOCKET};
use crate::config::Config;

/// How a process of this balancer is started: the newest program, the newest configuration.
#[derive(Debug, Clone)]
pub struct Respawn {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
}

impl Respawn {
    /// As this process was started.
    pub fn of_this_process() -> std::io::Result<Self> {
        Ok(Self { program: std::env::current_exe()?, arguments: std::env::args_os().skip(1).collect() })
    }
}

/// Why a balancer was not renewed. It goes on as it was.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// Nobody listens.
    #[error(
        "no balancer runs on {}, or one that is too old to give way: start it, or stop it and start it again",
        folder.display()
    )]
    NotRunning {
        /// Its data folder.
        folder: PathBuf,
        /// Why it cannot be reached.
        source: std::io::Error,
    },
    /// It did not work.
    #[error("the balancer on {} was not renewed and goes on as it was", folder.display())]
    Failed {
        /// Its data folder.
        folder: PathBuf,
        /// Why.
        source: HandoverError,
    },
}

/// Has the process that runs by `config` start another, which takes over; its id.
pub async fn reload(config: &Config) -> Result<u32, ReloadError> {
    let folder = &config.data_dir;
    let stream = UnixStream::connect(folder.join(SOCKET))
        .await
        .map_err(|source| ReloadError::NotRunning { folder: folder.clone(), source })?;
    ask(stream).await.map_err(|source| ReloadError::Failed { folder: folder.clone(), source })
}

async fn ask(stream: UnixStream) -> Result<u32, HandoverError> {
    let mut channel = Channel::new(stream);
    channel.send(&Asked::Reload, &[]).await?;
    match channel.receive_within(PREPARE * 2).await? {
        Told::Reloaded { process } => Ok(process),
        told => Err(unexpected(told)),
    }
}

/// Does it, and says how it went.
pub(super) async fn serve(
    channel: &Channel,
    respawn: Option<&Respawn>,
    taken_over: watch::Receiver<Option<u32>>,
) -> Result<(), HandoverError> {
    let told = match respawn {
        Some(respawn) => start(respawn, taken_over)
            .await
            .map_or_else(|why| Told::Refused { why }, |process| Told::Reloaded { process }),
        None => {
            Told::Refused { why: "it is a part of another program, `pontoon dev` for one; restart that".to_owned() }
        }
    };
    channel.send(&told, &[]).await
}

/// Starts another process; its id once it has taken over.
async fn start(respawn: &Respawn, mut taken_over: watch::Receiver<Option<u32>>) -> Result<u32, String> {
    let mut command = Command::new(&respawn.program);
    // It goes on when this one has ended.
    command.args(&respawn.arguments).stdin(Stdio::null()).kill_on_drop(false);
    let mut child =
        command.spawn().map_err(|error| format!("{} cannot be started: {error}", respawn.program.display()))?;
    let process = child.id().unwrap_or_default();
    tracing::info!(process, "another process of this balancer was started, to take over");
    tokio::select! {
        // Whoever came first has taken over; if that was another, this one's question was refused, and it has ended.
        over = taken_over.wait_for(Option::is_some) => match over {
            Ok(over) => Ok(over.filter(|&over| over != 0).unwrap_or(process)),
            Err(_) => Err("it is just stopping".to_owned()),
        },
        ended = child.wait() => Err(match ended {
            Ok(status) => format!("the new process ended ({status}) before it could take over; the balancer's log says why"),
            Err(error) => format!("the new process cannot be watched: {error}"),
        }),
        () = tokio::time::sleep(PREPARE) => {
            // Gone already is as good.
            let _ = child.start_kill();
            Err(format!("the new process was not ready within {} s and was ended", PREPARE.as_secs()))
        }
    }
}
