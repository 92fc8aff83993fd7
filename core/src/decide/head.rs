//! What is known of a request and of its caller when the decision is made.

use std::net::IpAddr;

use http::{HeaderMap, Method};

use crate::model::{Lane, SpiffeId};

/// A request's head, borrowed. Made once per request from what the engine parsed.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    /// `http` or `https`, as the client sees it.
    pub scheme: &'a str,
    /// Host without port, lower case (`:authority`, or `Host`).
    pub host: &'a str,
    /// Method.
    pub method: &'a Method,
    /// Path without the query, as sent.
    pub path: &'a str,
    /// Query without the `?`.
    pub query: Option<&'a str>,
    /// Headers as sent, except that what steers the mesh was removed if it came from outside.
    pub headers: &'a HeaderMap,
}

/// Who is calling.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// The client's address (after PROXY protocol and trusted forwarding headers).
    pub address: IpAddr,
    /// The verified identity of a mesh caller.
    pub identity: Option<&'a SpiffeId>,
    /// Server name that a TLS client asked for.
    pub sni: Option<&'a str>,
    /// The lane that a client from outside says it is in. Only a route that trusts its clients believes it.
    pub claimed_lane: Option<&'a Lane>,
    /// 64 random bits for what is left to chance (weights without a key, an issued cookie): passed in, so that a
    /// decision can be repeated.
    pub random: u64,
    /// Seconds since the epoch, for what ends after a time; passed in for the same reason.
    pub now: u64,
}
