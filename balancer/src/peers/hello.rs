//! How a connection between balancers begins, behind the handshake of TLS: whoever dialled says which of the two will ask, and
//! the other that it agrees. After that it is HTTP/2, and whoever asks is its client.
//!
//! Both are 16 bytes: 8 that name the protocol and its version, one word, two bytes of a number, five of nothing.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const LEN: usize = 16;
const NAME: &[u8; 8] = b"PONTOON1";

const ASK: u8 = 1;
const OFFER: u8 = 2;
const WELCOME: u8 = 3;
const UNKNOWN: u8 = 4;

/// What whoever dialled wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hello {
    /// To ask: it is the client of HTTP/2.
    Ask,
    /// To be asked: it is the server. The connection is for this worker of the other side.
    Offer { worker: u16 },
}

/// What it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// Agreed.
    Welcome {
        /// How many workers there are, each of which wants a connection of its own from who offers.
        workers: u16,
    },
    /// Its site is not known here (yet): it may come again.
    Unknown,
}

/// Says what the connection is for and waits for the agreement; how many workers the other side has.
pub(crate) async fn say(stream: &mut (impl AsyncRead + AsyncWrite + Unpin), hello: Hello) -> io::Result<u16> {
    let (word, number) = match hello {
        Hello::Ask => (ASK, 0),
        Hello::Offer { worker } => (OFFER, worker),
    };
    write(stream, word, number).await?;
    match read(stream).await? {
        (WELCOME, workers) => Ok(workers),
        (UNKNOWN, _) => Err(io::Error::new(io::ErrorKind::NotFound, "the other balancer does not know this one yet")),
        (word, _) => Err(strange(word)),
    }
}

/// Hears what the connection is for.
pub(crate) async fn hear(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Hello> {
    match read(stream).await? {
        (ASK, _) => Ok(Hello::Ask),
        (OFFER, worker) => Ok(Hello::Offer { worker }),
        (word, _) => Err(strange(word)),
    }
}

/// Answers.
pub(crate) async fn answer(stream: &mut (impl AsyncWrite + Unpin), answer: Answer) -> io::Result<()> {
    match answer {
        Answer::Welcome { workers } => write(stream, WELCOME, workers).await,
        Answer::Unknown => write(stream, UNKNOWN, 0).await,
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), word: u8, number: u16) -> io::Result<()> {
    let mut bytes = [0; LEN];
    bytes[..8].copy_from_slice(NAME);
    bytes[8] = word;
    bytes[9..11].copy_from_slice(&number.to_be_bytes());
    stream.write_all(&bytes).await?;
    stream.flush().await
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(u8, u16)> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes).await?;
    if bytes[..8] != *NAME {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "what came is not the protocol between balancers"));
    }
    Ok((bytes[8], u16::from_be_bytes([bytes[9], bytes[10]])))
}

fn strange(word: u8) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the other balancer said {word}, which is not known here"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_sides_understand_each_other_and_nobody_else() {
        for (hello, told) in [
            (Hello::Ask, Answer::Welcome { workers: 3 }),
            (Hello::Offer { worker: 700 }, Answer::Welcome { workers: 1 }),
            (Hello::Offer { worker: 0 }, Answer::Unknown),
        ] {
            let (mut one, mut other) = tokio::io::duplex(64);
            let listening = async {
                assert_eq!(hear(&mut other).await.unwrap(), hello);
                answer(&mut other, told).await.unwrap();
            };
            let (said, ()) = tokio::join!(say(&mut one, hello), listening);
            match told {
                Answer::Welcome { workers } => assert_eq!(said.unwrap(), workers),
                Answer::Unknown => assert_eq!(said.unwrap_err().kind(), io::ErrorKind::NotFound),
            }
        }
        for wrong in
            [&b"PRI * HTTP/2.0\r\n"[..], b"PONTOON2\x01\0\0\0\0\0\0\0", b"PONTOON1\x09\0\0\0\0\0\0\0", b"PONTOON1"]
        {
            assert!(hear(&mut &wrong[..]).await.is_err(), "{wrong:?}");
        }
    }
}
