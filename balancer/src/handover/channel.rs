//! A connection between two processes of a balancer: messages, and descriptors beside them.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use pontoon_model::wire::{self, Envelope, HEADER_LEN, Wire, WireError};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{ANSWER, HandoverError};

/// Descriptors in one message: the system takes 253 at most.
pub(super) const MOST_DESCRIPTORS: usize = 64;
/// Longest message: names and sentences.
const MOST_BYTES: usize = 16 * 1024;
/// Descriptors that wait to be taken: those of 256 workers, which is the most there can be, three times, and some; or, later,
/// those of 1,000 ports.
const MOST_WAITING: usize = 1_024;

#[derive(Debug)]
pub(super) struct Channel {
    stream: UnixStream,
    read: Vec<u8>,
    descriptors: VecDeque<OwnedFd>,
}

impl Channel {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, read: Vec::new(), descriptors: VecDeque::new() }
    }

    /// The other process, if the system says which it is.
    pub(super) fn process(&self) -> Option<u32> {
        self.stream.peer_cred().ok()?.pid()?.try_into().ok()
    }

    /// Sends a message, and `descriptors` with it. One that is dropped before it is done breaks the connection.
    pub(super) async fn send(&self, message: &impl Wire, descriptors: &[BorrowedFd<'_>]) -> Result<(), HandoverError> {
        let bytes = wire::encode(message)?;
        let sent = timeout(ANSWER, self.send_bytes(&bytes, descriptors)).await;
        Ok(sent.map_err(|_| HandoverError::Slow(ANSWER))??)
    }

    async fn send_bytes(&self, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let mut sent = 0;
        while sent < bytes.len() {
            let send = || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
                let mut beside = SendAncillaryBuffer::new(&mut space);
                // They go with the first byte.
                if sent == 0 && !descriptors.is_empty() && !beside.push(SendAncillaryMessage::ScmRights(descriptors)) {
                    return Err(io::Error::other("too many descriptors for one message"));
                }
                let part = [IoSlice::new(&bytes[sent..])];
                Ok(sendmsg(&self.stream, &part, &mut beside, SendFlags::NOSIGNAL)?)
            };
            sent += self.stream.async_io(Interest::WRITABLE, send).await?;
        }
        Ok(())
    }

    /// The next message. Loses nothing if it is dropped before it is done.
    pub(super) async fn receive<T: Wire + Debug>(&mut self) -> Result<T, HandoverError> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(message);
            }
            let mut part = [0; 4096];
            let receive = || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
                let mut beside = RecvAncillaryBuffer::new(&mut space);
                let mut into = [IoSliceMut::new(&mut part)];
                let received = recvmsg(&self.stream, &mut into, &mut beside, RecvFlags::CMSG_CLOEXEC)?;
                let mut descriptors = Vec::new();
                for message in beside.drain() {
                    if let RecvAncillaryMessage::ScmRights(given) = message {
                        descriptors.extend(given);
                    }
                }
                Ok((received.bytes, descriptors))
            };
            let (len, descriptors) = match self.stream.async_io(Interest::READABLE, receive).await {
                // It ended with something of ours unread.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Err(HandoverError::Closed),
                received => received?,
            };
            if len == 0 {
                return Err(HandoverError::Closed);
            }
            self.read.extend_from_slice(&part[..len]);
            self.descriptors.extend(descriptors);
            if self.descriptors.len() > MOST_WAITING {
                return Err(WireError::Malformed("more descriptors than a balancer has").into());
            }
        }
    }

    /// As [`Self::receive`], but not for ever.
    pub(super) async fn receive_within<T: Wire + Debug>(&mut self, longest: Duration) -> Result<T, HandoverError> {
        timeout(longest, self.receive()).await.map_err(|_| HandoverError::Slow(longest))?
    }

    /// Those that came with the messages, oldest first.
    pub(super) fn descriptor(&mut self) -> Option<OwnedFd> {
        self.descriptors.pop_front()
    }

    fn next<T: Wire>(&mut self) -> Result<Option<T>, HandoverError> {
        let Some(header) = self.read.first_chunk::<HEADER_LEN>() else { return Ok(None) };
        let len = u32::from_le_bytes([header[5], header[6], header[7], header[8]]) as usize;
        if len > MOST_BYTES {
            return Err(WireError::TooLarge { len }.into());
        }
        if self.read.len() < HEADER_LEN + len {
            return Ok(None);
        }
        let (envelope, _) = Envelope::read(&self.read)?;
        let message = wire::decode_envelope(&envelope)?;
        self.read.drain(..HEADER_LEN + len);
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsFd;

    use super::super::message::{Asked, Purpose, Told};
    use super::*;

    #[tokio::test]
    async fn messages_and_sockets_arrive_in_order_and_an_end_is_an_end() {
        let (one, other) = UnixStream::pair().unwrap();
        let (one, mut other) = (Channel::new(one), Channel::new(other));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let descriptors = vec![listener.as_fd(); MOST_DESCRIPTORS];
        let sockets = Told::Sockets { purposes: vec![Purpose::Plain; MOST_DESCRIPTORS], more: false };
        one.send(&sockets, &descriptors).await.unwrap();
        one.send(&Told::Refused { why: "x".repeat(10_000) }, &[]).await.unwrap();
        drop(listener);
        assert_eq!(other.receive::<Told>().await.unwrap(), sockets);
        for _ in 0..MOST_DESCRIPTORS {
            let listener = TcpListener::from(other.descriptor().unwrap());
            assert_eq!(listener.local_addr().unwrap(), address);
        }
        assert!(other.descriptor().is_none());
        assert!(matches!(other.receive::<Told>().await, Ok(Told::Refused { .. })));
        other.send(&Asked::Serving, &[]).await.unwrap();
        drop(one);
        assert!(matches!(other.receive::<Told>().await, Err(HandoverError::Closed)));
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let (one, other) = UnixStream::pair().unwrap();
        let mut other = Channel::new(other);
        Channel::new(one).send_bytes(&[0xff; 64], &[]).await.unwrap();
        assert!(matches!(other.receive::<Told>().await, Err(HandoverError::Unreadable(_))));
    }
}
