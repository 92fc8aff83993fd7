//! How many requests are let through.

use std::{fmt, sync::Arc, time::Duration};

use http::HeaderName;

/// A token bucket for each key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    /// `NAMESPACE/NAME` of the policy: what it targets shares its buckets.
    pub policy: Arc<str>,
    /// Tokens that come in each `per`.
    pub requests: u32,
    /// In this time.
    pub per: Duration,
    /// Tokens that a bucket holds.
    pub burst: u32,
    /// What has a bucket of its own.
    pub key: RateKey,
}

/// What has a bucket of its own. Where a request has not got it, its client's address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address; of IPv6, its /64.
    Client,
    /// The value of a header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(Box<str>),
    /// A claim of the verified token.
    Claim(Box<str>),
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, requests, per, burst, key } = self;
        write!(f, "{requests} in {per:?}, {burst} at once, for each ")?;
        match key {
            RateKey::Client => f.write_str("client address")?,
            RateKey::Header(name) => write!(f, "value of header {name}")?,
            RateKey::Cookie(name) => write!(f, "value of cookie {name}")?,
            RateKey::Claim(name) => write!(f, "value of claim {name}")?,
        }
        write!(f, " (TrafficPolicy {policy})")
    }
}

/// One bound on the requests that all proxies of the cluster let through together. Each works with a share of it, see
/// [`crate::quota`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharedLimit {
    /// `NAMESPACE/NAME` of the policy: what it targets is counted together.
    pub policy: Arc<str>,
    /// Requests in each `per`.
    pub requests: u32,
    /// In this time.
    pub per: Duration,
    /// Requests that may be saved up, by all together.
    pub burst: u32,
}

impl SharedLimit {
    /// Requests a second.
    pub fn rate(&self) -> f64 {
        f64::from(self.requests) / self.per.as_secs_f64().max(1e-9)
    }
}

impl fmt::Display for SharedLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { policy, requests, per, burst } = self;
        write!(f, "{requests} in {per:?}, {burst} saved up, in the whole cluster (TrafficPolicy {policy})")
    }
}
