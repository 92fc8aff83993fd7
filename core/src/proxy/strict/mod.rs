//! One reading of every message, or none: what two parsers could read differently never gets past here.
//!
//! The engine behind is a lenient parser that must not be asked. A [`HeadScan`] looks at the bytes of a head before the
//! engine has them, and a [`Frame`] lets the engine read the bytes of that one message and no more.

mod alarm;
mod chunks;
mod frame;
mod frames;
mod head;
mod host;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub(super) use frame::Frame;
pub(super) use frames::Frames;
pub(super) use head::{Head, HeadScan, is_tunnel};

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refused {
    /// What the client gets.
    pub status: u16,
    /// What the access log says.
    pub reason: &'static str,
}

impl Refused {
    const fn bad(reason: &'static str) -> Self {
        Self { status: 400, reason }
    }
}

/// What follows a head (RFC 9112 section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::proxy) enum Body {
    /// So many bytes, perhaps none.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Whatever comes: it may become a tunnel.
    Tunnel,
}
