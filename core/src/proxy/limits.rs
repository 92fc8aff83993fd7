//! What a client may ask of the engine. Every bound of a client's connection stands here, with what happens at it.

use std::time::Duration;

use crate::decide::Timeouts;

/// Bounds of HTTP connections from clients. The defaults suit a public listener. Bodies may have any length, as they are
/// passed on and not kept; a `TrafficPolicy` bounds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// A connection is kept so long before its first and between two requests; then it is closed. Longer than mesh pools
    /// keep theirs, so that it is they who close.
    pub idle: Duration,
    /// A request's head must be whole so soon after its first byte, however steadily it comes in: else 408, and the
    /// connection is closed.
    pub head_time: Duration,
    /// A request's body may pause so long: else 408 where nothing was answered yet, and the connection (of HTTP/2: the
    /// stream) is closed.
    pub body_idle: Duration,
    /// So long a request's body may be waited for in all, besides what [`Self::body_rate`] gives it: else 408, as with
    /// pauses. It holds until the answer begins, and not for tunnels and gRPC.
    pub body_grace: Duration,
    /// Bytes of a body that give it another second to come in; 0: bodies may be as slow as they like.
    pub body_rate: u32,
    /// The body of a gRPC call over HTTP/2 may pause so long before its answer begins.
    pub stream_idle: Duration,
    /// A TLS handshake must be over so soon; then the connection is closed and counted.
    pub handshake: Duration,
    /// A client that takes nothing of its answer for so long is given up.
    pub write_stall: Duration,
    /// Bytes of a request's head: past it 431. HTTP/2 counts as RFC 9113 section 6.5.2 does.
    pub head_bytes: usize,
    /// Bytes of a request's target: past it 414.
    pub target_bytes: usize,
    /// Fields of a request's head: past it 431. No more than the engine's own bound of 256 has effect.
    pub fields: usize,
    /// Streams that an HTTP/2 connection has at a time. Beyond it the client is told REFUSED_STREAM.
    pub streams: usize,
    /// Streams that a client may reset before they were answered. Past it they must not be more than those that it waited
    /// for: else the connection ends with ENHANCE_YOUR_CALM (rapid reset).
    pub cancelled: usize,
    /// Streams of a connection that may end in a reset from here, as the client made an error on them. Past it the
    /// connection ends with ENHANCE_YOUR_CALM.
    pub stream_errors: usize,
    /// Bytes of a request's body over HTTP/2 that are taken in before they are passed on, for a stream.
    pub stream_window: u32,
    /// The same for all streams of a connection.
    pub connection_window: u32,
    /// Proxies in front of this one that are trusted to say who the client is; 0: nobody is believed. Only for public
    /// listeners.
    pub trusted_hops: u8,
    /// Where they say it.
    pub trusted_field: TrustedField,
}

/// The field in which trusted proxies say who the client is. The other one is anybody's claim, and never read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrustedField {
    /// `X-Forwarded-For`, and with it `X-Forwarded-Proto` and `X-Forwarded-Host`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239), with its parameters `for`, `proto` and `host`.
    Forwarded,
}

impl Default for HttpLimits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(75),
            head_time: Duration::from_secs(10),
            body_idle: Timeouts::BODY_IDLE,
            write_stall: Timeouts::WRITE_STALL,
            body_grace: Duration::from_secs(30),
            body_rate: 500,
            stream_idle: Duration::from_secs(3600),
            handshake: Duration::from_secs(5),
            head_bytes: 64 * 1024,
            target_bytes: 16 * 1024,
            fields: 128,
            streams: 100,
            cancelled: 200,
            stream_errors: 64,
            stream_window: 1 << 20,
            connection_window: 4 << 20,
            trusted_hops: 0,
            trusted_field: TrustedField::default(),
        }
    }
}
