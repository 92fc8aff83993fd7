//! A small language for tests of whole clusters: controllers, gateways, sidecars and applications in this process, on
//! free ports of loopback.

// Each test binary uses a part of it.
#![allow(dead_code, unused_imports)]
#![allow(clippy::unwrap_used)]

mod documents;

use std::{
    future::Future,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tombolo_core::{
    acme::Patience,
    decide::BindKey,
    identity::Token,
    lifecycle::DrainTrigger,
    member::JoinOptions,
    model::{ServiceKey, TrustDomain},
    telemetry::{AccessLog, Sink, SpanSettings, Spans, Telemetry},
};
use tombolo_proto::v1::{
    ApplyRequest, DeleteRequest, GetRequest, JoinTokenRequest, PeerJoinRequest, PeerTokenRequest,
    RotateRequest, StatusRequest, apply_request::File, delete_request::Named,
    operator_client::OperatorClient,
};
use tonic::transport::{Channel, Endpoint};

pub use documents::{exported, peer, public, service};

/// Nothing in these tests may take longer.
pub const SOON: Duration = Duration::from_secs(20);
/// The port of every service in these tests: free on the loopback addresses that sidecars use, and not privileged.
pub const PORT: u16 = 7080;

/// Waits for a future, bounded.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(SOON, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {SOON:?}"),
    }
}

/// Asks again and again until the answer is as wanted, bounded. Fails with the last answer.
pub async fn until<T, F>(what: &str, mut ask: impl FnMut() -> F, wanted: impl Fn(&T) -> bool)
where
    T: std::fmt::Debug,
    F: Future<Output = T>,
{
    let end = tokio::time::Instant::now() + SOON;
    loop {
        let answer = ask().await;
        if wanted(&answer) {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "{what}: not within {SOON:?}, but {answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn local() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

fn telemetry() -> Arc<Telemetry> {
    Arc::new(Telemetry::new(AccessLog::off()))
}

// --- Clients and applications ---

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

/// Sends `GET http://HOST/PATH` with these header fields to an address.
pub async fn get(to: SocketAddr, host: &str, path: &str, fields: &[(&str, &str)]) -> Result<Answer, String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let asking = async {
        let tcp = TcpStream::connect(to).await.map_err(|e| text(&e))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.map_err(|e| text(&e))?;
        let connection = tokio::spawn(connection);
        let mut request = Request::get(path).header("host", host);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::<Bytes>::new()).map_err(|e| text(&e))?;
        let response = sender.send_request(request).await.map_err(|e| text(&e))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|e| text(&e))?.to_bytes();
        connection.abort();
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    soon("an answer", asking).await
}

/// An application: says its name and who called it, and what the next one says.
#[derive(Clone)]
pub struct App {
    pub address: SocketAddr,
    next: Arc<Mutex<Option<(SocketAddr, String)>>>,
    serving: Arc<JoinHandle<()>>,
}

impl App {
    pub async fn new(name: &'static str) -> Self {
        let listener = TcpListener::bind(local()).await.unwrap();
        let (address, next) = (listener.local_addr().unwrap(), Arc::<Mutex<_>>::default());
        let serving = tokio::spawn(serve(name, listener, Arc::clone(&next)));
        Self { address, next, serving: Arc::new(serving) }
    }

    /// One that somebody else serves.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, next: Arc::default(), serving: Arc::new(tokio::spawn(async {})) }
    }

    /// Ends at once, as a killed process does: its connections break.
    pub fn kill(&self) {
        self.serving.abort();
    }

    /// From now on it calls this address, by this host, whenever it is called.
    pub fn calls(&self, address: SocketAddr, host: &str) {
        *self.next.lock().unwrap() = Some((address, host.into()));
    }
}

async fn serve(name: &'static str, listener: TcpListener, next: Arc<Mutex<Option<(SocketAddr, String)>>>) {
    // Dropped with this future, and every connection with it.
    let mut connections = JoinSet::new();
    loop {
        let (tcp, _) = listener.accept().await.unwrap();
        let next = Arc::clone(&next);
        let answer = service_fn(move |request: Request<Incoming>| {
            let next = next.lock().unwrap().clone();
            async move { Ok::<_, std::convert::Infallible>(respond(name, next, &request).await) }
        });
        connections
            .spawn(hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(tcp), answer));
        while connections.try_join_next().is_some() {}
    }
}

/// `NAME<-CALLER` and, after a space, what the next one says. Passes on nothing but `traceparent`, and says in `x-left` how
/// long it was told that its caller waits.
async fn respond(
    name: &str,
    next: Option<(SocketAddr, String)>,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let field = |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let caller = field("x-forwarded-client-cert").rsplit_once("URI=").map(|(_, id)| id).unwrap_or("nobody");
    let mut said = format!("{name}<-{caller}");
    let mut status = StatusCode::OK;
    if let Some((address, host)) = next {
        match get(address, &host, "/", &[("traceparent", field("traceparent"))]).await {
            Ok(answer) => {
                said = format!("{said} {}", answer.body);
                status = answer.status;
            }
            Err(error) => {
                said = format!("{said} {error}");
                status = StatusCode::BAD_GATEWAY;
            }
        }
    }
    let mut response = Response::new(Full::from(said));
    *response.status_mut() = status;
    if let Some(left) = request.headers().get("x-tombolo-timeout") {
        response.headers_mut().insert("x-left", left.clone());
    }
    response
}

// --- Clusters ---

/// Each sidecar has a range of its own.
static RANGES: AtomicU8 = AtomicU8::new(100);

/// One cluster.
pub struct Cluster {
    pub name: &'static str,
    pub controller: Option<tombolo_federation::Running>,
    /// Where spans of the proxies go, if anywhere.
    pub collector: Option<SocketAddr>,
    options: tombolo_federation::Options,
    state: tempfile::TempDir,
}

/// A proxy that runs, and how to end it.
pub struct Proxy<R> {
    pub running: R,
    pub drain: DrainTrigger,
    pub telemetry: Arc<Telemetry>,
    /// Where its access log is.
    log: PathBuf,
}

impl<R> Proxy<R> {
    /// The value of a metric, written as it is shown; 0 if it is not.
    pub fn metric(&self, name: &str) -> u64 {
        let text = self.telemetry.encode();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Waits for a line of the access log, of this process or one of its name before it.
    pub async fn logged(&self, what: &str, wanted: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        let lines = async || -> Vec<serde_json::Value> {
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
        };
        until(what, lines, |lines| lines.iter().any(&wanted)).await;
        lines().await.into_iter().find(&wanted).unwrap()
    }
}

impl Cluster {
    /// A controller without documents.
    pub async fn start(name: &'static str) -> Self {
        Self::start_as(name, name, |_| {}).await
    }

    /// The same with another life of its members' certificates; an old root is trusted for two seconds longer than that.
    pub async fn start_with_life(name: &'static str, certificate: Duration) -> Self {
        Self::start_as(name, name, |bounds| bounds.certificate = certificate).await
    }

    /// The same on this network, with other bounds.
    pub async fn start_as(
        name: &'static str,
        network: &str,
        adapt: impl FnOnce(&mut tombolo_federation::Bounds),
    ) -> Self {
        let state = tempfile::tempdir().unwrap();
        let options = tombolo_federation::Options {
            cluster: name.into(),
            trust_domain: TrustDomain::parse(&format!("{name}.example")).unwrap(),
            state_dir: state.path().join("controller"),
            listen: local(),
            advertise: Vec::new(),
            config: Vec::new(),
            network: network.into(),
            own_ranges: Vec::new(),
            bundle_endpoint: None,
            acme_dns_hook: None,
            admin: None,
            telemetry: telemetry(),
        };
        let quick = Duration::from_millis(200);
        let patience = Patience { first: quick, challenge: quick, limited: quick, most: quick };
        let (quota_lease, skew) = (Duration::from_secs(1), Duration::from_secs(2));
        let mut bounds = tombolo_federation::Bounds { patience, quota_lease, skew, ..Default::default() };
        adapt(&mut bounds);
        let controller = tombolo_federation::start_with(options.clone(), bounds).await.unwrap();
        Self { name, controller: Some(controller), collector: None, options, state }
    }

    /// The controller ends, and everything that it held in memory.
    pub fn kill_controller(&mut self) {
        self.controller = None;
    }

    fn state(&self, of: &str) -> PathBuf {
        self.state.path().join(of)
    }

    /// With an access log of its own, and spans under its name.
    fn logging(&self, name: &str) -> (Arc<Telemetry>, PathBuf) {
        let log = self.state.path().join(format!("{name}.log"));
        let access = AccessLog::open(&Sink::File(log.clone())).unwrap();
        let spans = self.collector.map(|collector| {
            let settings = SpanSettings::to(&format!("http://{collector}"), name);
            Spans::start(SpanSettings { delay: Duration::from_millis(50), ..settings }).unwrap()
        });
        (Arc::new(Telemetry::new(access).with_spans(spans)), log)
    }

    async fn operator(&self) -> OperatorClient<Channel> {
        let socket = &self.controller.as_ref().expect("the controller lives").socket;
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        OperatorClient::new(endpoint.connect().await.unwrap())
    }

    /// `tombolo apply`.
    pub async fn apply(&self, documents: &str) {
        let files = vec![File { name: "test.yaml".into(), text: documents.into() }];
        let request = ApplyRequest { files, author: "test".into(), ..Default::default() };
        let answer = self.operator().await.apply(request).await.unwrap().into_inner();
        assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    }

    /// `tombolo delete KIND/NAME -n NAMESPACE`.
    pub async fn delete(&self, kind: &str, namespace: &str, name: &str) {
        let named = Named { kind: kind.into(), namespace: namespace.into(), name: name.into() };
        let request = DeleteRequest { named: vec![named], author: "test".into(), ..Default::default() };
        let answer = self.operator().await.delete(request).await.unwrap().into_inner();
        assert!(answer.errors.is_empty(), "{:?}", answer.errors);
    }

    /// Documents of a kind, as `tombolo get` has them.
    pub async fn documents(&self, kind: &str) -> Vec<serde_json::Value> {
        let request = GetRequest { kind: kind.into(), ..Default::default() };
        let got = self.operator().await.get(request).await.unwrap().into_inner();
        got.documents_json.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    /// `tombolo peer rotate`: who has not confirmed is waited for so long.
    pub async fn rotate(&self, lead_seconds: u32) {
        self.operator().await.rotate(RotateRequest { lead_seconds, ..Default::default() }).await.unwrap();
    }

    /// Waits until a rotation is over that began with a bundle of this sequence.
    pub async fn rotated(&self, sequence: u64) {
        let authority = async || -> serde_json::Value {
            let answer = self.operator().await.status(StatusRequest {}).await.unwrap().into_inner();
            let status: serde_json::Value = serde_json::from_str(&answer.json).unwrap();
            status["ca"].clone()
        };
        let is_over = |ca: &serde_json::Value| ca["phase"] == "steady" && ca["sequence"] == sequence + 2;
        until("the rotation is over", authority, is_over).await;
    }

    /// Joins another cluster by its token, as `tombolo peer` does.
    pub async fn peer_with(&self, other: &Self) {
        let request = PeerTokenRequest { ttl_seconds: 60, uses: 1 };
        let token = other.operator().await.peer_token(request).await.unwrap().into_inner().token;
        self.operator().await.peer_join(PeerJoinRequest { token }).await.unwrap();
    }

    /// A gateway, or a sidecar beside an application, as a process of its own, which a test may stop or kill.
    pub async fn process(&self, what: &str, name: &str, app: Option<(&str, &App)>) -> tombolo_tests::Running {
        let account = if what == "gateway" { ("tombolo-system", "gateway") } else { ("shop", "shop") };
        let options = self.join(account.0, account.1, name).await;
        let token = JoinTokenRequest {
            namespace: account.0.into(),
            account: account.1.into(),
            ttl_seconds: 60,
            uses: 1,
        };
        let token = self.operator().await.join_token(token).await.unwrap().into_inner().token;
        let mut command = tombolo_tests::command([what, "--access-log", "off", "--log", "error"]);
        command.args(["--controller", &options.controllers[0], "--join-token", &token]);
        command.arg("--state-dir").arg(&options.state_dir);
        match app {
            None => command.args(["--name", name, "--mesh-listen", "127.0.0.1:0", "--address", "127.0.0.1"]),
            Some((service, app)) => command.args([
                "--workload",
                name,
                "--label",
                &format!("app={service}"),
                "--app-port",
                &format!("{}=http", app.address.port()),
                "--inbound-listen",
                "127.0.0.1:0",
                "--outbound-range",
                &format!("127.{}.0.0/16", RANGES.fetch_add(1, Ordering::Relaxed)),
                "--dns-listen",
                "127.0.0.1:0",
                "--resolver",
                "127.0.0.1:9",
            ]),
        };
        tombolo_tests::Running::start(command.stdout(std::process::Stdio::null()))
    }

    async fn join(&self, namespace: &str, account: &str, state: &str) -> JoinOptions {
        let token = match &self.controller {
            None => None,
            Some(_) => {
                let request = JoinTokenRequest {
                    namespace: namespace.into(),
                    account: account.into(),
                    ttl_seconds: 60,
                    uses: 1,
                };
                let token = self.operator().await.join_token(request).await.unwrap().into_inner().token;
                Some(Arc::new(Token::parse(&token).unwrap()))
            }
        };
        let controllers = match &self.controller {
            Some(controller) => vec![controller.address.to_string()],
            // Where it was: nobody is there.
            None => vec!["127.0.0.1:9".to_string()],
        };
        JoinOptions { controllers, token, state_dir: self.state(state) }
    }

    /// A gateway. One of the same cluster again is the same one, restarted.
    pub async fn gateway(&self) -> Proxy<tombolo_gateway::Running> {
        self.gateway_named("gateway").await
    }

    /// One of several.
    pub async fn gateway_named(&self, name: &str) -> Proxy<tombolo_gateway::Running> {
        let join = self.join("tombolo-system", "gateway", name).await;
        let (telemetry, log) = self.logging(name);
        let mut options = tombolo_gateway::Options::from_controller(join, telemetry.clone());
        if let tombolo_gateway::Source::Controller { mesh_listen, name: registered, .. } = &mut options.source
        {
            *mesh_listen = local();
            *registered = name.into();
        }
        options.address = Some(Ipv4Addr::LOCALHOST.into());
        options.ports = tombolo_gateway::Ports::Free;
        options.drain_limit = SOON;
        let (drain, drained) = DrainTrigger::new();
        let mut running = soon("a gateway", tombolo_gateway::build(options, drained)).await.unwrap();
        soon("a gateway that is ready", running.ready()).await;
        Proxy { running, drain, telemetry, log }
    }

    /// A sidecar beside an application. One of the same name again is the same one, restarted.
    pub async fn sidecar(
        &self,
        namespace: &str,
        account: &str,
        workload: &str,
        labels: &[(&str, &str)],
        app: &App,
    ) -> Proxy<tombolo_sidecar::Running> {
        self.sidecar_with(namespace, account, workload, labels, app, |_| {}).await
    }

    /// The same with other options.
    pub async fn sidecar_with(
        &self,
        namespace: &str,
        account: &str,
        workload: &str,
        labels: &[(&str, &str)],
        app: &App,
        adapt: impl FnOnce(&mut tombolo_sidecar::Options),
    ) -> Proxy<tombolo_sidecar::Running> {
        let range = RANGES.fetch_add(1, Ordering::Relaxed);
        let join = self.join(namespace, account, workload).await;
        let ports = vec![(app.address.port(), "http".to_string())];
        let (telemetry, log) = self.logging(workload);
        let mut options = tombolo_sidecar::Options::new(join, workload, ports, telemetry.clone());
        options.labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        options.inbound_listen = local();
        options.outbound_range = format!("127.{range}.0.0/16").parse().unwrap();
        options.dns_listen = Some(local());
        options.admin = Some(local());
        options.resolvers = vec!["127.0.0.1:9".parse().unwrap()];
        options.drain_limit = SOON;
        adapt(&mut options);
        let (drain, drained) = DrainTrigger::new();
        let mut running = soon("a sidecar", tombolo_sidecar::build(options, drained)).await.unwrap();
        soon("a sidecar that is ready", running.ready()).await;
        Proxy { running, drain, telemetry, log }
    }

    /// Where another gateway's or sidecar's state is.
    pub fn state_dir(&self) -> &Path {
        self.state.path()
    }
}

impl Proxy<tombolo_gateway::Running> {
    /// The real address of the public listener with this configured port; waits until it is open.
    pub async fn listener(&mut self, port: u16) -> SocketAddr {
        let key = BindKey { address: None, port };
        let opening = async {
            loop {
                if let Some(address) = self.running.listeners().get(&key) {
                    return *address;
                }
                self.running.changed().await;
            }
        };
        soon("a public listener", opening).await
    }

    pub async fn end(self) {
        self.drain.drain();
        soon("the gateway's end", self.running.finished()).await.unwrap();
    }
}

impl Proxy<tombolo_sidecar::Running> {
    /// Where the application behind it reaches a service; waits until it can.
    pub async fn outbound(&mut self, service: &str) -> SocketAddr {
        let key = ServiceKey::parse(service).unwrap();
        let opening = async {
            loop {
                if let Some(address) = self.running.outbound(&key, PORT) {
                    return address;
                }
                self.running.changed().await;
            }
        };
        soon("an outbound listener", opening).await
    }

    pub async fn end(self) {
        self.drain.drain();
        soon("the sidecar's end", self.running.finished()).await.unwrap();
    }
}
