//! Responses of certificate authorities about their certificates (OCSP, RFC 6960): asked for, verified, and scheduled, so
//! that they can be stapled to handshakes (RFC 6066 section 8).
//!
//! ```text
//! Target (a certificate and its issuer) -> request -> fetch -> verify -> Staple -> tls::EdgeCertificate
//! ```
//!
//! Everything but [`fetch`] is pure; the time is passed in, in seconds since the Unix epoch.

mod der;
mod exchange;
mod response;
mod schedule;
mod target;
#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use exchange::{FetchError, fetch};
pub use response::{OcspError, Staple, verify};
pub use schedule::{StapleSchedule, Times};
pub use target::{Target, TargetError, must_staple};

/// A response may be this long (bytes): it goes out with every full handshake.
pub const MAX_RESPONSE: usize = 16 * 1024;
