//! HTTP/1.1 by hand over one kept connection: the load generator shares two cores with what it measures.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// No answer of these benches is longer; a list of 1,000 apps takes a megabyte.
const LONGEST: usize = 64 * 1024 * 1024;

/// One connection.
pub(crate) struct Connection {
    stream: TcpStream,
    token: String,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr, token: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, token: token.to_owned(), request: Vec::new(), answer: Vec::new() })
    }

    /// Sends one request and reads its answer: status and body.
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: &str) -> Result<(u16, &[u8])> {
        use std::io::Write as _;
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\nHost: bench\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        )?;
        self.stream.write_all(&self.request).await?;
        self.answer.clear();
        let (status, head, length) = loop {
            self.more().await?;
            if let Some(head) = self.answer.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let text = std::str::from_utf8(&self.answer[..head])?;
                let (status, length) = parse_head(text)?;
                break (status, head + 4, length);
            }
        };
        while self.answer.len() < head + length {
            self.more().await?;
        }
        Ok((status, &self.answer[head..head + length]))
    }

    /// A call that must be answered with 2xx; the body.
    pub(crate) async fn ok(&mut self, method: &str, path: &str, body: &str) -> Result<&[u8]> {
        let (status, answer) = self.call(method, path, body).await?;
        ensure!((200..300).contains(&status), "{method} {path}: {status} {}", String::from_utf8_lossy(answer));
        Ok(answer)
    }

    async fn more(&mut self) -> Result<()> {
        ensure!(self.answer.len() < LONGEST, "the answer is over {LONGEST} bytes");
        if self.stream.read_buf(&mut self.answer).await? == 0 {
            bail!("the connection was closed");
        }
        Ok(())
    }
}

/// Status and length of the body.
fn parse_head(head: &str) -> Result<(u16, usize)> {
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("no status")?.parse()?;
    let length = lines
        .find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
        })
        .transpose()?
        .unwrap_or(0);
    Ok((status, length))
}
