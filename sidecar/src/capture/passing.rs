//! Connections to others than the mesh: passed on untouched, or refused.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use dashmap::DashSet;
use tokio::{io::AsyncWriteExt, net::TcpStream, time::timeout};
use tombolo_core::{
    outgoing,
    proxy::{Accepted, Arrival, Copied, Entry, Observer, Opening, TcpEnd, copy_tcp, sniff_tls},
};

use super::Unknown;

/// A destination that does not take a connection within this time is not there.
const CONNECT: Duration = Duration::from_secs(10);
/// A connection on which nothing moves is closed after this long.
const IDLE: Duration = Duration::from_secs(3600);

/// Passes connections on.
pub(crate) struct Passing {
    unknown: Unknown,
    observer: Arc<dyn Observer>,
    /// The near ends of the connections that were made here: who comes from one of these comes from ourselves. As many as
    /// listeners take connections.
    own: DashSet<SocketAddr>,
}

impl Passing {
    /// Nothing is passed on so far.
    pub fn new(unknown: Unknown, observer: Arc<dyn Observer>) -> Arc<Self> {
        Arc::new(Self { unknown, observer, own: DashSet::new() })
    }

    /// True if destinations that the mesh does not know are refused.
    pub fn refuses(&self) -> bool {
        self.unknown == Unknown::Refuse
    }

    /// Passes a connection on to where it was going, to its end.
    pub async fn pass(self: &Arc<Self>, accepted: Accepted, to: SocketAddr) {
        let connected = match self.refuses() {
            true => Err("unknown_destination"),
            false => self.connect(&accepted, to).await,
        };
        match connected {
            Ok(far) => self.copy(accepted, far).await,
            Err(reason) => refuse(accepted, Entry::Passed, Some(to), reason, &*self.observer),
        }
    }

    /// Connects to where it is going, unless it comes from here.
    pub async fn connect(self: &Arc<Self>, accepted: &Accepted, to: SocketAddr) -> Result<Far, &'static str> {
        if self.own.contains(&accepted.peer) {
            return Err(is_loop(to));
        }
        let begun = Instant::now();
        let (tcp, own) = self.dial(to).await.map_err(|_| "connect_failed")?;
        // One that was accepted before its other end had come to the line above is known by now.
        if self.own.contains(&accepted.peer) {
            return Err(is_loop(to));
        }
        Ok(Far { tcp, to, begun, _own: own })
    }

    /// Copies to the end of both. What was read of the near one is sent first. Where it begins with TLS, the server name is told
    /// at the end; it leads nowhere, as anybody can ask for any name.
    pub async fn copy(&self, mut accepted: Accepted, far: Far) {
        let mut ahead = BytesMut::from(std::mem::take(&mut accepted.prefix));
        let sni = tokio::select! {
            biased;
            opening = sniff_tls(&mut accepted.tcp, &mut ahead, IDLE) => match opening {
                Ok(Opening::Tls(name)) => name,
                // Who is gone is found out by the copying.
                _ => None,
            },
            // A server that speaks first is not kept waiting.
            _ = far.tcp.readable() => None,
        };
        let arrival = Arrival { sni, ..arrival(&accepted, Entry::Passed) };
        let (Accepted { mut tcp, .. }, Far { tcp: mut far, to, begun, _own }) = (accepted, far);
        let copied = match far.write_all(&ahead).await {
            Ok(()) => {
                let copied = copy_tcp(&mut tcp, &mut far, IDLE).await;
                Copied { sent: copied.sent + ahead.len() as u64, ..copied }
            }
            Err(error) => Copied { sent: 0, received: 0, end: Err(error) },
        };
        self.observer.tcp(&TcpEnd {
            arrival: &arrival,
            listener: None,
            route: None,
            rule: None,
            backend: None,
            endpoint: None,
            upstream: Some(to),
            copied: Some(&copied),
            reason: copied.reason(),
            duration: begun.elapsed(),
            verdict: None,
        });
    }

    async fn dial(self: &Arc<Self>, to: SocketAddr) -> io::Result<(TcpStream, Own)> {
        let tcp = timeout(CONNECT, outgoing::connect(to)).await??;
        tcp.set_nodelay(true)?;
        let local = tcp.local_addr()?;
        self.own.insert(local);
        Ok((tcp, Own { passing: Arc::clone(self), local }))
    }
}

fn is_loop(to: SocketAddr) -> &'static str {
    tracing::error!(%to, "this sidecar's own connection was captured: except its user from `tombolo sidecar init`");
    "loop"
}

/// The other end of a connection that is passed on.
pub(crate) struct Far {
    tcp: TcpStream,
    to: SocketAddr,
    begun: Instant,
    _own: Own,
}

/// A connection of our own, for as long as it is open.
struct Own {
    passing: Arc<Passing>,
    local: SocketAddr,
}

impl Drop for Own {
    fn drop(&mut self) {
        self.passing.own.remove(&self.local);
    }
}

/// Resets a connection, and says why in the access log.
pub(crate) fn refuse(
    accepted: Accepted,
    entry: Entry,
    to: Option<SocketAddr>,
    reason: &'static str,
    observer: &dyn Observer,
) {
    observer.tcp(&TcpEnd {
        arrival: &arrival(&accepted, entry),
        listener: None,
        route: None,
        rule: None,
        backend: None,
        endpoint: None,
        upstream: to,
        copied: None,
        reason: Some(reason),
        duration: Duration::ZERO,
        verdict: None,
    });
    // Where it fails, the connection is closed all the same.
    let _ = accepted.tcp.set_zero_linger();
}

fn arrival(accepted: &Accepted, entry: Entry) -> Arrival {
    let local = accepted.tcp.local_addr().unwrap_or(accepted.peer);
    Arrival::plain(Arc::new(entry), accepted.peer, local)
}
