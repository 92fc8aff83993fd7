//! Backends that speak TLS.

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
    server::WebPkiClientVerifier,
};
use tokio_rustls::TlsAcceptor;

use super::*;

/// A certificate authority.
pub(super) struct Authority {
    pub pem: String,
    pub der: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
pub(super) struct Issued {
    pub chain: Vec<CertificateDer<'static>>,
    pub key: KeyPair,
    pem: String,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self { pem: certificate.pem(), der: certificate.der().clone(), issuer: Issuer::new(params, key) }
    }

    pub fn issue(&self, dns: &str, uri: Option<&str>) -> Issued {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![dns.to_string()]).unwrap();
        params.subject_alt_names.extend(uri.map(|uri| SanType::URI(uri.try_into().unwrap())));
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { chain: vec![certificate.der().clone()], pem: certificate.pem(), key }
    }

    /// A ConfigMap of this name.
    pub fn config_map(&self, name: &str) -> String {
        let mut out =
            format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}, namespace: shop}}\ndata:\n");
        block(&mut out, "ca.crt", &self.pem);
        out + "---\n"
    }

    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.der.clone()).unwrap();
        roots
    }
}

impl Issued {
    pub fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.key.serialize_der()).into()
    }

    pub fn secret(&self, name: &str) -> String {
        let mut out = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\ntype: kubernetes.io/tls\nstringData:\n"
        );
        block(&mut out, "tls.crt", &self.pem);
        block(&mut out, "tls.key", &self.key.serialize_pem());
        out + "---\n"
    }
}

fn block(out: &mut String, key: &str, pem: &str) {
    writeln!(out, "  {key}: |").unwrap();
    pem.lines().for_each(|line| writeln!(out, "    {line}").unwrap());
}

/// An application over TLS that says `SNI ALPN CLIENT`, where CLIENT is how many certificates its client showed.
async fn secure_app(certificate: &Issued, clients: Option<&Authority>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let builder = ServerConfig::builder_with_provider(tombolo_core::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        Some(authority) => {
            let roots = Arc::new(authority.roots());
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, tombolo_core::tls::provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(certificate.chain.clone(), certificate.private()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let session = tls.get_ref().1;
                let says = format!(
                    "{} {} {}",
                    session.server_name().unwrap_or("-"),
                    String::from_utf8_lossy(session.alpn_protocol().unwrap_or(b"-")),
                    session.peer_certificates().map_or(0, <[_]>::len)
                );
                let answer = service_fn(move |_: Request<Incoming>| {
                    let says = says.clone();
                    async move { Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(says))) }
                });
                let executor = hyper_util::rt::TokioExecutor::new();
                let server = hyper_util::server::conn::auto::Builder::new(executor);
                // A proxy that goes away is no failure of the application.
                let _gone = server.serve_connection(TokioIo::new(tls), answer).await;
            });
        }
    });
    address
}

fn policy(service: &str, hostname: &str, names: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: {service}, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: {service}}}]
  validation:
    caCertificateRefs: [{{group: '', kind: ConfigMap, name: ca}}]
    hostname: {hostname}
    subjectAltNames: [{names}]
---
"
    )
}

async fn answer(documents: &[String]) -> (StatusCode, String) {
    World::new(&documents.concat()).await.get(80, "shop.example", "/").await
}

#[tokio::test]
async fn only_the_right_backend_is_spoken_to() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let app = secure_app(&ours.issue("web.example", Some("spiffe://x/web")), None).await;
    let stranger = secure_app(&theirs.issue("web.example", None), None).await;
    let all = |address, hostname: &str, names: &str| {
        [
            gateway(HTTP),
            service("web", address),
            route("web"),
            ours.config_map("ca"),
            policy("web", hostname, names),
        ]
    };
    let good = |said: &str| (StatusCode::OK, said.to_owned());
    assert_eq!(answer(&all(app, "web.example", "")).await, good("web.example http/1.1 0"));
    assert_eq!(answer(&all(app, "other.example", "")).await.0, StatusCode::BAD_GATEWAY);
    assert_eq!(answer(&all(stranger, "web.example", "")).await.0, StatusCode::BAD_GATEWAY);
    let (plain, _) = super::app("plain").await;
    assert_eq!(answer(&all(plain, "web.example", "")).await.0, StatusCode::BAD_GATEWAY, "never in plaintext");
    // With names, the hostname is only what is asked for.
    for (names, expected) in [
        ("{type: Hostname, hostname: web.example}", StatusCode::OK),
        ("{type: Hostname, hostname: '*.example'}", StatusCode::OK),
        ("{type: Hostname, hostname: not.example}", StatusCode::BAD_GATEWAY),
        ("{type: URI, uri: 'spiffe://x/web'}", StatusCode::OK),
        ("{type: URI, uri: 'spiffe://x/other'}", StatusCode::BAD_GATEWAY),
        ("{type: URI, uri: 'spiffe://x/other'}, {type: Hostname, hostname: web.example}", StatusCode::OK),
    ] {
        assert_eq!(answer(&all(app, "asked.example", names)).await.0, expected, "{names}");
    }
    let mut invalid = all(app, "web.example", "");
    invalid[4] = invalid[4].replace("name: ca}", "name: none}");
    assert_eq!(answer(&invalid).await.0, StatusCode::INTERNAL_SERVER_ERROR);
}

#[tokio::test]
async fn http2_is_agreed_on_where_the_service_speaks_it() {
    let authority = Authority::new();
    let app = secure_app(&authority.issue("web.example", None), None).await;
    let http2 = service("web", app).replace("{port: 80}", "{port: 80, appProtocol: kubernetes.io/h2c}");
    let all =
        [gateway(HTTP), http2, route("web"), authority.config_map("ca"), policy("web", "web.example", "")];
    assert_eq!(answer(&all).await, (StatusCode::OK, "web.example h2 0".into()));
}

#[tokio::test]
async fn a_gateway_shows_its_certificate_and_a_new_one_after_a_change() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let app = secure_app(&authority.issue("web.example", None), Some(&clients)).await;
    let showing = gateway(HTTP)
        .replace("  listeners:", "  tls: {backend: {clientCertificateRef: {name: own}}}\n  listeners:");
    let rest =
        [service("web", app), route("web"), authority.config_map("ca"), policy("web", "web.example", "")]
            .concat();
    let own = clients.issue("gateway.example", None).secret("own");
    let mut world = World::new(&[showing.clone(), own.clone(), rest.clone()].concat()).await;
    let good = (StatusCode::OK, "web.example http/1.1 1".to_owned());
    assert_eq!(world.get(80, "shop.example", "/").await, good);
    world.reload(&[gateway(HTTP), own, rest.clone()].concat()).await;
    assert_ne!(world.get(80, "shop.example", "/").await.0, StatusCode::OK, "nothing is shown");
    let strange = Authority::new().issue("gateway.example", None).secret("own");
    world.reload(&[showing.clone(), strange, rest.clone()].concat()).await;
    assert_ne!(world.get(80, "shop.example", "/").await.0, StatusCode::OK, "a stranger's is shown");
    world.reload(&[showing.clone(), rest.clone()].concat()).await;
    assert_eq!(
        world.get(80, "shop.example", "/").await.0,
        StatusCode::SERVICE_UNAVAILABLE,
        "it is not there"
    );
    let fresh = clients.issue("gateway.example", None).secret("own");
    world.reload(&[showing, fresh, rest].concat()).await;
    assert_eq!(world.get(80, "shop.example", "/").await, good);
}

#[tokio::test]
async fn what_a_tls_listener_decrypts_is_encrypted_again() {
    let authority = Authority::new();
    let app = secure_app(&authority.issue("web.example", None), None).await;
    let listener = "{name: end, protocol: TLS, port: 443, hostname: shop.example, tls: {certificateRefs: [{name: cert}]}}";
    let (certificate, key) = secret("cert", "shop.example");
    let tls_route = "apiVersion: gateway.networking.k8s.io/v1
kind: TLSRoute
metadata: {name: web, namespace: shop}
spec: {parentRefs: [{name: edge}], hostnames: [shop.example], rules: [{backendRefs: [{name: web, port: 80}]}]}
---
";
    let all = [
        gateway(listener),
        certificate,
        service("web", app),
        tls_route.into(),
        authority.config_map("ca"),
        policy("web", "web.example", ""),
    ];
    let world = World::new(&all.concat()).await;
    let mut kept = tls(world.address(443).unwrap(), &key).await.unwrap();
    assert_eq!(kept.get().await, (StatusCode::OK, "web.example - 0".into()));
}

#[tokio::test]
async fn grpc_backends_are_spoken_to_over_http2_by_the_kind_of_their_route() {
    let authority = Authority::new();
    let app = secure_app(&authority.issue("web.example", None), None).await;
    let grpc_route = route("web").replace("kind: HTTPRoute", "kind: GRPCRoute");
    let rest = [service("web", app), grpc_route, authority.config_map("ca")].concat();
    let all = [gateway(HTTP), rest.clone(), policy("web", "web.example", "")];
    let world = World::new(&all.concat()).await;
    assert_eq!(grpc(world.address(80).unwrap()).await, (StatusCode::OK, Some("web.example h2 0".into())));
    let other = [gateway(HTTP), rest, policy("web", "other.example", "")];
    let world = World::new(&other.concat()).await;
    assert_ne!(grpc(world.address(80).unwrap()).await.1.as_deref(), Some("web.example h2 0"));
}

/// What a gRPC call over h2c is answered with; none: no body.
async fn grpc(to: SocketAddr) -> (StatusCode, Option<String>) {
    let tcp = TcpStream::connect(to).await.unwrap();
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, TokioIo::new(tcp)).await.unwrap();
    tokio::spawn(connection);
    let request = Request::builder()
        .method("POST")
        .uri("http://shop.example/shop.Shop/Buy")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = timeout(SOON, sender.send_request(request)).await.expect("an answer").unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, (!body.is_empty()).then(|| String::from_utf8_lossy(&body).into_owned()))
}
