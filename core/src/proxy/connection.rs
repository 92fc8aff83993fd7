//! A byte stream as pingora takes it: TCP or TLS, with bytes read ahead, a write buffer and a deadline for a
//! request's head.

mod age;
mod fate;
mod flow;
mod guarded;
mod head;
mod message;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod testing;
mod wire;

use std::{
    fmt, io,
    mem::MaybeUninit,
    net::SocketAddr,
    os::fd::AsRawFd,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::Duration,
};

use async_trait::async_trait;
use bytes::{Buf, BytesMut};
use pingora_core::protocols::{
    ALPN, GetProxyDigest, GetSocketDigest, GetTimingDigest, Peek, Shutdown, SocketDigest, Ssl, TimingDigest,
    UniqueID, UniqueIDType, l4::socket::SocketAddr as PingoraAddr, raw_connect::ProxyDigest,
};
use pingora_http::ResponseHeader;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::Instant,
};

use super::{Arrival, gate::Places, pace::Wait, strict::Frame, upstream::Cut};
#[cfg(test)]
pub(super) use age::AGE;
pub(super) use fate::Fate;
pub(super) use flow::Flow;
use guarded::Guard;
pub(super) use guarded::Tripped;
use head::HeadDeadline;
pub(super) use head::{HeadState, Link};
pub(super) use message::Unread;
pub use wire::Replay;
pub(super) use wire::Wire;

/// Small writes are gathered up to here, then written; above TLS this makes one record of head and body.
const WRITE_BUFFER: usize = 16 * 1024;
/// One read ahead of the parser takes at most this much.
const READ_AHEAD: usize = 4 * 1024;
/// A polite goodbye (TLS close_notify, FIN) may take this long; then the socket is closed anyway.
const GOODBYE: Duration = Duration::from_secs(2);

/// A connection, downstream or upstream, in the form that pingora takes.
pub struct Connection {
    wire: Wire,
    read_ahead: BytesMut,
    /// Not yet written; its memory is kept only while it holds something.
    write_buffer: Vec<u8>,
    written: usize,
    /// Something was written since all was last sent; above TLS, part of it may wait below the write buffer.
    unsent: bool,
    h2: bool,
    head: Option<HeadDeadline>,
    /// What may be read now.
    frame: Frame,
    /// See [`Connection::answer_in_turn`].
    in_turn: bool,
    /// Something was written since the last read.
    asked: bool,
    /// Of HTTP/2.
    guard: Option<Box<Guard>>,
    /// The body that is being read.
    wait: Option<Box<Wait>>,
    /// Of HTTP/1.1 to backends, with what was written before the last request.
    fate: Option<(Arc<Fate>, u64)>,
    /// See [`Connection::with_cut`].
    cut: Option<Cut>,
    /// Of HTTP/1.1 that is relayed.
    flow: Option<Arc<Flow>>,
    /// Of one to a backend.
    lent_until: Instant,
    socket: Arc<SocketDigest>,
    proxy: Option<Arc<ProxyDigest>>,
}

impl Connection {
    /// A connection that was accepted.
    pub(super) fn downstream(wire: Wire, arrival: Arc<Arrival>, h2: bool) -> Self {
        let state = Arc::new(HeadState::default());
        let link = Link { arrival: arrival.clone(), head: state.clone(), places: Places::default() };
        let socket = socket_digest(&wire, arrival.peer, arrival.local);
        let response = ResponseHeader::build(200, Some(0)).ok();
        let proxy = response.map(|r| Arc::new(ProxyDigest::new(Box::new(r), Some(Box::new(link)))));
        let head = Some(HeadDeadline { state, until: Instant::now(), sleep: None });
        Self { head, proxy, h2, ..Self::bare(wire, socket) }
    }

    /// A connection that was made.
    pub(super) fn upstream(wire: Wire, peer: SocketAddr, local: SocketAddr) -> Self {
        let socket = socket_digest(&wire, peer, local);
        Self { lent_until: age::end_of_loans(), ..Self::bare(wire, socket) }
    }

    fn bare(wire: Wire, socket: Arc<SocketDigest>) -> Self {
        Self {
            wire,
            read_ahead: BytesMut::new(),
            write_buffer: Vec::new(),
            written: 0,
            unsent: false,
            h2: false,
            head: None,
            frame: Frame::OPEN,
            in_turn: false,
            asked: false,
            guard: None,
            wait: None,
            fate: None,
            cut: None,
            flow: None,
            lent_until: Instant::now(),
            socket,
            proxy: None,
        }
    }

    /// From now on, the first read after each write comes back once without bytes, however early they arrive.
    ///
    /// pingora sends a request's (empty) body on a path of its own, and where the answer to a request to switch
    /// protocols is there before it has polled that path, it takes the end of that body for the end of the tunnel: about
    /// one in a hundred WebSockets ended as soon as they had begun. The extra turn lets it poll the path first.
    pub(super) fn answer_in_turn(self) -> Self {
        Self { in_turn: true, ..self }
    }

    /// HTTP/1.1 to a backend: what becomes of requests on it is found by the engine through pingora's session digest.
    pub(super) fn with_fate(mut self) -> Self {
        let fate = Arc::new(Fate::new());
        let response = ResponseHeader::build(200, Some(0)).ok();
        self.proxy = response.map(|r| Arc::new(ProxyDigest::new(Box::new(r), Some(Box::new(fate.clone())))));
        self.fate = Some((fate, 0));
        self.begin_flow();
        self
    }

    /// Whoever waits for bytes from now on is told that there will be none when this resolves.
    pub(super) fn with_cut(self, cut: Option<Cut>) -> Self {
        Self { cut, ..self }
    }

    /// Closes it so that the other side learns that something went wrong, and does not take it for an orderly end.
    pub(super) fn reset(self) {
        self.wire.replay().reset();
    }

    /// Bytes that were read and not yet taken.
    pub(super) fn ahead(&self) -> &[u8] {
        &self.read_ahead
    }

    /// The state of its requests' heads, if it was accepted.
    pub(super) fn head(&self) -> Option<Arc<HeadState>> {
        self.head.as_ref().map(|head| head.state.clone())
    }

    /// From now on until the engine has the head, reading fails when `limit` is over.
    pub(super) fn begin_head(&mut self, limit: Duration) {
        if let Some(head) = &mut self.head {
            head.until = Instant::now() + limit;
            head.sleep = None;
            head.state.reading.store(true, Ordering::Relaxed);
        }
    }

    /// Ends the head's deadline (HTTP/2 and raw TCP have bounds of their own).
    pub(super) fn end_head(&mut self) {
        if let Some(head) = &mut self.head {
            head.state.reading.store(false, Ordering::Relaxed);
            head.sleep = None;
        }
    }

    /// Reads more ahead and returns how much; 0 is the end. Between requests nothing but this small future is held.
    pub(super) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); READ_AHEAD];
        let mut buf = ReadBuf::uninit(&mut space);
        ready!(self.poll_wire(cx, &mut buf))?;
        self.read_ahead.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Reads from the wire, under the head's deadline if one holds. Where that has to wait, what was written is sent:
    /// pingora does not flush the parts of a body of known length, and a slow one would not reach the client.
    fn poll_wire(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let mut result = self.wire.read(cx, buf);
        if result.is_pending()
            && let Some(cut) = &mut self.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            self.cut = Some(Box::pin(std::future::ready(())));
            result = Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if let (Some((fate, written)), Poll::Ready(read)) = (&self.fate, &result) {
            match read {
                Ok(()) if buf.filled().len() > before => fate.answered(),
                Err(error) if error.kind() != io::ErrorKind::UnexpectedEof => {}
                _ if fate.is_waiting() && fate::took_no_more_than(self.id(), *written) => fate.untouched(),
                _ => {}
            }
        }
        match &result {
            Poll::Pending => self.send_on(cx)?,
            // What comes in all the time must not keep back what goes out. What breaks is found when nothing comes.
            Poll::Ready(_) if self.flow.as_ref().is_some_and(|flow| flow.is_full()) => {
                let _later = self.send_on(cx);
            }
            Poll::Ready(_) => {}
        }
        let Some(head) = self.head.as_mut().filter(|h| h.state.reading.load(Ordering::Relaxed)) else {
            return result;
        };
        match result {
            Poll::Pending => head.poll(cx).map(Err),
            // Also a head that always has one more byte ready comes to its end.
            Poll::Ready(_) if Instant::now() >= head.until => Poll::Ready(Err(head.over())),
            ready => ready,
        }
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.write_buffer.get(self.written..).filter(|r| !r.is_empty()) {
            let polled = self.wire.write(cx, rest).map_err(|error| {
                not_sent(&self.fate, &self.wire);
                error
            });
            let n = ready!(polled)?;
            if n == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += n;
        }
        match self.write_buffer.capacity() > 2 * WRITE_BUFFER {
            // It has absorbed something large.
            true => self.write_buffer = Vec::new(),
            false => self.write_buffer.clear(),
        }
        self.written = 0;
        Poll::Ready(Ok(()))
    }

    /// Gives back memory that is not needed while the connection is idle.
    pub(super) fn rest(&mut self) {
        if self.write_buffer.is_empty() {
            self.write_buffer = Vec::new();
        }
        if self.read_ahead.is_empty() {
            self.read_ahead = BytesMut::new();
        }
    }
}

/// Writing failed: where the kernel has taken nothing of the request, nobody can have begun with it.
fn not_sent(fate: &Option<(Arc<Fate>, u64)>, wire: &Wire) {
    if let Some((fate, written)) = fate
        && wire.replay().written == *written
    {
        fate.untouched();
    }
}

fn socket_digest(wire: &Wire, peer: SocketAddr, local: SocketAddr) -> Arc<SocketDigest> {
    let digest = SocketDigest::from_raw_fd(wire.tcp().as_raw_fd());
    // Set here, so that pingora asks the kernel nothing; a cell that is new cannot be full.
    let _ = digest.peer_addr.set(Some(PingoraAddr::Inet(peer)));
    let _ = digest.local_addr.set(Some(PingoraAddr::Inet(local)));
    let _ = digest.original_dst.set(None);
    Arc::new(digest)
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.is_held() {
            return self.poll_held(cx);
        }
        if !self.frame.is_open() {
            return self.poll_message(cx, buf);
        }
        if self.in_turn && std::mem::take(&mut self.asked) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.guard.is_some() {
            return self.poll_guarded(cx, buf);
        }
        if self.read_ahead.is_empty() {
            return self.poll_wire(cx, buf);
        }
        let n = self.read_ahead.len().min(buf.remaining());
        if let Some(bytes) = self.read_ahead.get(..n) {
            buf.put_slice(bytes);
        }
        self.read_ahead.advance(n);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        self.unsent = true;
        let so_far = self.wire.replay().written;
        if let Some((fate, written)) = &mut self.fate
            && fate.sends()
        {
            *written = so_far;
        }
        if let Some(guard) = &mut self.guard {
            guard.wrote(buf.len());
        }
        if self.absorbs() {
            return Poll::Ready(self.poll_absorb(cx, buf));
        }
        if self.write_buffer.len() + buf.len() > WRITE_BUFFER {
            ready!(self.poll_drain(cx))?;
        }
        if buf.len() >= WRITE_BUFFER {
            let polled = self.wire.write(cx, buf).map_err(|error| {
                not_sent(&self.fate, &self.wire);
                error
            });
            return polled;
        }
        self.write_buffer.extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.absorbs() {
            return Poll::Ready(self.poll_absorbed(cx));
        }
        ready!(self.poll_drain(cx))?;
        ready!(self.wire.flush(cx))?;
        self.unsent = false;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_drain(cx))?;
        self.wire.shutdown(cx)
    }
}

#[async_trait]
impl Shutdown for Connection {
    async fn shutdown(&mut self) {
        let _ = tokio::time::timeout(GOODBYE, async {
            AsyncWriteExt::shutdown(self).await?;
            match self.head {
                Some(_) => self.linger().await,
                None => Ok(()),
            }
        })
        .await;
    }
}

impl UniqueID for Connection {
    /// The real file descriptor: pingora's pool checks the peer's address by it.
    fn id(&self) -> UniqueIDType {
        self.wire.tcp().as_raw_fd()
    }
}

impl Ssl for Connection {
    fn selected_alpn_proto(&self) -> Option<ALPN> {
        self.h2.then_some(ALPN::H2)
    }
}

impl GetTimingDigest for Connection {
    fn get_timing_digest(&self) -> Vec<Option<TimingDigest>> {
        Vec::new()
    }
}

impl GetProxyDigest for Connection {
    fn get_proxy_digest(&self) -> Option<Arc<ProxyDigest>> {
        self.proxy.clone()
    }
}

impl GetSocketDigest for Connection {
    fn get_socket_digest(&self) -> Option<Arc<SocketDigest>> {
        Some(self.socket.clone())
    }
}

impl Peek for Connection {}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").field("fd", &self.id()).field("h2", &self.h2).finish_non_exhaustive()
    }
}
