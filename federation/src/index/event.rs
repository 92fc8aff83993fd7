//! What can happen to the index, and the words it is told in.

use std::{fmt, net::SocketAddr, sync::Arc};

use tombolo_core::model::{SpiffeId, TrustDomain};
use tombolo_proto::v1;

use super::{Configuration, Registration};

/// Milliseconds since the Unix epoch as the monotonic clock counts them on from the start of the process: it never goes
/// back within a process, and what is persisted of it still means something after a restart.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub struct Moment(pub i64);

impl Moment {
    /// This moment and so many milliseconds more.
    pub fn plus(self, milliseconds: i64) -> Self {
        Self(self.0.saturating_add(milliseconds))
    }

    /// How many milliseconds later this is than another moment; negative if it is earlier.
    pub fn since(self, earlier: Self) -> i64 {
        self.0.saturating_sub(earlier.0)
    }

    /// Whole seconds since the Unix epoch.
    pub fn unix_seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }
}

/// Names one namespaced thing (a service, a workload).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// Namespace, a DNS label.
    pub namespace: Arc<str>,
    /// Name, a DNS label.
    pub name: Arc<str>,
}

impl Name {
    /// From its parts. They were checked where they came in.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Numbers the streams of this process, growing: where two claim the same thing, the younger is right.
pub type Session = u64;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// A generation of configuration is in force.
    Configured(Arc<Configuration>),
    /// This cluster's own bundle.
    OwnBundle(v1::TrustBundle),
    /// The bundles of trust domains that no link leads to: all of them.
    ForeignBundles(Vec<v1::TrustBundle>),
    /// A workload registered, changed, or sent its heartbeat.
    Registered {
        /// The stream it came on.
        session: Session,
        /// What it says.
        registration: Arc<Registration>,
    },
    /// A gateway registered its mesh listener, or sent its heartbeat.
    GatewayRegistered {
        /// The stream it came on.
        session: Session,
        /// Its name, in the namespace of its identity.
        name: Name,
        /// Who it is.
        identity: SpiffeId,
        /// Where peers reach its mesh listener.
        address: SocketAddr,
        /// It is going away: peers are not sent to it any more.
        draining: bool,
    },
    /// A workload's or gateway's stream is gone; it stays until its lease ends, unless it said goodbye (draining).
    StreamClosed {
        /// The stream.
        session: Session,
        /// What was registered on it.
        name: Name,
    },
    /// Something about a peer.
    Peer {
        /// The peer's cluster name.
        cluster: Arc<str>,
        /// What.
        event: PeerEvent,
    },
    /// Time went on: leases end.
    Tick,
}

/// What happens between this cluster and one peer. Events of a link carry its session: those of a link that was
/// replaced by a younger one are refused.
#[derive(Debug, Clone)]
pub enum PeerEvent {
    /// The handshake is done: the peer is known, or known anew after it was revoked.
    Linked(PeerIdentity),
    /// A link is up and said who it is.
    Hello {
        /// The link.
        session: Session,
        /// Of the peer's exports.
        epoch: String,
        /// The peer's network.
        network: String,
    },
    /// The peer's roots.
    Bundle {
        /// The link.
        session: Session,
        /// New roots of the peer's own trust domain.
        bundle: v1::TrustBundle,
    },
    /// The peer exports this service, so.
    Service {
        /// The link.
        session: Session,
        /// The service.
        service: v1::ExportedService,
    },
    /// Of a service that the peer named before, nothing but the summaries has changed.
    Summaries {
        /// The link.
        session: Session,
        /// Which.
        name: Name,
        /// By port, without endpoints.
        ports: Vec<v1::EndpointList>,
    },
    /// A message that is larger than any may be; it ended the link.
    TooLarge {
        /// The link.
        session: Session,
    },
    /// The peer withdrew a service: an explicit statement, unlike a broken link.
    Withdrawn {
        /// The link.
        session: Session,
        /// Which.
        name: Name,
    },
    /// The peer's gateways.
    Gateways {
        /// The link.
        session: Session,
        /// Mesh listeners, `IP:PORT`.
        addresses: Vec<String>,
    },
    /// All changes up to this revision have come.
    Synced {
        /// The link.
        session: Session,
        /// Of the peer's exports.
        revision: u64,
        /// What was not named since Hello does not exist any more.
        full: bool,
    },
    /// The peer has taken our exports up to this revision.
    Acked {
        /// The link.
        session: Session,
        /// Of our exports.
        revision: u64,
    },
    /// Nothing is read of the peer for a while: it says more than it may.
    Unread {
        /// The link.
        session: Session,
        /// For so long, in milliseconds.
        millis: i64,
    },
    /// The peer has answered a question whether it is there.
    Answered {
        /// The link.
        session: Session,
    },
    /// The peer holds this cluster's bundle up to this sequence.
    BundleTaken {
        /// The link.
        session: Session,
        /// Of this cluster's bundle.
        sequence: u64,
    },
    /// Any sign of life.
    Heard {
        /// The link.
        session: Session,
    },
    /// The link is down. What was imported stays, for its bounds.
    Disconnected {
        /// The link.
        session: Session,
    },
    /// The operator of this side ended the link.
    Revoked,
    /// The peer knows that this side ended the link.
    Told,
    /// The operator of this side wants it out of the list.
    Forgotten {
        /// Also if it does not know yet that it was revoked; it never will.
        untold: bool,
    },
    /// The peer itself said, over an authenticated link, that it ended the link.
    Left {
        /// The link.
        session: Session,
    },
}

/// Who a peer is and how it is reached.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerIdentity {
    /// Its trust domain.
    pub trust_domain: TrustDomain,
    /// Its roots.
    pub bundle: v1::TrustBundle,
    /// Its controllers, `HOST:PORT`.
    pub addresses: Vec<String>,
    /// This side opens the link (it joined with the other's token).
    pub dials: bool,
}
