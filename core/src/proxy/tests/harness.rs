//! A small language for these tests: applications, clusters with gateways and sidecars, and clients.

use std::{
    collections::HashMap,
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::watch};

use crate::{
    decide::{ArmReason, Backend, BindKey, Caller, Decision, Filters, Outcome, RequestHead, Retry, Timeouts},
    identity::Credentials,
    model::{
        AppProtocol, Endpoint, EndpointHealth, Labels, Locality, Reach, Scope, ServiceKey, Snapshot,
        SpiffeId, Transport, TrustBundles,
    },
    proxy::*,
    tls,
};

/// Nothing here may take longer.
pub const SOON: Duration = Duration::from_secs(10);

/// Waits for a future, bounded.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {SOON:?}"),
    }
}

/// Waits until something holds, bounded.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    soon(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

// --- Applications ---

/// A request as an application saw it.
#[derive(Debug, Clone)]
pub struct Seen {
    pub target: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An application that records what it sees and answers as told.
pub struct App {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    connections: Arc<AtomicUsize>,
}

impl App {
    /// Answers 200 with its name.
    pub async fn named(name: &'static str) -> Self {
        Self::answering(move |_| async move { Response::new(Full::from(name)) }).await
    }

    /// Answers as `handler` says. Speaks HTTP/1.1 and h2c.
    pub async fn answering<H, F>(handler: H) -> Self
    where
        H: Fn(Seen) -> F + Clone + Send + Sync + 'static,
        F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let app = Self {
            address: listener.local_addr().unwrap(),
            seen: Arc::default(),
            connections: Arc::default(),
        };
        let (seen, connections) = (app.seen.clone(), app.connections.clone());
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                connections.fetch_add(1, Ordering::SeqCst);
                let (seen, handler) = (seen.clone(), handler.clone());
                let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                    let (seen, handler) = (seen.clone(), handler.clone());
                    async move {
                        let (parts, body) = request.into_parts();
                        let body = body.collect().await.map(|b| b.to_bytes()).unwrap_or_default();
                        let target = parts.uri.to_string();
                        let request = Seen { target, headers: parts.headers, body };
                        seen.lock().unwrap().push(request.clone());
                        Ok::<_, std::convert::Infallible>(handler(request).await)
                    }
                });
                let auto = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                tokio::spawn(async move { auto.serve_connection(TokioIo::new(tcp), service).await.ok() });
            }
        });
        app
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    pub fn last(&self) -> Seen {
        self.seen().pop().expect("the application was asked")
    }

    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An address at which nobody listens.
pub async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

// --- What the engine needs ---

pub fn service(name: &str) -> ServiceKey {
    ServiceKey::new(Scope::Cluster, "shop", name).unwrap()
}

pub fn plain(address: SocketAddr) -> Endpoint {
    Endpoint {
        id: address.to_string().into(),
        reach: Reach::Direct(address),
        transport: Transport::Plaintext,
        cluster: "east".into(),
        locality: Locality::default(),
        weight: 1,
        labels: Labels::new(),
        lane: None,
        health: EndpointHealth::Healthy,
        stale: false,
        target_port: address.port(),
        exported: false,
    }
}

pub fn meshed(address: SocketAddr, identity: SpiffeId) -> Endpoint {
    let sni = format!("{:032x}.t", address.port()).into();
    Endpoint { transport: Transport::Mesh { identity, sni }, ..plain(address) }
}

/// Picks the endpoints of a service in their order, from the first that is not to be avoided.
#[derive(Default)]
pub struct Listed {
    pub endpoints: Mutex<HashMap<ServiceKey, Vec<Arc<Endpoint>>>>,
    pub finished: Arc<Mutex<Vec<(String, TryResult)>>>,
}

struct Held {
    endpoint: Arc<Endpoint>,
    finished: Arc<Mutex<Vec<(String, TryResult)>>>,
}

impl Picker for Listed {
    fn pick(&self, wanted: &Wanted<'_>, _now: Instant) -> Result<Box<dyn Picked>, &'static str> {
        let endpoints = self.endpoints.lock().unwrap();
        let all = endpoints.get(wanted.service).ok_or("unknown_service")?;
        let endpoint =
            all.iter().find(|e| !wanted.avoid.contains(&e.id)).or(all.first()).ok_or("no_endpoint")?;
        Ok(Box::new(Held { endpoint: endpoint.clone(), finished: self.finished.clone() }))
    }
}

impl Picked for Held {
    fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }
    fn is_probe(&self) -> bool {
        self.endpoint.labels.contains_key("ejected")
    }
    fn finish(self: Box<Self>, result: TryResult, _latency: Duration, _now: Instant) {
        self.finished.lock().unwrap().push((self.endpoint.id.to_string(), result));
    }
}

/// A request's end, owned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    pub status: u16,
    pub reason: Option<&'static str>,
    pub tries: u8,
    pub host: String,
    pub path: String,
    pub version: http::Version,
    /// Of a gRPC call.
    pub grpc: Option<Option<u16>>,
}

/// A tunnel's end: bytes there and back, and what went wrong.
pub type Tunnel = (Option<(u64, u64)>, Option<&'static str>);

#[derive(Default)]
pub struct Log {
    pub requests: Mutex<Vec<Logged>>,
    pub tunnels: Mutex<Vec<Tunnel>>,
}

impl Observer for Log {
    fn request(&self, end: &RequestEnd<'_>) {
        self.requests.lock().unwrap().push(Logged {
            status: end.status,
            reason: end.reason,
            tries: end.tries,
            host: end.host.into(),
            path: end.path.into(),
            version: end.version,
            grpc: end.grpc,
        });
    }
    fn tcp(&self, end: &TcpEnd<'_>) {
        let copied = end.copied.map(|copied| (copied.sent, copied.received));
        self.tunnels.lock().unwrap().push((copied, end.reason));
    }
}

/// Forwards to `service("app")`, with what a test changes.
pub fn forward() -> Decision {
    Decision {
        route: "httproute/shop/app".into(),
        rule: "0".into(),
        release: None,
        arm: None,
        reason: ArmReason::None,
        lane: None,
        backend: Backend::Service {
            service: service("app"),
            port: 80,
            labels: Arc::default(),
            protocol: AppProtocol::Http1,
        },
        filters: Arc::new(Filters::default()),
        timeouts: Timeouts::default(),
        retry: Retry::default(),
        set_cookie: None,
        unavailable: None,
        sticky: None,
        cors: None,
        hash: None,
        delay: None,
        mirrors: Arc::from([]),
        tls: Default::default(),
        policies: Default::default(),
        verdict: None,
    }
}

pub fn over_http2() -> Decision {
    let labels = Arc::default();
    let backend =
        Backend::Service { service: service("app"), port: 80, labels, protocol: AppProtocol::Http2 };
    Decision { backend, ..forward() }
}

pub fn to_address(address: SocketAddr, protocol: AppProtocol) -> Decision {
    Decision { backend: Backend::Address { address, protocol }, ..forward() }
}

type Decide = Box<dyn Fn(&RequestHead<'_>, &Caller<'_>) -> Outcome + Send + Sync>;

struct Fixed {
    http: Decide,
    tcp: TcpOutcome,
}

impl Director for Fixed {
    fn direct(&self, _: &Snapshot, _: &Arrival, head: &RequestHead<'_>, caller: &Caller<'_>) -> Outcome {
        (self.http)(head, caller)
    }
    fn direct_tcp(&self, _: &Snapshot, _: &Arrival, _: &Caller<'_>) -> TcpOutcome {
        self.tcp.clone()
    }
}

// --- Proxies ---

/// A proxy with everything around it.
pub struct Proxy {
    pub engine: Arc<HttpEngine>,
    pub picker: Arc<Listed>,
    pub log: Arc<Log>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub upstream: Arc<MeshUpstream>,
    pub identity: Option<watch::Sender<Arc<Credentials>>>,
    pub drain: watch::Sender<bool>,
}

/// What a proxy is made from.
#[derive(Default)]
pub struct Setup {
    pub identity: Option<Arc<Credentials>>,
    pub trust: Arc<TrustBundles>,
    pub tcp: Option<Backend>,
    pub limits: HttpLimits,
    pub quotas: Option<Arc<crate::quota::Quotas>>,
    pub paths: Option<Arc<crate::paths::Paths>>,
}

impl Setup {
    pub fn decides(
        self,
        http: impl Fn(&RequestHead<'_>, &Caller<'_>) -> Outcome + Send + Sync + 'static,
    ) -> Proxy {
        let snapshot = Snapshot { trust: self.trust, ..Snapshot::default() };
        let snapshot = Arc::new(ArcSwap::from_pointee(snapshot));
        let identity = self.identity.map(|credentials| watch::channel(credentials).0);
        let watched = identity.as_ref().map(watch::Sender::subscribe);
        let tcp = self.tcp.map_or(TcpOutcome::Refuse("refused"), TcpOutcome::Forward);
        let (picker, log) = (Arc::new(Listed::default()), Arc::new(Log::default()));
        let paths = self.paths.unwrap_or_else(|| Arc::new(crate::paths::Paths::new(Instant::now())));
        let upstream = MeshUpstream::along(paths, watched, snapshot.clone(), Arc::default());
        let parts = EngineParts {
            snapshot: snapshot.clone(),
            director: Arc::new(Fixed { http: Box::new(http), tcp }),
            picker: picker.clone(),
            upstream: upstream.clone(),
            observer: log.clone(),
            quotas: self.quotas.unwrap_or_else(crate::quota::Quotas::alone),
        };
        let engine = HttpEngine::within(parts, self.limits).unwrap();
        Proxy { engine, picker, log, snapshot, upstream, identity, drain: watch::channel(false).0 }
    }

    /// The callbacks alone.
    pub fn gate(self, decision: Decision) -> super::super::gate::Gate {
        let snapshot: Arc<ArcSwap<Snapshot>> = Arc::default();
        let forward = move |_: &RequestHead<'_>, _: &Caller<'_>| Outcome::Forward(Box::new(decision.clone()));
        let parts = EngineParts {
            snapshot: snapshot.clone(),
            director: Arc::new(Fixed { http: Box::new(forward), tcp: TcpOutcome::Refuse("refused") }),
            picker: Arc::new(Listed::default()),
            upstream: MeshUpstream::new(None, snapshot),
            observer: Arc::new(Log::default()),
            quotas: crate::quota::Quotas::alone(),
        };
        super::super::gate::Gate::new(parts, self.limits, Arc::default())
    }

    pub fn forwards(self, decision: Decision) -> Proxy {
        self.decides(move |_, _| Outcome::Forward(Box::new(decision.clone())))
    }
}

pub fn edge() -> Entry {
    Entry::Edge(BindKey { address: None, port: 80 })
}

pub fn outbound() -> Entry {
    Entry::Outbound { service: service("app"), port: 80, http2: false, host: None }
}

impl Proxy {
    /// Sets the endpoints of `service("app")`.
    pub fn with(self, endpoints: impl IntoIterator<Item = Endpoint>) -> Self {
        let endpoints = endpoints.into_iter().map(Arc::new).collect();
        self.picker.endpoints.lock().unwrap().insert(service("app"), endpoints);
        self
    }

    pub fn listen(&self, service: Arc<dyn ConnectionService>) -> Serving {
        self.listen_within(service, ListenLimits::default())
    }

    pub fn listen_within(&self, service: Arc<dyn ConnectionService>, limits: ListenLimits) -> Serving {
        let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        serve(listener, service, limits, self.drain.subscribe()).unwrap()
    }

    /// A plaintext edge listener.
    pub fn edge(&self) -> Serving {
        self.listen(self.engine.http(Acceptor::Plain, edge()))
    }

    /// A plaintext outbound listener.
    pub fn outbound(&self) -> Serving {
        self.listen(self.engine.http(Acceptor::Plain, outbound()))
    }

    /// A mesh inbound listener.
    pub fn inbound(&self) -> Serving {
        let identity = self.identity.as_ref().unwrap().borrow().clone();
        let trust = self.snapshot.load().trust.clone();
        let config = tls::mesh_server(identity, trust, &["mesh-h1", "mesh-h2", "mesh-tcp"]).unwrap();
        self.listen(self.engine.http(Acceptor::Tls(Arc::new(ArcSwap::new(config))), Entry::Inbound))
    }

    pub async fn logged(&self) -> Logged {
        until("a request is logged", || !self.log.requests.lock().unwrap().is_empty()).await;
        self.log.requests.lock().unwrap().last().unwrap().clone()
    }

    pub fn tried(&self) -> Vec<(String, TryResult)> {
        self.picker.finished.lock().unwrap().clone()
    }
}
