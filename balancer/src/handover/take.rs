//! The side of the process that starts.

use std::fs::File;
use std::net::TcpListener;
use std::path::Path;

use pontoon_kit::FolderLock;
use pontoon_model::BalancerName;
use pontoon_proto::BalancerAck;
use tokio::net::UnixStream;

use super::channel::Channel;
use super::message::{Asked, Purpose, Told};
use super::{ANSWER, HandoverError, PREPARE, SOCKET};
use crate::error::BalancerError;

/// A running process that gives way.
#[derive(Debug)]
pub(crate) struct Taking {
    channel: Channel,
}

/// What it gave.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) lock: FolderLock,
    pub(crate) sockets: Vec<(Purpose, TcpListener)>,
}

impl Taking {
    /// Asks the process that runs balancer `name` on `folder` for its sockets; none if there is none that can be asked.
    pub(crate) async fn begin(folder: &Path, name: &BalancerName) -> Result<Option<(Self, Given)>, BalancerError> {
        // An earlier version cannot read the first and ends the connection.
        for asked in [Asked::TakeWithPorts { name: name.clone() }, Asked::Take { name: name.clone() }] {
            // Ending, of an even earlier version, or its path is too long for a socket.
            let Ok(stream) = UnixStream::connect(folder.join(SOCKET)).await else { return Ok(None) };
            match Self::ask(Channel::new(stream), &asked, folder).await {
                Err(BalancerError::Handover(HandoverError::Closed)) => {}
                taken => return taken.map(Some),
            }
        }
        Err(HandoverError::Closed.into())
    }

    async fn ask(mut channel: Channel, asked: &Asked, folder: &Path) -> Result<(Self, Given), BalancerError> {
        channel.send(asked, &[]).await?;
        let (mut lock, mut sockets, mut more) = (None, Vec::new(), true);
        while more {
            let told = channel.receive_within(ANSWER).await?;
            let Told::Sockets { purposes, more: follow } = told else { return Err(unexpected(told).into()) };
            more = follow;
            for purpose in purposes {
                let descriptor = channel.descriptor().ok_or(HandoverError::Closed)?;
                match purpose {
                    Purpose::Lock => lock = Some(FolderLock::passed_on(File::from(descriptor), folder)?),
                    purpose => sockets.push((purpose, TcpListener::from(descriptor))),
                }
            }
        }
        let lock = lock.ok_or(HandoverError::Closed)?;
        Ok((Self { channel }, Given { lock, sockets }))
    }

    /// Says that nothing can fail any more; how far the running process is, and the sockets of ports, if it gives them. Its
    /// table is on disk then.
    pub(crate) async fn prepared(&mut self) -> Result<(BalancerAck, Vec<(Purpose, TcpListener)>), HandoverError> {
        self.channel.send(&Asked::Prepared, &[]).await?;
        let mut ports = Vec::new();
        loop {
            match self.channel.receive_within(PREPARE).await? {
                Told::Sockets { purposes, .. } => {
                    for purpose in purposes {
                        let descriptor = self.channel.descriptor().ok_or(HandoverError::Closed)?;
                        ports.push((purpose, TcpListener::from(descriptor)));
                    }
                }
                Told::Yours { ack } => return Ok((ack, ports)),
                told => return Err(unexpected(told)),
            }
        }
    }

    /// Says that connections are accepted; the way to the process that has given way.
    pub(super) async fn serving(self) -> Result<Channel, HandoverError> {
        self.channel.send(&Asked::Serving, &[]).await?;
        Ok(self.channel)
    }
}

/// What it told instead of what comes next.
pub(super) fn unexpected(told: Told) -> HandoverError {
    match told {
        Told::Refused { why } => HandoverError::Refused { why },
        told => HandoverError::unexpected(&told),
    }
}
