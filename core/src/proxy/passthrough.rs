//! TLS passed on by server name, never decrypted: a gateway's mesh listener.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};
use futures::future::BoxFuture;
use rustls::server::Acceptor;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    Arrival, Entry, Observer, TcpEnd,
    copy::{Copied, copy_tcp},
    listen::{Accepted, ConnectionService, ListenStats},
};
use crate::outgoing;

/// A ClientHello may be this long and take this long; past either, the connection is closed.
const HELLO_SIZE: usize = 16 * 1024;
const HELLO_TIME: Duration = Duration::from_secs(5);
/// At most so many addresses are tried, each for so long.
const CANDIDATES: usize = 4;
const CONNECT: Duration = Duration::from_millis(800);
/// A connection on which nothing moves is closed after this long.
const IDLE: Duration = Duration::from_secs(3600);

/// Where a server name leads: addresses in the order in which to try them. `None`: not known here.
pub type NameTable = Arc<dyn Fn(&str) -> Option<Arc<[SocketAddr]>> + Send + Sync>;

/// Passes TLS connections on by their server name. What is not TLS, has no name or one that is not in the table, is
/// closed and counted ([`ListenStats::unknown_name`]). Who ends its side without a word is answered the same way, and looks
/// whether somebody is here: counted apart ([`ListenStats::probes`]), and not told of.
pub struct Passthrough {
    table: NameTable,
    observer: Option<Arc<dyn Observer>>,
}

impl Passthrough {
    /// `table` is asked once per connection.
    pub fn new(table: NameTable) -> Self {
        Self { table, observer: None }
    }

    /// Each connection is told of at its end.
    #[must_use]
    pub fn observed(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    fn ended(&self, end: End<'_>) {
        let Some(observer) = &self.observer else { return };
        let Ok(local) = end.accepted.tcp.local_addr() else { return };
        let plain = Arrival::plain(Arc::new(Entry::Passed), end.accepted.peer, local);
        let arrival = Arrival { sni: end.name.map(Into::into), ..plain };
        observer.tcp(&TcpEnd {
            arrival: &arrival,
            listener: None,
            route: None,
            rule: None,
            backend: None,
            endpoint: None,
            upstream: end.upstream,
            copied: end.copied,
            reason: end.reason.or_else(|| end.copied.and_then(Copied::reason)),
            duration: end.begun.elapsed(),
            verdict: None,
        });
    }

    async fn run(&self, mut accepted: Accepted) -> io::Result<()> {
        let begun = Instant::now();
        let reading = read_hello(&mut accepted.tcp);
        let hello = match tokio::time::timeout(HELLO_TIME, reading).await {
            Ok(First::Nothing) => {
                ListenStats::count(&accepted.stats.probes);
                return Ok(());
            }
            Ok(First::Hello(hello)) => Some(hello),
            Ok(First::Other) | Err(_) => None,
        };
        let name = hello.as_ref().and_then(|hello| hello.name.as_deref());
        let Some((hello, addresses)) = hello.as_ref().zip(name.and_then(|name| (self.table)(name))) else {
            ListenStats::count(&accepted.stats.unknown_name);
            let reason = Some(if name.is_some() { "unknown_name" } else { "no_server_name" });
            self.ended(End { accepted: &accepted, name, upstream: None, copied: None, reason, begun });
            return Ok(());
        };
        let mut upstream = match connect(&addresses).await {
            Ok(upstream) => upstream,
            Err(error) => {
                let reason = Some("connect_failed");
                self.ended(End { accepted: &accepted, name, upstream: None, copied: None, reason, begun });
                return Err(error);
            }
        };
        upstream.write_all(&hello.bytes).await?;
        let mut copied = copy_tcp(&mut accepted.tcp, &mut upstream, IDLE).await;
        copied.sent += hello.bytes.len() as u64;
        let upstream = upstream.peer_addr().ok();
        self.ended(End { accepted: &accepted, name, upstream, copied: Some(&copied), reason: None, begun });
        copied.end
    }
}

/// How a connection ended.
struct End<'a> {
    accepted: &'a Accepted,
    name: Option<&'a str>,
    upstream: Option<SocketAddr>,
    copied: Option<&'a Copied>,
    reason: Option<&'static str>,
    begun: Instant,
}

impl ConnectionService for Passthrough {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let peer = accepted.peer;
            if let Err(error) = self.run(accepted).await {
                tracing::debug!(%peer, %error, "passthrough ended");
            }
        })
    }
}

async fn connect(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in addresses.iter().take(CANDIDATES) {
        match tokio::time::timeout(CONNECT, outgoing::connect(*address)).await {
            Ok(Ok(tcp)) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Ok(Err(error)) => last = error,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// A ClientHello as it came.
struct Hello {
    name: Option<String>,
    bytes: Bytes,
}

/// What a connection begins with.
enum First {
    Hello(Hello),
    /// It ended in order before it began.
    Nothing,
    /// Not TLS, too long, or ended before it was whole.
    Other,
}

async fn read_hello(tcp: &mut TcpStream) -> First {
    let mut bytes = BytesMut::with_capacity(1024);
    match tcp.read_buf(&mut bytes).await {
        Ok(0) => First::Nothing,
        Ok(_) => read_whole(tcp, bytes).await.map_or(First::Other, First::Hello),
        Err(_) => First::Other,
    }
}

/// Reads a ClientHello to its end, from one or several records.
async fn read_whole(tcp: &mut TcpStream, mut bytes: BytesMut) -> Option<Hello> {
    let mut parser = Acceptor::default();
    let mut known = 0;
    loop {
        let mut fresh = bytes.get(known..)?;
        while !fresh.is_empty() {
            parser.read_tls(&mut fresh).ok()?;
            if let Some(accepted) = parser.accept().ok()? {
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                return Some(Hello { name, bytes: bytes.freeze() });
            }
        }
        known = bytes.len();
        if known >= HELLO_SIZE || tcp.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

impl fmt::Debug for Passthrough {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Passthrough")
    }
}
