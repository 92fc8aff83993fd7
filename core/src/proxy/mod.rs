//! The data path: listeners, the HTTP engine, upstream connections, raw TCP and TLS passthrough.
//!
//! ```text
//! serve (listen) -> accept + TLS (acceptor) -> Connection -> HttpEngine -> Director -> Pools -> MeshUpstream
//!                                                         -> tcp
//!                -> Passthrough (never decrypts)
//! ```
//!
//! Decisions are made by a [`Director`]; nothing here chooses a route. Every bound stands as a constant beside its use.

mod acceptor;
mod apart;
mod ask;
mod behind;
mod check;
mod chooser;
mod clients;
mod connection;
mod copy;
mod director;
mod engine;
mod found;
mod gate;
mod handover;
mod http2;
mod knock;
mod limits;
mod listen;
mod lull;
mod neighbours;
mod original;
mod pace;
mod passthrough;
mod ports;
mod refusal;
mod sniff;
mod stream;
mod strict;
mod tcp;
mod tenure;
mod upstream;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;

pub use acceptor::Acceptor;
pub use apart::Apart;
pub use behind::Behind;
pub use check::Asked;
pub use chooser::{TlsChoice, TlsChooser};
pub use clients::ClientPlace;
pub use connection::Connection;
pub use copy::{Copied, copy_both, copy_tcp};
pub use director::{Arrival, DENIED, Director, Entry, TcpOutcome};
pub use engine::{EngineError, EngineParts, HttpEngine};
pub(crate) use gate::log_id;
pub use gate::time_asked;
pub use handover::{Inherited, receive_sockets, send_sockets};
pub use knock::knock;
pub use limits::{HttpLimits, TrustedField};
pub use listen::{
    Accepted, ConnectionService, ListenLimits, ListenStats, Serving, Sharing, bind, bind_beside,
    bind_of_family, open, serve,
};
pub use original::original_destination;
pub use passthrough::{NameTable, Passthrough};
pub use ports::{Observer, Picked, Picker, RequestEnd, SpanIds, TcpEnd, TraceParent, TryResult, Wanted};
pub use sniff::{Opening, sniff, sniff_tls};
pub use upstream::{ClientCertificates, ConnectFailure, DialError, MeshProtocol, MeshUpstream};
