//! One message's bytes, and no more.

use super::{Body, Head, Refused, chunks::Chunks};

/// How much of what comes in belongs to the message that is being read. What comes after it waits for its turn: the
/// engine never sees two messages at once, and cannot take one for the other.
#[derive(Debug, Clone)]
pub(in crate::proxy) struct Frame {
    /// Bytes of the head that are still to be read; they are known to be there.
    head: usize,
    rest: Rest,
}

#[derive(Debug, Clone)]
enum Rest {
    Open,
    Length(u64),
    Chunks(Chunks),
}

impl Frame {
    /// Everything passes: not HTTP/1, or a tunnel.
    pub const OPEN: Self = Self { head: 0, rest: Rest::Open };

    /// The message that begins with this head.
    pub fn of(head: &Head) -> Self {
        let rest = match head.body {
            Body::Length(length) => Rest::Length(length),
            Body::Chunked => Rest::Chunks(Chunks::new()),
            Body::Tunnel => Rest::Open,
        };
        Self { head: head.length, rest }
    }

    /// True if everything passes, so that [`Self::take`] need not be asked.
    pub fn is_open(&self) -> bool {
        self.head == 0 && matches!(self.rest, Rest::Open)
    }

    /// At most this many bytes may be read next. 0: the message is at its end.
    pub fn room(&self) -> usize {
        match &self.rest {
            _ if self.head > 0 => self.head,
            Rest::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX),
            Rest::Chunks(chunks) if chunks.ended() => 0,
            Rest::Open | Rest::Chunks(_) => usize::MAX,
        }
    }

    /// These bytes, no more than there is room for, were read. Gives how many of them are of this message.
    pub fn take(&mut self, bytes: &[u8]) -> Result<usize, Refused> {
        if self.head > 0 {
            let taken = self.head.min(bytes.len());
            self.head -= taken;
            return Ok(taken);
        }
        match &mut self.rest {
            Rest::Open => Ok(bytes.len()),
            Rest::Length(left) => {
                *left = left.saturating_sub(bytes.len() as u64);
                Ok(bytes.len())
            }
            Rest::Chunks(chunks) => chunks.take(bytes),
        }
    }
}
