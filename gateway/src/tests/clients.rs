//! Clients that have to show certificates.

use rustls::{
    HandshakeKind, SupportedProtocolVersion,
    client::{
        ClientSessionMemoryCache, ClientSessionStore, Resumption, Tls12ClientSessionValue,
        Tls13ClientSessionValue,
    },
    version::{TLS12, TLS13},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    backends::{Authority, Issued},
    *,
};

/// A Gateway that asks for certificates of `tls.frontend`, on listeners for `one.example` and for every host.
fn asking(frontend: &str) -> String {
    let listener = |name: &str, port: u16, hostname: &str| {
        format!(
            "{{name: {name}, protocol: HTTPS, port: {port}, {hostname}tls: {{certificateRefs: [{{name: cert}}]}}}}"
        )
    };
    let listeners = [listener("one", 443, "hostname: one.example, "), listener("all", 8443, "")];
    gateway(&listeners.join(", "))
        .replace("  listeners:", &format!("  tls: {{frontend: {frontend}}}\n  listeners:"))
}

fn trusting(name: &str, mode: &str) -> String {
    format!(
        "{{validation: {{caCertificateRefs: [{{group: '', kind: ConfigMap, name: {name}}}], mode: {mode}}}}}"
    )
}

struct Client(Arc<ClientConfig>);

impl Client {
    fn new(servers: &Authority, shown: Option<&Issued>) -> Self {
        let builder = ClientConfig::builder_with_provider(tombolo_core::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(servers.roots());
        let mut config = match shown {
            Some(issued) => builder.with_client_auth_cert(issued.chain.clone(), issued.private()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.resumption = Resumption::in_memory_sessions(8);
        Self(Arc::new(config))
    }

    /// The status of one request on a connection of its own, and how its handshake went. None: the handshake failed.
    async fn get(&self, to: SocketAddr) -> Option<(u16, HandshakeKind)> {
        self.get_at(to, "one.example").await
    }

    async fn get_at(&self, to: SocketAddr, host: &'static str) -> Option<(u16, HandshakeKind)> {
        let tcp = TcpStream::connect(to).await.unwrap();
        let name = ServerName::try_from(host).unwrap();
        let connecting = TlsConnector::from(Arc::clone(&self.0)).connect(name, tcp);
        let mut stream = timeout(SOON, connecting).await.expect("in time").ok()?;
        let request = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = Vec::new();
        // In TLS 1.3 a client learns that it was refused when it reads.
        timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an end").ok()?;
        let status = String::from_utf8_lossy(&answer).split(' ').nth(1)?.parse().ok()?;
        Some((status, stream.get_ref().1.handshake_kind()?))
    }

    async fn status(&self, to: SocketAddr) -> Option<u16> {
        self.get(to).await.map(|(status, _)| status)
    }
}

struct Stage {
    servers: Authority,
    ours: Authority,
    theirs: Authority,
    rest: String,
}

impl Stage {
    async fn new() -> Self {
        let (servers, ours, theirs) = (Authority::new(), Authority::new(), Authority::new());
        let (web, _) = app("web").await;
        let rest = [
            servers.issue("one.example", None).secret("cert"),
            ours.config_map("ours"),
            theirs.config_map("theirs"),
            service("web", web),
            route("web").replace("shop.example", "one.example"),
        ];
        Self { servers, ours, theirs, rest: rest.concat() }
    }

    fn documents(&self, frontend: &str) -> String {
        asking(frontend) + &self.rest
    }

    fn client(&self, shown: Option<&Authority>) -> Client {
        let issued = shown.map(|authority| authority.issue("client.example", None));
        Client::new(&self.servers, issued.as_ref())
    }
}

#[tokio::test]
async fn only_clients_with_a_certificate_of_the_port_get_in() {
    let stage = Stage::new().await;
    let (valid, other) = (trusting("ours", "AllowValidOnly"), trusting("theirs", "AllowValidOnly"));
    let world = World::new(
        &stage.documents(&format!("{{default: {valid}, perPort: [{{port: 8443, tls: {other}}}]}}")),
    )
    .await;
    let (default, own) = (world.address(443).unwrap(), world.address(8443).unwrap());
    let (ours, theirs, nobody) =
        (stage.client(Some(&stage.ours)), stage.client(Some(&stage.theirs)), stage.client(None));
    assert_eq!(ours.status(default).await, Some(200));
    assert_eq!(theirs.status(default).await, None);
    assert_eq!(nobody.status(default).await, None);
    assert_eq!(theirs.status(own).await, Some(200));
    assert_eq!(ours.status(own).await, None);
}

#[tokio::test]
async fn the_insecure_fallback_lets_everybody_in() {
    let stage = Stage::new().await;
    let fallback = trusting("ours", "AllowInsecureFallback");
    let world = World::new(&stage.documents(&format!("{{default: {fallback}}}"))).await;
    let to = world.address(443).unwrap();
    for client in [Some(&stage.ours), Some(&stage.theirs), None] {
        assert_eq!(stage.client(client).status(to).await, Some(200));
    }
}

#[tokio::test]
async fn a_change_of_trust_holds_for_old_connections_and_sessions_too() {
    let stage = Stage::new().await;
    let mut world = World::new(&stage.documents("{default: {}}")).await;
    let to = world.address(443).unwrap();
    let client = stage.client(Some(&stage.ours));
    assert_eq!(client.get(to).await, Some((200, HandshakeKind::Full)));
    assert_eq!(client.get(to).await, Some((200, HandshakeKind::Resumed)));
    let mut kept = keep(&stage, to).await;
    assert_eq!(kept.ask().await, StatusCode::OK);

    world.reload(&stage.documents(&format!("{{default: {}}}", trusting("ours", "AllowValidOnly")))).await;
    assert_eq!(kept.ask().await, StatusCode::MISDIRECTED_REQUEST, "it has shown nothing");
    assert_eq!(client.get(to).await, Some((200, HandshakeKind::Full)));
    assert_eq!(stage.client(None).status(to).await, None);

    world.reload(&stage.documents(&format!("{{default: {}}}", trusting("theirs", "AllowValidOnly")))).await;
    assert_eq!(client.get(to).await, None, "no session outlives the trust it was made with");
}

/// Offers one session wherever it goes, as a client might that wants to get around a listener.
#[derive(Debug)]
struct Everywhere(ClientSessionMemoryCache);

fn anywhere() -> ServerName<'static> {
    ServerName::try_from("any.example").unwrap()
}

impl ClientSessionStore for Everywhere {
    fn set_kx_hint(&self, _: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(anywhere(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(&anywhere())
    }

    fn set_tls12_session(&self, _: ServerName<'static>, value: Tls12ClientSessionValue) {
        self.0.set_tls12_session(anywhere(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<Tls12ClientSessionValue> {
        self.0.tls12_session(&anywhere())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&anywhere());
    }

    fn insert_tls13_ticket(&self, _: ServerName<'static>, value: Tls13ClientSessionValue) {
        self.0.insert_tls13_ticket(anywhere(), value);
    }

    fn take_tls13_ticket(&self, _: &ServerName<'static>) -> Option<Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&anywhere())
    }
}

fn everywhere(version: &'static SupportedProtocolVersion) -> Client {
    let mut config = ClientConfig::builder_with_provider(tombolo_core::tls::provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(super::acme::Anything))
        .with_no_client_auth();
    config.resumption = Resumption::store(Arc::new(Everywhere(ClientSessionMemoryCache::new(8))));
    Client(Arc::new(config))
}

#[tokio::test]
async fn no_session_of_either_version_is_resumed_at_another_listener_or_past_a_change_of_trust() {
    let stage = Stage::new().await;
    let two = |documents: String| {
        let two = "{name: two, protocol: HTTPS, port: 443, hostname: two.example, tls: {certificateRefs: [{name: cert}]}}";
        documents.replace("  listeners: [", &format!("  listeners: [{two}, "))
    };
    for version in [&TLS12, &TLS13] {
        let mut world = World::new(&two(stage.documents("{default: {}}"))).await;
        let (to, other) = (world.address(443).unwrap(), world.address(8443).unwrap());
        let client = everywhere(version);
        let kind = async |to, host| client.get_at(to, host).await.map(|(_, kind)| kind);
        assert_eq!(kind(to, "one.example").await, Some(HandshakeKind::Full));
        assert_eq!(kind(to, "one.example").await, Some(HandshakeKind::Resumed), "{version:?}");
        assert_eq!(kind(to, "two.example").await, Some(HandshakeKind::Full), "{version:?}: another hostname");
        assert_eq!(kind(to, "two.example").await, Some(HandshakeKind::Resumed), "{version:?}");
        assert_eq!(kind(other, "one.example").await, Some(HandshakeKind::Full), "{version:?}: another port");
        assert_eq!(kind(other, "one.example").await, Some(HandshakeKind::Resumed), "{version:?}");
        assert_eq!(kind(to, "one.example").await, Some(HandshakeKind::Full), "{version:?}: and back");

        let trust = format!("{{default: {}}}", trusting("ours", "AllowValidOnly"));
        world.reload(&two(stage.documents(&trust))).await;
        assert_eq!(kind(to, "one.example").await, None, "{version:?}: it has shown no certificate");
    }
}

#[tokio::test]
async fn without_a_server_name_nobody_gets_around_a_listener_that_asks() {
    let stage = Stage::new().await;
    let frontend = format!("{{default: {}}}", trusting("ours", "AllowValidOnly"));
    let open = "apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: open, namespace: shop}
spec:
  gatewayClassName: tombolo
  listeners: [{name: all, protocol: HTTPS, port: 443, tls: {certificateRefs: [{name: cert}]}}]
---
";
    let world = World::new(&(stage.documents(&frontend) + open)).await;
    let mut config = (*stage.client(None).0).clone();
    config.enable_sni = false;
    let client = Client(Arc::new(config));
    assert_eq!(client.status(world.address(443).unwrap()).await, Some(421));
}

/// An HTTP/1.1 connection that is kept, whose client shows nothing.
struct KeptOne(http1::SendRequest<Empty<Bytes>>);

async fn keep(stage: &Stage, to: SocketAddr) -> KeptOne {
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("one.example").unwrap();
    let stream = TlsConnector::from(stage.client(None).0).connect(name, tcp).await.unwrap();
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    KeptOne(sender)
}

impl KeptOne {
    async fn ask(&mut self) -> StatusCode {
        let request = request("one.example", "/").body(Empty::new()).unwrap();
        let response = timeout(SOON, self.0.send_request(request)).await.expect("an answer").unwrap();
        read(response).await.0
    }
}
