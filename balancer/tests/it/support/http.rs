//! HTTP/1.1 by hand, for both ends: what is sent and read is what the test says, not what a library makes of it.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use super::within;

/// A request or an answer as it was read.
#[derive(Debug, Clone)]
pub struct Message {
    pub head: String,
    pub body: Vec<u8>,
}

impl Message {
    pub fn status(&self) -> u16 {
        self.head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{}", self.head))
    }

    pub fn first_line(&self) -> &str {
        self.head.lines().next().unwrap()
    }

    /// All values of a header.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let lines = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        lines.filter(|(of, _)| of.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).collect()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

/// Reads up to and including the empty line; none at the end of the stream.
pub async fn read_head(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<String> {
    let mut head = String::new();
    loop {
        let begun = head.len();
        if reader.read_line(&mut head).await.ok()? == 0 {
            return None;
        }
        if head[begun..].trim_end().is_empty() {
            return Some(head);
        }
    }
}

/// One chunk of a chunked body; empty at its end.
pub async fn read_chunk(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<u8>> {
    let mut line = String::new();
    reader.read_line(&mut line).await.ok()?;
    let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).ok()?];
    reader.read_exact(&mut chunk).await.ok()?;
    line.clear();
    reader.read_line(&mut line).await.ok()?;
    Some(chunk)
}

/// Reads a whole message; none if the stream ends before.
pub async fn read_message(reader: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Message> {
    let mut message = Message { head: read_head(reader).await?, body: Vec::new() };
    if message.header("transfer-encoding").is_some() {
        loop {
            let chunk = read_chunk(reader).await?;
            if chunk.is_empty() {
                break;
            }
            message.body.extend(chunk);
        }
    } else if let Some(len) = message.header("content-length") {
        // Not more memory than what really comes.
        let len: u64 = len.parse().ok()?;
        reader.take(len).read_to_end(&mut message.body).await.ok()?;
        if message.body.len() as u64 != len {
            return None;
        }
    }
    Some(message)
}

/// A client's connection.
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = within("connect", TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// Sends a request and reads its answer.
    pub async fn ask(&mut self, request: &str) -> Message {
        self.send(request.as_bytes()).await;
        self.answer().await
    }

    pub async fn answer(&mut self) -> Message {
        within("the answer", read_message(&mut self.stream)).await.expect("an answer before the connection's end")
    }

    /// Waits for the end of the connection; what came before it.
    pub async fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = within("the connection's end", self.stream.read_to_end(&mut rest)).await;
        rest
    }
}

/// One request on a connection of its own.
pub async fn ask(address: SocketAddr, request: &str) -> Message {
    Client::connect(address).await.ask(request).await
}

pub fn get(host: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

pub fn with_body(method: &str, host: &str, body: &str) -> String {
    format!("{method} / HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// A whole answer with a body of known length.
pub fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}
