//! The engine: takes accepted connections and serves what is spoken on them.

mod relay;

use std::{
    fmt, io,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use pingora_core::{
    apps::{HttpPersistentSettings, HttpServerApp, HttpServerOptions},
    protocols::http::ServerSession,
    server::configuration::ServerConf,
};
use pingora_proxy::{HttpProxy, ProxyServiceBuilder, Session};
use tokio::sync::watch;

use super::{
    Acceptor, Arrival, Connection, ConnectionService, Director, Entry, HttpLimits, MeshUpstream, Observer,
    Picker,
    acceptor::Spoken,
    connection::Unread,
    found::Found,
    gate::{Crowds, Gate},
    http2::Http2,
    listen::{Accepted, ListenStats, signalled},
    lull::Lull,
    refusal::{self, Refusal},
    strict::{HeadScan, Refused},
    tcp,
    tenure::Tenures,
    upstream::MeshConnector,
};
use crate::{model::Snapshot, quota::Quotas};
pub(super) use relay::Relay;

/// An idle HTTP/1.1 connection of a listener that drains is kept so long: a request that is already on its way to it is
/// still answered, with `connection: close`, where closing at once would lose it (RFC 9112 section 9.5).
pub(super) const LAST_REQUEST: Duration = Duration::from_secs(3);
/// A hard stop above every `Retry::attempts`, which is 10 at most.
const TRIES: usize = 16;
/// The first bytes of HTTP/2 (RFC 9113 section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What an engine is made of.
pub struct EngineParts {
    /// From which decisions are made.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Who decides.
    pub director: Arc<dyn Director>,
    /// Who picks endpoints.
    pub picker: Arc<dyn Picker>,
    /// Who connects to them.
    pub upstream: Arc<MeshUpstream>,
    /// Who is told what happened.
    pub observer: Arc<dyn Observer>,
    /// This process's shares of limits that the cluster holds together.
    pub quotas: Arc<Quotas>,
}

type Proxy = HttpProxy<Gate, MeshConnector>;

/// Serves HTTP/1.1, HTTP/2 and raw TCP. Make one per director: listeners that share an engine share its pooled upstream
/// connections.
pub struct HttpEngine {
    proxy: Arc<Proxy>,
    relay: Arc<Relay>,
    tcp: Arc<tcp::Tunnels>,
    observer: Arc<dyn Observer>,
    limits: HttpLimits,
    tenures: Arc<Tenures>,
}

/// The engine cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("the HTTP engine cannot be set up: {0}")]
pub struct EngineError(String);

impl HttpEngine {
    /// Makes an engine. Call it inside a tokio runtime.
    pub fn new(parts: EngineParts) -> Result<Arc<Self>, EngineError> {
        Self::within(parts, HttpLimits::default())
    }

    /// Makes an engine with bounds of its own.
    pub fn within(parts: EngineParts, limits: HttpLimits) -> Result<Arc<Self>, EngineError> {
        let crowds = Arc::<Crowds>::default();
        let tcp = Arc::new(tcp::Tunnels {
            snapshot: parts.snapshot.clone(),
            director: parts.director.clone(),
            picker: parts.picker.clone(),
            upstream: parts.upstream.clone(),
            observer: parts.observer.clone(),
            crowds: Arc::clone(&crowds),
        });
        let connector = MeshConnector::new(parts.upstream.clone());
        let (observer, tenures) = (parts.observer.clone(), Arc::clone(parts.upstream.tenures()));
        tenures.keep(Arc::clone(&parts.snapshot));
        let gate = Gate::new(parts, limits.clone(), crowds);
        let relay = Arc::new(Relay::new(gate.clone(), connector.clone()));
        let proxy = Arc::new(build(gate, connector)?);
        Ok(Arc::new(Self { proxy, relay, tcp, observer, limits, tenures }))
    }

    /// A listener's service: HTTP/1.1 and HTTP/2 by ALPN or, in plaintext, by what the client begins with; raw TCP where
    /// a mesh peer asks for it by ALPN.
    pub fn http(self: &Arc<Self>, acceptor: Acceptor, entry: Entry) -> Arc<dyn ConnectionService> {
        Arc::new(Listener { engine: self.clone(), acceptor, entry: Arc::new(entry), raw: false })
    }

    /// A listener's service: bytes that are not parsed.
    pub fn tcp(self: &Arc<Self>, acceptor: Acceptor, entry: Entry) -> Arc<dyn ConnectionService> {
        Arc::new(Listener { engine: self.clone(), acceptor, entry: Arc::new(entry), raw: true })
    }

    /// The service of a plaintext port of which nobody says what is spoken: HTTP/1.1 or HTTP/2 where the client begins with it
    /// before the server has spoken, else bytes that are not parsed. To hear whether the server speaks first, it is connected
    /// to while the client is silent. `entry` is told whether HTTP/2 was found.
    pub fn found(self: &Arc<Self>, entry: impl Fn(bool) -> Entry) -> Arc<dyn ConnectionService> {
        Arc::new(Found {
            tunnels: Arc::clone(&self.tcp),
            http: self.http(Acceptor::Plain, entry(false)),
            http2: self.http(Acceptor::Plain, entry(true)),
            entry: Arc::new(entry(false)),
        })
    }

    async fn http1(
        &self,
        mut connection: Box<Connection>,
        arrival: &Arrival,
        stop: watch::Receiver<bool>,
        stats: &ListenStats,
    ) {
        let head = connection.head();
        let mut lull = Lull::new(stop.clone(), self.limits.idle);
        let mut settings: Option<HttpPersistentSettings> = None;
        while lull.ends_in_request(&mut connection).await {
            let begun = Instant::now();
            connection.begin_head(self.limits.head_time);
            let mut scan = HeadScan::default();
            let tunnel = match connection.read_head(&mut scan, &self.limits).await {
                Ok(tunnel) => tunnel,
                Err(Unread::Gone) => return ListenStats::count(&stats.bad_heads),
                Err(Unread::Refused(refused)) => {
                    refusal::count(stats, refused);
                    let refusal = Refusal { arrival, refused, begun };
                    return Box::pin(refusal.answer(*connection, &scan, &*self.observer)).await;
                }
            };
            let reused = if tunnel {
                let mut session = ServerSession::new_http1(connection);
                self.keep_alive(&mut session, settings.take());
                self.proxy.process_new_http(session, &stop).await
            } else {
                connection.begin_flow();
                let mut session = Session::new_h1(connection);
                self.keep_alive(&mut session.downstream_session, settings.take());
                Box::pin(self.relay.serve(session, &stop)).await
            };
            let Some(reused) = reused else {
                // The engine refuses what was found good here: nobody has logged it yet.
                if head.is_some_and(|head| head.is_open()) {
                    let refused = Refused { status: 400, reason: "bad_request" };
                    refusal::count(stats, refused);
                    Refusal { arrival, refused, begun }.log(&*self.observer);
                }
                break;
            };
            let (stream, kept) = reused.consume();
            let Ok(next) = stream.into_any().downcast::<Connection>() else { break };
            if !next.is_message_read() {
                break;
            }
            (connection, settings) = (next, kept);
        }
    }

    /// The connection outlives the request, as far as the one before it has not said otherwise.
    fn keep_alive(&self, session: &mut ServerSession, settings: Option<HttpPersistentSettings>) {
        session.set_keepalive(Some(self.limits.idle.as_secs()));
        if let Some(settings) = settings {
            settings.apply_to_session(session);
        }
    }
}

/// Reads more; where the listener drains, only what comes soon.
async fn fill_or_stop(connection: &mut Connection, stop: &mut watch::Receiver<bool>) -> io::Result<usize> {
    tokio::select! {
        biased;
        read = connection.fill() => return read,
        () = signalled(stop) => {}
    }
    let late = || io::Error::from(io::ErrorKind::UnexpectedEof);
    tokio::time::timeout(LAST_REQUEST, connection.fill()).await.unwrap_or_else(|_| Err(late()))
}

/// What a plaintext client speaks, by its first bytes: only as many are waited for as tell it.
async fn sniff(connection: &mut Connection, stop: &mut watch::Receiver<bool>) -> io::Result<Spoken> {
    loop {
        let ahead = connection.ahead();
        let seen = ahead.len().min(H2_PREFACE.len());
        if ahead.get(..seen) != H2_PREFACE.get(..seen) {
            return Ok(Spoken::Http1);
        }
        if seen == H2_PREFACE.len() {
            return Ok(Spoken::Http2);
        }
        if fill_or_stop(connection, stop).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// One listener of an engine.
struct Listener {
    engine: Arc<HttpEngine>,
    acceptor: Acceptor,
    entry: Arc<Entry>,
    raw: bool,
}

impl Listener {
    async fn run(&self, accepted: Accepted) {
        let begun = Instant::now();
        let (stop, stats, peer) = (accepted.stop.clone(), accepted.stats.clone(), accepted.peer);
        // What is needed once, or by other protocols, is not held for as long as the connection lives.
        match Box::pin(self.acceptor.accept(
            accepted,
            self.entry.clone(),
            self.engine.limits.handshake,
            &self.engine.tenures,
        ))
        .await
        {
            Ok((connection, arrival, spoken)) => {
                self.serve_spoken(connection, &arrival, spoken, stop, &stats, begun).await;
            }
            Err(error) => {
                tracing::debug!(%peer, %error, "handshake failed");
                ListenStats::count(&stats.handshake_failed);
            }
        }
    }

    async fn serve_spoken(
        &self,
        mut connection: Connection,
        arrival: &Arrival,
        mut spoken: Spoken,
        mut stop: watch::Receiver<bool>,
        stats: &ListenStats,
        begun: Instant,
    ) {
        if self.raw {
            spoken = Spoken::Tcp;
        }
        if spoken == Spoken::Unknown {
            let limits = &self.engine.limits;
            if !Lull::new(stop.clone(), limits.idle).ends_in_request(&mut connection).await {
                return;
            }
            connection.begin_head(limits.head_time);
            match sniff(&mut connection, &mut stop.clone()).await {
                Ok(sniffed) => spoken = sniffed,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    return ListenStats::count(&stats.head_timeouts);
                }
                Err(_) => return,
            }
        }
        match spoken {
            Spoken::Http2 => {
                let engine = &self.engine;
                let (relay, limits, observer) = (&engine.relay, &engine.limits, &engine.observer);
                let http2 = Http2 { relay, limits, observer, arrival, stats };
                Box::pin(http2.serve(connection, stop)).await;
            }
            Spoken::Tcp => Box::pin(self.engine.tcp.run(connection, arrival, &mut stop, begun)).await,
            Spoken::Http1 | Spoken::Unknown => {
                Box::pin(self.engine.http1(Box::new(connection), arrival, stop, stats)).await;
            }
        }
    }
}

impl ConnectionService for Listener {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move { self.run(accepted).await })
    }
}

/// pingora's proxy with our connector. Its constructor is private and its builder gives it only inside a `Service`.
fn build(gate: Gate, connector: MeshConnector) -> Result<Proxy, EngineError> {
    let conf = Arc::new(ServerConf {
        // An empty store: without a file, the system's roots are loaded at each start, and it panics where there are none.
        // TLS upstream is our own; nothing is ever verified by this store.
        ca_file: Some("/dev/null".into()),
        max_retries: TRIES,
        threads: 1,
        // A connection that was to be a tunnel is not used again.
        upstream_keepalive_pool_size: 1,
        ..ServerConf::default()
    });
    let mut options = HttpServerOptions::default();
    // It is refused by us, so that the access log says so.
    options.allow_connect_method_proxying = true;
    let on_custom = Arc::new(|_, _, _: &_| -> BoxFuture<'static, _> { Box::pin(async { None }) });
    let service =
        ProxyServiceBuilder::new(&conf, gate).custom(connector, on_custom).server_options(options).build();
    let missing = || EngineError("pingora made no proxy".into());
    take_proxy(service).ok_or_else(missing)
}

/// Moves the proxy out of its service.
#[allow(unsafe_code)] // pingora has no safe way to it; see below.
fn take_proxy(mut service: pingora_core::services::listening::Service<Proxy>) -> Option<Proxy> {
    let place: *const Proxy = service.app_logic_mut()?;
    // SAFETY: `place` points to the proxy that the service owns, and the service is forgotten right after, so that
    // the proxy is neither used nor dropped through it again: this is a move. What else the service holds (a name and
    // an empty list of listeners) is leaked, once per engine.
    let proxy = unsafe { std::ptr::read(place) };
    std::mem::forget(service);
    Some(proxy)
}

impl fmt::Debug for HttpEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpEngine")
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod sizes;
