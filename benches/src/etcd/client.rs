//! A connection to one member.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use super::protobuf;

/// What a member says of itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MemberStatus {
    pub(crate) member: u64,
    pub(crate) leader: u64,
}

/// Clones share the connection.
#[derive(Clone)]
pub(crate) struct Client {
    grpc: tonic::client::Grpc<Channel>,
}

impl Client {
    pub(crate) async fn open(address: SocketAddr) -> Result<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(Duration::from_secs(2))
            .tcp_nodelay(true)
            // As many requests share a connection as the load asks for; the defaults of 64 KiB would stall batches.
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(8 << 20);
        Ok(Self { grpc: tonic::client::Grpc::new(endpoint.connect().await?) })
    }

    async fn call(&mut self, path: &'static str, message: Vec<u8>) -> Result<Bytes> {
        self.grpc.ready().await.context("the connection is closed")?;
        let answer = self.grpc.unary(Request::new(Bytes::from(message)), PathAndQuery::from_static(path), Raw).await?;
        Ok(answer.into_inner())
    }

    pub(crate) async fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.call("/etcdserverpb.KV/Put", protobuf::put_request(key, value)).await.map(drop)
    }

    /// All of `puts` in one transaction.
    pub(crate) async fn put_all<'a>(&mut self, puts: impl Iterator<Item = (&'a [u8], &'a [u8])>) -> Result<()> {
        let answer = self.call("/etcdserverpb.KV/Txn", protobuf::txn_request(puts)).await?;
        ensure!(protobuf::txn_succeeded(&answer)?, "the transaction did not succeed");
        Ok(())
    }

    /// The value of `key`, from a linearizable read.
    pub(crate) async fn get(&mut self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let answer = self.call("/etcdserverpb.KV/Range", protobuf::range_request(key)).await?;
        Ok(protobuf::range_value(&answer)?.map(<[u8]>::to_vec))
    }

    pub(crate) async fn status(&mut self) -> Result<MemberStatus> {
        let answer = self.call("/etcdserverpb.Maintenance/Status", Vec::new()).await?;
        let (member, leader) = protobuf::status(&answer)?;
        Ok(MemberStatus { member, leader })
    }
}

/// Messages as the bytes they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
