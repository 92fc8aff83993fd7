//! What carries a connection's bytes: TCP with bytes read ahead, and TLS over it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::TlsStream;

use crate::proxy::tenure::Tenure;

/// TCP with bytes that were already read and are to be read again.
pub struct Replay {
    /// Of a mesh peer: until when it may go on.
    tenure: Option<Tenure>,
    prefix: Bytes,
    tcp: TcpStream,
    /// What was read from the socket while it is noted.
    record: Option<BytesMut>,
    /// Bytes that the kernel has taken.
    pub(super) written: u64,
}

impl Replay {
    /// `prefix` is read first, then the socket.
    pub fn new(prefix: Bytes, tcp: TcpStream) -> Self {
        Self { tenure: None, prefix, tcp, record: None, written: 0 }
    }

    /// From now on it goes on for as long as this says.
    pub(in crate::proxy) fn set_tenure(&mut self, tenure: Option<Tenure>) {
        self.tenure = tenure;
    }

    /// Notes what is read until [`Self::stop_recording`].
    pub(in crate::proxy) fn recording(tcp: TcpStream) -> Self {
        Self { record: Some(BytesMut::new()), ..Self::new(Bytes::new(), tcp) }
    }

    /// Gives what was noted.
    pub(in crate::proxy) fn stop_recording(&mut self) -> Bytes {
        self.record.take().unwrap_or_default().freeze()
    }

    /// Closing it tells the other side that something went wrong (RST instead of FIN).
    pub(in crate::proxy) fn reset(&self) {
        // Where it fails, the connection is closed all the same.
        let _ = self.tcp.set_zero_linger();
    }

    /// The same socket, with these bytes to be read again.
    pub(in crate::proxy) fn again(self, prefix: Bytes) -> Self {
        Self::new(prefix, self.tcp)
    }
}

impl AsyncRead for Replay {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(tenure) = &self.tenure {
            tenure.check(cx, false)?;
        }
        if self.prefix.is_empty() {
            let this = &mut *self;
            let known = buf.filled().len();
            ready!(Pin::new(&mut this.tcp).poll_read(cx, buf))?;
            if let (Some(record), Some(fresh)) = (&mut this.record, buf.filled().get(known..)) {
                record.extend_from_slice(fresh);
            }
            return Poll::Ready(Ok(()));
        }
        let n = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(n));
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Replay {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(tenure) = &self.tenure {
            tenure.check(cx, true)?;
        }
        let taken = ready!(Pin::new(&mut self.tcp).poll_write(cx, buf))?;
        self.written += taken as u64;
        Poll::Ready(Ok(taken))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// What carries the bytes.
pub(in crate::proxy) enum Wire {
    /// Not encrypted.
    Plain(Replay),
    /// TLS, as server or as client.
    Tls(Box<TlsStream<Replay>>),
}

impl Wire {
    pub(super) fn replay(&self) -> &Replay {
        match self {
            Self::Plain(replay) => replay,
            Self::Tls(tls) => tls.get_ref().0,
        }
    }

    pub(super) fn tcp(&self) -> &TcpStream {
        &self.replay().tcp
    }

    pub(super) fn read(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_read(cx, buf),
        }
    }

    pub(super) fn write(&mut self, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tls(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    pub(super) fn flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_flush(cx),
            Self::Tls(io) => Pin::new(io).poll_flush(cx),
        }
    }

    pub(super) fn shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tls(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}
