//! Connections of which nobody says what is spoken: found out by who speaks first, and how.

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use futures::future::BoxFuture;

use super::{
    Accepted, Arrival, Connection, ConnectionService, Entry, Opening,
    connection::{Replay, Wire},
    sniff,
    tcp::{self, Opened, Tunnels, Unopened},
};

/// A client that speaks first has mostly done so by now. One that has not may wait for the server, which is connected to so
/// that it can speak: a protocol in which servers do pays this once for each connection.
const AT_ONCE: Duration = Duration::from_millis(5);
/// Where no server is to be heard (none is there, or it lets nobody in but by HTTP), a client has so long to begin.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves them.
pub(super) struct Found {
    pub tunnels: Arc<Tunnels>,
    pub http: Arc<dyn ConnectionService>,
    pub http2: Arc<dyn ConnectionService>,
    /// Of raw connections.
    pub entry: Arc<Entry>,
}

/// A tunnel, if one was asked for.
type Tunnel = Option<Result<Opened, Unopened>>;

impl Found {
    async fn run(&self, mut accepted: Accepted) -> io::Result<()> {
        let begun = Instant::now();
        let mut arrival = Arrival::plain(Arc::clone(&self.entry), accepted.peer, accepted.tcp.local_addr()?);
        let mut ahead = BytesMut::from(std::mem::take(&mut accepted.prefix));
        let (mut opening, mut tunnel) = (sniff(&mut accepted.tcp, &mut ahead, AT_ONCE).await?, None);
        if opening == Opening::Silent {
            (opening, tunnel) = Box::pin(self.first(&mut accepted, &mut ahead, &arrival)).await?;
        }
        accepted.prefix = ahead.freeze();
        let http = match opening {
            Opening::Http1 => Some(&self.http),
            Opening::Http2 => Some(&self.http2),
            Opening::Tls(name) => {
                arrival.sni = name;
                None
            }
            Opening::Other | Opening::Silent => None,
        };
        match http {
            Some(http) => {
                if let Some(Ok(opened)) = tunnel {
                    opened.close().await;
                }
                Arc::clone(http).serve(accepted).await;
            }
            None => Box::pin(self.tunnel(accepted, arrival, tunnel, begun)).await,
        }
        Ok(())
    }

    /// Waits for the first to speak. It is the server where the client is found to be silent.
    async fn first(
        &self,
        accepted: &mut Accepted,
        ahead: &mut BytesMut,
        arrival: &Arrival,
    ) -> io::Result<(Opening, Tunnel)> {
        let (mut stop, mut tunnel) = (accepted.stop.clone(), None);
        let server = async {
            let speaks = match tunnel.insert(self.tunnels.open(arrival, &mut stop).await) {
                Ok(opened) => opened.speaks().await,
                Err(_) => false,
            };
            if !speaks {
                tokio::time::sleep(PATIENCE).await;
            }
        };
        let opening = tokio::select! {
            biased;
            opening = sniff(&mut accepted.tcp, ahead, tcp::IDLE) => opening?,
            () = server => Opening::Silent,
        };
        Ok((opening, tunnel))
    }

    async fn tunnel(&self, accepted: Accepted, arrival: Arrival, tunnel: Tunnel, begun: Instant) {
        let (arrival, mut stop) = (Arc::new(arrival), accepted.stop);
        let wire = Wire::Plain(Replay::new(accepted.prefix, accepted.tcp));
        let near = Connection::downstream(wire, Arc::clone(&arrival), false);
        match tunnel {
            Some(opened) => self.tunnels.go_on(near, opened, &arrival, begun).await,
            None => self.tunnels.run(near, &arrival, &mut stop, begun).await,
        }
    }
}

impl ConnectionService for Found {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let peer = accepted.peer;
            if let Err(error) = self.run(accepted).await {
                tracing::debug!(%peer, %error, "a client is gone before it was heard");
            }
        })
    }
}
