//! What is verified by the certificate authorities of the machine (`SSL_CERT_FILE` names others): backends by a
//! BackendTLSPolicy, and key sets of tokens. Driven through the real binary.

#![allow(clippy::unwrap_used)]

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener as StdListener},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Empty, Full};
use hyper::{body::Incoming, client::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use rcgen::{
    BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, PublicKeyData, SigningKey,
};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tombolo_tests::{Running, command, wait_until};

const SOON: Duration = Duration::from_secs(20);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// An HTTPS server for `backend.example` and 127.0.0.1, which answers everything with this.
    async fn serve(&self, answer: String) -> SocketAddr {
        let names = vec!["backend.example".to_owned(), "127.0.0.1".to_owned()];
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(tombolo_core::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, answer) = (acceptor.clone(), answer.clone());
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let service = service_fn(move |_: Request<Incoming>| {
                        let body = Full::<Bytes>::from(answer.clone());
                        async move { Ok::<_, Infallible>(Response::new(body)) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    let _gone = server.serve_connection(TokioIo::new(tls), service).await;
                });
            }
        });
        address
    }
}

/// A token of `https://login.example`, and the key set that verifies it.
fn token() -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({ "alg": "EdDSA", "kid": "one" }));
    let signed =
        format!("{head}.{}", part(json!({ "iss": "https://login.example", "exp": 4_102_444_800_u64 })));
    let token = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(key.sign(signed.as_bytes()).unwrap()));
    let x = URL_SAFE_NO_PAD.encode(key.der_bytes());
    let keys = json!({ "keys": [{ "kty": "OKP", "crv": "Ed25519", "kid": "one", "alg": "EdDSA", "x": x }] });
    (token, keys.to_string())
}

fn documents(backend: SocketAddr, keys: SocketAddr) -> String {
    let (ip, port) = (backend.ip(), backend.port());
    format!(
        "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {{name: tombolo}}
spec: {{controllerName: tombolo.dev/gateway-controller}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {{name: edge, namespace: shop}}
spec: {{gatewayClassName: tombolo, listeners: [{{name: web, protocol: HTTP, port: 80}}]}}
---
apiVersion: v1
kind: Service
metadata: {{name: web, namespace: shop}}
spec: {{ports: [{{port: 443}}]}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv4
ports: [{{port: {port}}}]
endpoints: [{{addresses: [{ip}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: BackendTLSPolicy
metadata: {{name: web, namespace: shop}}
spec:
  targetRefs: [{{group: '', kind: Service, name: web}}]
  validation: {{hostname: backend.example, wellKnownCACertificates: System}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: open, namespace: shop}}
spec:
  parentRefs: [{{name: edge}}]
  rules: [{{backendRefs: [{{name: web, port: 443}}]}}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: members, namespace: shop}}
spec:
  parentRefs: [{{name: edge}}]
  rules: [{{matches: [{{path: {{value: /members}}}}], backendRefs: [{{name: web, port: 443}}]}}]
---
apiVersion: tombolo.dev/v1alpha1
kind: TrafficPolicy
metadata: {{name: members, namespace: shop}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: members}}]
  jwt:
    providers: [{{name: login, issuer: 'https://login.example', jwks: {{url: 'https://{keys}/keys'}}}}]
"
    )
}

/// A gateway whose machine trusts this authority, and where it is.
fn gateway(dir: &Path, documents: &str, trusted: &Authority) -> (Running, SocketAddr) {
    let [config, roots, output] = ["all.yaml", "roots.pem", "output"].map(|name| dir.join(name));
    std::fs::write(&config, documents).unwrap();
    std::fs::write(&roots, &trusted.pem).unwrap();
    let free = StdListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let file = std::fs::File::create(&output).unwrap();
    let offset = (free.port() - 80).to_string();
    let mut command = command(["gateway", "--config", config.to_str().unwrap(), "--address", "127.0.0.1"]);
    command.args(["--port-offset", &offset]).env("SSL_CERT_FILE", &roots);
    command.stdout(file.try_clone().unwrap()).stderr(Stdio::from(file));
    let running = Running::start(&mut command);
    wait_until("the gateway is ready", SOON, || {
        std::fs::read_to_string(&output).is_ok_and(|text| text.contains("ready"))
    });
    (running, free)
}

async fn status(to: SocketAddr, path: &str, token: Option<&str>) -> u16 {
    let exchange = async {
        let tcp = TcpStream::connect(to).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let mut request = Request::get(path).header("host", "shop.example");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        let request = request.body(Empty::<Bytes>::new()).unwrap();
        sender.send_request(request).await.unwrap().status().as_u16()
    };
    tokio::time::timeout(SOON, exchange).await.expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backends_and_key_sets_are_verified_by_the_authorities_of_the_machine() {
    let (ours, others) = (Authority::new(), Authority::new());
    let (token, keys) = token();
    let (_, foreign) = self::token();
    let (backend, keys) = (ours.serve("hello".into()).await, ours.serve(keys).await);
    let foreign = others.serve(foreign).await;

    let dir = tempfile::tempdir().unwrap();
    let (_running, to) = gateway(dir.path(), &documents(backend, keys), &ours);
    assert_eq!(status(to, "/", None).await, 200);
    assert_eq!(status(to, "/members", Some(&token)).await, 200, "by keys that came over https");
    assert_eq!(status(to, "/members", None).await, 401);
    assert_eq!(status(to, "/members", Some(&token.replace('.', ".e"))).await, 401);

    // The same on a machine that trusts somebody else, and keys from a server that is not trusted.
    let dir = tempfile::tempdir().unwrap();
    let (_running, to) = gateway(dir.path(), &documents(backend, keys), &others);
    assert_eq!(status(to, "/", None).await, 502);
    let dir = tempfile::tempdir().unwrap();
    let (_running, to) = gateway(dir.path(), &documents(backend, foreign), &ours);
    assert_eq!(status(to, "/", None).await, 200);
    assert_ne!(status(to, "/members", Some(&token)).await, 200);
}
