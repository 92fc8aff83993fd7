//! Whether a gateway is there: the other side of what [`super::Passthrough`] answers to who says nothing.

use std::{
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::outgoing;

/// Connects to a mesh listener, ends its own side at once, and waits for the other side to end too: the kernel takes
/// connections also for a process that has stopped. The time that connecting took, which is one round trip. A connection
/// that is reset is an error: a mesh listener ends in order, a balancer in front of one that is gone may not.
pub async fn knock(address: SocketAddr, limit: Duration) -> io::Result<Duration> {
    let knocking = async {
        let begun = Instant::now();
        let mut tcp = outgoing::connect(address).await?;
        let round_trip = begun.elapsed();
        tcp.shutdown().await?;
        tcp.read(&mut [0; 1]).await.map(|_| round_trip)
    };
    timeout(limit, knocking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
