//! Reading one HTTP/1 message at a time, after its head was found good.

use std::{
    io,
    mem::MaybeUninit,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use tokio::io::ReadBuf;

use super::{Connection, READ_AHEAD};
use crate::proxy::{
    HttpLimits,
    pace::{Pace, Wait},
    strict::{Body, Frame, HeadScan, Refused},
};

/// So much of what a client still sends is taken when the connection is closed. Past it the kernel resets the
/// connection, and the client may not see its answer.
const LINGER: usize = 256 * 1024;

/// Why there is no head.
#[derive(Debug)]
pub(in crate::proxy) enum Unread {
    /// It is to be refused, and the connection closed.
    Refused(Refused),
    /// The connection ended, or broke.
    Gone,
}

impl Connection {
    /// Reads a request's head whole, under the deadline that [`Self::begin_head`] set, and finds it good. From then on,
    /// what is read is this message and no more. `scan` knows afterwards what was seen of a head that is refused.
    ///
    /// True: it asks for a tunnel.
    pub(in crate::proxy) async fn read_head(
        &mut self,
        scan: &mut HeadScan,
        limits: &HttpLimits,
    ) -> Result<bool, Unread> {
        loop {
            if let Some(head) = scan.scan(&self.read_ahead, limits).map_err(Unread::Refused)? {
                self.read_ahead.advance(head.skip);
                self.frame = Frame::of(&head);
                let has_body = !matches!(head.body, Body::Length(0) | Body::Tunnel);
                self.wait = has_body.then(|| Box::new(Wait::new(Pace::of_body(limits))));
                if let Some(head) = &self.head {
                    head.state.answered.store(false, Ordering::Relaxed);
                }
                return Ok(head.body == Body::Tunnel);
            }
            match self.fill().await {
                Ok(0) => return Err(Unread::Gone),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return Err(Unread::Refused(Refused { status: 408, reason: "head_too_slow" }));
                }
                Err(_) => return Err(Unread::Gone),
            }
        }
    }

    /// True if the whole message was read, so that the next bytes are the next message's.
    pub(in crate::proxy) fn is_message_read(&self) -> bool {
        self.frame.room() == 0
    }

    /// Lets everything pass, as for HTTP/2 and raw TCP.
    pub(in crate::proxy) fn open_frame(&mut self) {
        self.frame = Frame::OPEN;
    }

    pub(super) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let room = self.frame.room().min(buf.remaining());
        if self.frame.room() == 0 {
            return self.poll_end(cx);
        }
        if !self.read_ahead.is_empty() {
            let ahead = self.read_ahead.get(..room).unwrap_or(&self.read_ahead);
            let taken = self.frame.take(ahead).map_err(broken)?;
            buf.put_slice(ahead.get(..taken).unwrap_or_default());
            self.read_ahead.advance(taken);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if room == buf.remaining() {
            ready!(self.poll_body(cx, buf))?;
        } else {
            // The end of a body that is shorter than the buffer.
            let mut part = ReadBuf::new(buf.initialize_unfilled_to(room));
            ready!(self.poll_body(cx, &mut part))?;
            let read = part.filled().len();
            buf.advance(read);
        }
        let read = buf.filled().get(before..).unwrap_or_default();
        let taken = self.frame.take(read).map_err(broken)?;
        self.read_ahead.extend_from_slice(read.get(taken..).unwrap_or_default());
        buf.set_filled(before + taken);
        Poll::Ready(Ok(()))
    }

    /// Reads on, at a pace that has a bound until the answer begins.
    fn poll_body(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = self.poll_wire(cx, buf);
        let answered = self.head.as_ref().is_some_and(|head| head.state.answered.load(Ordering::Relaxed));
        let Some(wait) = self.wait.as_mut().filter(|_| !answered) else { return polled };
        match polled {
            Poll::Pending if wait.is_late(cx) => Poll::Ready(Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "a request's body came in too slowly",
            ))),
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => {
                wait.came(buf.filled().len() - before);
                Poll::Ready(result)
            }
        }
    }

    /// After a message: the next one waits for its turn, and only the connection's end is told. Where the next is longer
    /// than what is read ahead, the end is seen later.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.read_ahead.len() < READ_AHEAD {
            if ready!(self.poll_fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
        }
        // Nothing is read that would do it.
        self.send_on(cx)?;
        Poll::Pending
    }

    /// Takes what the client still sends until it closes: closing before that would reset the connection, and with it the
    /// answer on its way.
    pub(super) async fn linger(&mut self) -> io::Result<()> {
        let mut taken = 0;
        while taken < LINGER {
            let read = std::future::poll_fn(|cx| {
                let mut space = [MaybeUninit::uninit(); READ_AHEAD];
                let mut buf = ReadBuf::uninit(&mut space);
                ready!(self.wire.read(cx, &mut buf))?;
                Poll::Ready(io::Result::Ok(buf.filled().len()))
            });
            match read.await? {
                0 => break,
                read => taken += read,
            }
        }
        Ok(())
    }
}

/// By its kind it is known to be the client's fault.
fn broken(refused: Refused) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, refused.reason)
}
