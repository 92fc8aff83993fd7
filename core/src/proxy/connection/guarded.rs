//! HTTP/2 bytes, with an eye on their frames.

use std::{
    io,
    sync::{Arc, OnceLock},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Buf;
use tokio::{io::ReadBuf, sync::Notify};

use super::Connection;
use crate::proxy::strict::{Frames, Refused};

/// Says that a connection's frames are not to be answered any more, to those who can end it politely.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Tripped {
    why: OnceLock<Refused>,
    told: Notify,
}

impl Tripped {
    /// Ends the connection for this reason; the first one counts.
    pub fn trip(&self, why: Refused) {
        if self.why.set(why).is_ok() {
            self.told.notify_one();
        }
    }

    /// Waits until it is so, for one waiter.
    pub async fn wait(&self) -> Refused {
        loop {
            if let Some(why) = self.why.get() {
                return *why;
            }
            self.told.notified().await;
        }
    }
}

/// The watch over a connection's frames.
pub(super) struct Guard {
    frames: Frames,
    tripped: Arc<Tripped>,
}

impl Guard {
    pub fn wrote(&mut self, bytes: usize) {
        self.frames.wrote(bytes);
    }
}

impl Connection {
    /// From now on it is HTTP/2, and its frames are watched.
    pub(in crate::proxy) fn guard(&mut self, head_time: Duration) -> Arc<Tripped> {
        let tripped = Arc::<Tripped>::default();
        self.guard = Some(Box::new(Guard { frames: Frames::new(head_time), tripped: tripped.clone() }));
        self.h2 = true;
        tripped
    }

    /// Reads; where the frames are not to be read on, nothing ever comes again, and whoever waits for it is told.
    pub(super) fn poll_guarded(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = if self.read_ahead.is_empty() {
            self.poll_wire(cx, buf)
        } else {
            let ahead = self.read_ahead.len().min(buf.remaining());
            buf.put_slice(self.read_ahead.get(..ahead).unwrap_or_default());
            self.read_ahead.advance(ahead);
            Poll::Ready(Ok(()))
        };
        let Some(guard) = &mut self.guard else { return result };
        let seen = match result {
            Poll::Ready(_) => guard.frames.take(buf.filled().get(before..).unwrap_or_default()),
            Poll::Pending => guard.frames.poll_late(cx),
        };
        match seen {
            Ok(()) => result,
            Err(why) => {
                buf.set_filled(before);
                guard.tripped.trip(why);
                Poll::Pending
            }
        }
    }
}
