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
#[allow(dead_code)] // The engine, which uses the rest, lands next.
mod connection;
mod copy;
mod director;
mod listen;
mod passthrough;

pub use acceptor::Acceptor;
pub use connection::Connection;
pub use copy::{Copied, copy_both};
pub use director::{Arrival, Director, Entry, TcpOutcome};
pub use listen::{Accepted, ConnectionService, ListenLimits, ListenStats, Serving, bind, serve};
pub use passthrough::{NameTable, Passthrough};

// What lands next, for those who build on it:
//
//   pub struct EngineParts { snapshot: Arc<ArcSwap<Snapshot>>, pools: Arc<Pools>, upstream: Arc<MeshUpstream>,
//                            telemetry: Arc<Telemetry>, director: Arc<dyn Director> }
//   HttpEngine::new(EngineParts) -> Arc<HttpEngine>      one for all listeners of a kind: they share connections
//   HttpEngine::http(&Arc<Self>, Acceptor, Entry) -> Arc<dyn ConnectionService>   h1, h2, h2c; mesh-tcp by ALPN
//   HttpEngine::tcp(&Arc<Self>, Acceptor, Entry) -> Arc<dyn ConnectionService>    never parsed
//   MeshUpstream::new(Option<identity::Watch>, Arc<ArcSwap<Snapshot>>) -> Arc<MeshUpstream>
//   serve(bind(address)?, engine.http(..), ListenLimits::default(), drain_watch) -> Serving { address, stop, drained }
