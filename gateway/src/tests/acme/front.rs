//! A front of pebble's that knows of renewal windows (ARI, RFC 9773), which Debian's version does not.

use std::sync::Mutex;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use serde_json::{Value, json};
use tokio_rustls::TlsAcceptor;

use super::{pebble::issuer_at, *};

/// What the front has seen.
#[derive(Default)]
pub(super) struct Seen {
    /// Certificates whose window was asked for.
    pub asked: Vec<String>,
    /// Certificates that orders replace.
    pub replaced: Vec<String>,
}

/// The window of the first certificate that is asked for is over; those of others begin in a day.
pub(super) struct Front {
    pub seen: Arc<Mutex<Seen>>,
    port: u16,
    root: String,
}

impl Front {
    pub async fn before(pebble: &Pebble) -> Self {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_string()]).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(tombolo_core::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (behind, noted) = (pebble.port(), Arc::clone(&seen));
        tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (acceptor, seen) = (acceptor.clone(), Arc::clone(&noted));
                tokio::spawn(async move {
                    let Ok(tls) = acceptor.accept(tcp).await else { return };
                    let answer = service_fn(move |request| {
                        let seen = Arc::clone(&seen);
                        async move { Ok::<_, std::convert::Infallible>(pass(request, behind, port, &seen).await) }
                    });
                    let server = hyper::server::conn::http1::Builder::new();
                    let _gone = server.serve_connection(TokioIo::new(tls), answer).await;
                });
            }
        });
        Self { seen, port, root: made.cert.pem() }
    }

    /// An AcmeIssuer that uses it.
    pub fn issuer(&self) -> String {
        issuer_at(self.port, &self.root, "")
    }
}

async fn pass(
    request: Request<Incoming>,
    behind: u16,
    own: u16,
    seen: &Mutex<Seen>,
) -> Response<Full<Bytes>> {
    let path = request.uri().path().to_owned();
    if let Some(id) = path.strip_prefix("/window/") {
        return window(id, seen);
    }
    let (parts, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let replaces = replaced(&body);
    if let Some(id) = &replaces {
        seen.lock().unwrap().replaced.push(id.clone());
    }
    let tls = ClientConfig::builder_with_provider(tombolo_core::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything))
        .with_no_client_auth();
    let tcp = TcpStream::connect(("127.0.0.1", behind)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let (mut parts, body) =
        sender.send_request(Request::from_parts(parts, Full::new(body))).await.unwrap().into_parts();
    let mut body = body.collect().await.unwrap().to_bytes();
    let more = match (path.as_str(), replaces) {
        ("/dir", _) => Some(("renewalInfo", format!("https://127.0.0.1:{own}/window"))),
        // It says again what the order replaces (RFC 9773 section 5).
        (_, Some(id)) if parts.status.is_success() => Some(("replaces", id)),
        _ => None,
    };
    if let Some((key, value)) = more {
        let mut json: Value = serde_json::from_slice(&body).unwrap();
        json[key] = value.into();
        body = json.to_string().into();
        parts.headers.remove("content-length");
    }
    Response::from_parts(parts, Full::new(body))
}

/// What the order in this message replaces.
fn replaced(message: &[u8]) -> Option<String> {
    let message: Value = serde_json::from_slice(message).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(message["payload"].as_str()?).ok()?;
    let payload: Value = serde_json::from_slice(&payload).ok()?;
    Some(payload["replaces"].as_str()?.to_owned())
}

fn window(id: &str, seen: &Mutex<Seen>) -> Response<Full<Bytes>> {
    let asked = &mut seen.lock().unwrap().asked;
    asked.push(id.to_owned());
    let (start, end) = match asked[0] == id {
        true => ("2020-01-01T00:00:00Z", "2020-01-02T00:00:00Z"),
        false => ("2100-01-01T00:00:00Z", "2100-01-02T00:00:00Z"),
    };
    let body = json!({ "suggestedWindow": { "start": start, "end": end } }).to_string();
    Response::builder().header("retry-after", "3600").body(Full::from(body)).unwrap()
}
