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
/// connections also for a process that has stopped. The time that connecting took, which is one round trip.
pub async fn knock(address: SocketAddr, limit: Duration) -> io::Result<Duration> {
    let knocking = async {
        let begun = Instant::now();
        let mut tcp = outgoing::connect(address).await?;
        let round_trip = begun.elapsed();
        tcp.shutdown().await?;
        match tcp.read(&mut [0; 1]).await {
            // An end without order is an answer too.
            Ok(_) | Err(_) => Ok(round_trip),
        }
    };
    timeout(limit, knocking).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}
