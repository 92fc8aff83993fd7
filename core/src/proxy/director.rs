//! What a connection came in for, and who decides where its requests go.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    decide::{
        Backend, BindKey, Caller, ClientValidation, Outcome, Policies, RequestHead, StreamDecision, Verdict,
    },
    model::{HostName, ServiceKey, Snapshot, SpiffeId},
};

/// What a listener is for. One engine serves many listeners, so that they share upstream connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// Public traffic on a gateway's socket.
    Edge(BindKey),
    /// The application's own calls, on the loopback address of a service.
    Outbound {
        /// The service that was called.
        service: ServiceKey,
        /// Its port.
        port: u16,
        /// HTTP/2 was found to be spoken, on a port of which nobody says what is: it is passed on as it came.
        http2: bool,
        /// The one host of a headless service that was called.
        host: Option<HostName>,
    },
    /// Calls from the mesh to the application behind this sidecar; which of its ports, the SNI says.
    Inbound,
    /// Calls to the application that were not meant for its sidecar, and that the kernel has redirected: nothing vouches for
    /// who calls.
    Captured {
        /// The application's port.
        port: u16,
        /// HTTP/2 was found to be spoken.
        http2: bool,
    },
    /// The application's calls to others than the mesh, passed on as they are; and a gateway's calls from peers,
    /// passed on by server name and never decrypted.
    Passed,
}

/// An accepted connection, as far as it is known when its first request is read.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The listener's purpose.
    pub entry: Arc<Entry>,
    /// Who connected.
    pub peer: SocketAddr,
    /// The local end.
    pub local: SocketAddr,
    /// It came over TLS that was terminated here.
    pub tls: bool,
    /// Server name of the ClientHello, lower case.
    pub sni: Option<Arc<str>>,
    /// The verified identity of a mesh peer.
    pub identity: Option<SpiffeId>,
    /// What the client of a public listener had to show.
    pub clients: Option<ClientValidation>,
    /// HTTP/2 was agreed on by ALPN. An application behind a sidecar is spoken to as the mesh peer speaks.
    pub http2: bool,
}

impl Arrival {
    /// One of which nothing is known but its ends.
    pub fn plain(entry: Arc<Entry>, peer: SocketAddr, local: SocketAddr) -> Self {
        Self { entry, peer, local, tls: false, sni: None, identity: None, clients: None, http2: false }
    }

    /// The caller of a decision; `random` is 64 fresh random bits.
    pub fn caller(&self, random: u64) -> Caller<'_> {
        Caller {
            address: self.peer.ip().to_canonical(),
            identity: self.identity.as_ref(),
            sni: self.sni.as_deref(),
            claimed_lane: None,
            random,
            now: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        }
    }
}

/// The reason, in access log and metrics, of what AuthorizationPolicies do not let in.
pub const DENIED: &str = "rbac_denied";

/// What to do with a raw TCP connection.
#[derive(Debug, Clone, PartialEq)]
pub enum TcpOutcome {
    /// Copy to and from this backend.
    Forward(Backend),
    /// As a TLSRoute or TCPRoute says.
    Routed(StreamDecision),
    /// AuthorizationPolicies let it in: copy to and from this backend, where its limits leave room for one more.
    Allow(Backend, Verdict, Policies),
    /// They do not: close it.
    Deny(Verdict),
    /// Close it; the reason goes into the access log and metrics.
    Refuse(&'static str),
}

/// Decides where requests and connections go. Implemented for the edge, outbound and inbound by calling
/// [`crate::decide`]; pure, called once per request.
pub trait Director: Send + Sync + 'static {
    /// Decides one HTTP request.
    fn direct(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
    ) -> Outcome;

    /// The body of a page that answers before anything is decided: the answer to a certificate authority's challenge.
    fn challenge(&self, path: &str) -> Option<Arc<str>> {
        let _ = path;
        None
    }

    /// Decides one raw TCP connection. Refuses by default.
    fn direct_tcp(&self, snapshot: &Snapshot, arrival: &Arrival, caller: &Caller<'_>) -> TcpOutcome {
        let _ = (snapshot, arrival, caller);
        TcpOutcome::Refuse("tcp_not_served")
    }
}
