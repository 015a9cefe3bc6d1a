//! tonic's codec for enveloped messages.

use std::marker::PhantomData;

use bytes::{Buf, BufMut};
use pontoon_model::wire::{self, Wire};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

/// Encodes `E` and decodes `D`, each in one envelope per gRPC message.
#[derive(Debug, Clone, Copy)]
pub struct EnvelopeCodec<E, D>(PhantomData<fn() -> (E, D)>);

impl<E, D> Default for EnvelopeCodec<E, D> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<E, D> Codec for EnvelopeCodec<E, D>
where
    E: Wire + Send + 'static,
    D: Wire + Send + 'static,
{
    type Encode = E;
    type Decode = D;
    type Encoder = EnvelopeEncoder<E>;
    type Decoder = EnvelopeDecoder<D>;

    fn encoder(&mut self) -> Self::Encoder {
        EnvelopeEncoder(PhantomData)
    }

    fn decoder(&mut self) -> Self::Decoder {
        EnvelopeDecoder(PhantomData)
    }
}

/// The encoding half of [`EnvelopeCodec`].
#[derive(Debug)]
pub struct EnvelopeEncoder<E>(PhantomData<fn() -> E>);

impl<E: Wire> Encoder for EnvelopeEncoder<E> {
    type Item = E;
    type Error = Status;

    fn encode(&mut self, item: E, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        let bytes = wire::encode(&item).map_err(|error| Status::internal(error.to_string()))?;
        buffer.put_slice(&bytes);
        Ok(())
    }
}

/// The decoding half of [`EnvelopeCodec`].
#[derive(Debug)]
pub struct EnvelopeDecoder<D>(PhantomData<fn() -> D>);

impl<D: Wire> Decoder for EnvelopeDecoder<D> {
    type Item = D;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<D>, Status> {
        let bytes = buffer.copy_to_bytes(buffer.remaining());
        // A message of another version or kind is the sender's fault and named as such.
        wire::decode(&bytes).map(Some).map_err(|error| Status::invalid_argument(error.to_string()))
    }
}
