//! A connection whose other side is known, and that ends when that one's key is revoked.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

use super::credentials::{Credentials, Entered};
use crate::pki::{KeyId, Peer, PkiError, Validity, peer_of};
use rustls::AlertDescription;
use rustls_pki_types::CertificateDer;

/// Who is at the other end of a connection, read from its certificate once.
#[derive(Debug, Clone)]
pub struct Caller {
    known: Option<Arc<Known>>,
}

/// What a certificate says.
#[derive(Debug)]
struct Known {
    peer: Peer,
    key: KeyId,
    ends: SystemTime,
}

impl Caller {
    /// Its role and id; nobody, if it showed no certificate.
    pub fn peer(&self) -> Option<&Peer> {
        self.known.as_deref().map(|known| &known.peer)
    }

    /// Its key.
    pub fn key(&self) -> Option<KeyId> {
        self.known.as_deref().map(|known| known.key)
    }

    /// When its certificate ends.
    pub fn certificate_ends(&self) -> Option<SystemTime> {
        self.known.as_deref().map(|known| known.ends)
    }

    pub(crate) fn of(certificates: Option<&[CertificateDer<'_>]>) -> Result<Self, PkiError> {
        let own = certificates.and_then(<[_]>::first);
        let known = |own| Ok(Known { peer: peer_of(own)?, key: KeyId::of(own)?, ends: Validity::of(own)?.ends });
        let known = own.map(known).transpose()?;
        Ok(Self { known: known.map(Arc::new) })
    }
}

/// A TLS connection; reading from it fails once the other side's key is revoked.
pub struct Secured<S> {
    stream: S,
    caller: Caller,
    place: Option<Place>,
}

struct Place {
    entered: Entered,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<S> Secured<S> {
    pub(crate) fn new(stream: S, caller: Caller, credentials: Option<&Credentials>) -> Self {
        let place = caller.key().zip(credentials).map(|(key, credentials)| {
            let entered = credentials.enter(key);
            Place { cut: Box::pin(entered.cut.clone().cancelled_owned()), entered }
        });
        Self { stream, caller, place }
    }

    /// Who is at the other end.
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The same connection, its stream as another type.
    pub(crate) fn map<T>(self, convert: impl FnOnce(S) -> T) -> Secured<T> {
        Secured { stream: convert(self.stream), caller: self.caller, place: self.place }
    }
}

/// With which word the other side has ended the connection for what it was shown, if it did.
fn alert(error: &io::Error) -> Option<AlertDescription> {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => Some(*alert),
        _ => None,
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Secured<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Some(place) = &mut self.place
            && place.cut.as_mut().poll(cx).is_ready()
        {
            let why = "the certificate of the other side was revoked";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionAborted, why)));
        }
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        if let Poll::Ready(Err(error)) = &read {
            self.note(error);
        }
        read
    }
}

impl<S> Secured<S> {
    /// Notes it if with `error` the other side has refused what this one is.
    fn note(&self, error: &io::Error) {
        let Some((place, alert)) = self.place.as_ref().zip(alert(error)) else { return };
        if alert == AlertDescription::CertificateRevoked {
            place.entered.revoked();
        }
        place.entered.refused();
    }
}

impl<S: AsyncRead + Unpin> Secured<S> {
    /// Why the other side has ended the connection, if it has said so before: who finds out by writing does not read any more.
    fn hear_why(&mut self, cx: &mut Context<'_>) {
        let mut unread = [0; 1024];
        if let Poll::Ready(Err(error)) = Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut unread)) {
            self.note(&error);
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        if let Poll::Ready(Err(_)) = written {
            self.hear_why(cx);
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Err(_)) = written {
            self.hear_why(cx);
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(cx);
        if let Poll::Ready(Err(_)) = flushed {
            self.hear_why(cx);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl<S> Connected for Secured<S> {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}
