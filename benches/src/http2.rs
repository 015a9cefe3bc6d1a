//! HTTP/2 by hand: many clients share a connection, as etcd's do.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::client::SendRequest;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{HeaderValue, Request};
use tokio::net::TcpStream;

/// What a connection and a stream of it may have on their way: as with etcd's.
const WINDOW: u32 = 8 << 20;
const STREAM_WINDOW: u32 = 1 << 20;

/// Clones share the connection.
#[derive(Clone)]
pub(crate) struct Client {
    requests: SendRequest<Bytes>,
    address: SocketAddr,
    token: HeaderValue,
}

impl Client {
    pub(crate) async fn open(address: SocketAddr, token: &str) -> Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| address.to_string())?;
        stream.set_nodelay(true)?;
        let mut settings = h2::client::Builder::new();
        settings.initial_window_size(STREAM_WINDOW).initial_connection_window_size(WINDOW);
        let (requests, connection) = settings.handshake(stream).await?;
        // It ends with its last clone; a failure shows in the requests.
        tokio::spawn(connection);
        Ok(Self { requests, address, token: format!("Bearer {token}").parse()? })
    }

    /// A call that must be answered with 2xx; the body.
    pub(crate) async fn ok(&mut self, method: &str, path: &str, body: String) -> Result<Vec<u8>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header(AUTHORIZATION, self.token.clone())
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body(())?;
        let mut requests = self.requests.clone().ready().await.context("the connection is closed")?;
        let (answer, mut stream) = requests.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::from(body), true)?;
        }
        let (head, mut parts) = answer.await?.into_parts();
        let mut bytes = Vec::new();
        while let Some(part) = parts.data().await {
            let part = part?;
            parts.flow_control().release_capacity(part.len())?;
            bytes.extend_from_slice(&part);
        }
        let status = head.status;
        ensure!(status.is_success(), "{method} {path}: {status} {}", String::from_utf8_lossy(&bytes));
        Ok(bytes)
    }
}
