//! Raw connections: TCP, TLS passed through and TLS ended here, beside HTTPS on one port.

use std::io;

use rcgen::{CertifiedKey, KeyPair};
use rustls::{
    ServerConfig,
    client::Resumption,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, client::TlsStream};

use super::*;

/// An application that says its name, then sends back what it gets; over TLS if it has a certificate.
async fn echo(name: &'static str, certificate: Option<&CertifiedKey<KeyPair>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = certificate.map(|made| {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(tombolo_core::tls::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    });
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => {
                        let Ok(mut tls) = acceptor.accept(tcp).await else { return };
                        repeat(name, &mut tls).await;
                    }
                    None => repeat(name, &mut tcp).await,
                }
            });
        }
    });
    address
}

async fn repeat<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin>(name: &str, stream: &mut S) {
    let mut buffer = [0; 1024];
    if stream.write_all(name.as_bytes()).await.is_err() {
        return;
    }
    while let Ok(read @ 1..) = stream.read(&mut buffer).await {
        if stream.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
    // The client ends first, and may not wait for this.
    let _gone = stream.shutdown().await;
}

/// Reads the application's name, then asks for an echo. None: the connection was closed.
async fn converse<S>(stream: &mut S, name: &str) -> Option<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut said = vec![0; name.len()];
    timeout(SOON, stream.read_exact(&mut said)).await.expect("an answer").ok()?;
    assert_eq!(String::from_utf8(said).unwrap(), name);
    let words = vec![b'x'; 100_000];
    let (mut read, mut write) = tokio::io::split(stream);
    let sending = async { write.write_all(&words).await.unwrap() };
    let mut back = vec![0; words.len()];
    let (_, heard) = tokio::join!(sending, timeout(SOON, read.read_exact(&mut back)));
    heard.expect("the echo").unwrap();
    assert_eq!(back, words);
    Some(())
}

fn client(trusted: &CertifiedKey<KeyPair>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.cert.der().clone()).unwrap();
    let config = ClientConfig::builder_with_provider(tombolo_core::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

async fn connect(to: SocketAddr, name: &str, config: Arc<ClientConfig>) -> io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from(name.to_owned()).unwrap();
    timeout(SOON, TlsConnector::from(config).connect(name, tcp)).await.expect("in time")
}

fn stream_route(kind: &str, name: &str, listener: &str, hosts: &str, service: &str) -> String {
    let version = if kind == "TCPRoute" { "v1alpha2" } else { "v1" };
    let hosts = if hosts.is_empty() { String::new() } else { format!("hostnames: [{hosts}], ") };
    format!(
        "apiVersion: gateway.networking.k8s.io/{version}
kind: {kind}
metadata: {{name: {name}, namespace: shop}}
spec: {{parentRefs: [{{name: edge, sectionName: {listener}}}], {hosts}rules: [{{backendRefs: [{{name: {service}, port: 80}}]}}]}}
---
"
    )
}

const PASS: &str = "{name: pass, protocol: TLS, port: 443, hostname: pass.example, tls: {mode: Passthrough}}";
const END: &str =
    "{name: end, protocol: TLS, port: 443, hostname: end.example, tls: {certificateRefs: [{name: end}]}}";
const TCP: &str = "{name: tcp, protocol: TCP, port: 9}";

#[tokio::test]
async fn raw_connections_share_a_port_with_https_by_their_names() {
    let (_, inside) = secret("unused", "pass.example");
    let ((shop, shop_key), (end, end_key)) = (secret("cert", "shop.example"), secret("end", "end.example"));
    let (web, _) = app("web").await;
    let listeners = format!("{PASS}, {END}, {TCP}, {}", https("cert"));
    let all = [
        gateway(&listeners),
        shop,
        end,
        service("web", web),
        route("web").replace("name: edge", "name: edge, sectionName: secure"),
        service("pass", echo("pass", Some(&inside)).await),
        service("end", echo("end", None).await),
        service("raw", echo("raw", None).await),
        stream_route("TLSRoute", "pass", "pass", "pass.example", "pass"),
        stream_route("TLSRoute", "end", "end", "end.example", "end"),
        stream_route("TCPRoute", "raw", "tcp", "", "raw"),
    ]
    .concat();
    let mut world = World::new(&all).await;
    let (secure, raw) = (world.address(443).unwrap(), world.address(9).unwrap());

    let mut passed = connect(secure, "pass.example", client(&inside)).await.expect("the application's own");
    converse(&mut passed, "pass").await.unwrap();
    let mut ended = connect(secure, "end.example", client(&end_key)).await.expect("the listener's");
    converse(&mut ended, "end").await.unwrap();
    let mut tcp = TcpStream::connect(raw).await.unwrap();
    converse(&mut tcp, "raw").await.unwrap();
    assert_eq!(tls(secure, &shop_key).await.unwrap().get().await, (StatusCode::OK, "web".into()));
    let unknown = connect(secure, "other.example", client(&shop_key)).await.unwrap_err();
    assert_eq!(unknown.kind(), io::ErrorKind::ConnectionReset, "{unknown}");

    // What is open goes on when its listener and route are gone.
    world.reload(&all.replace(&format!("{PASS}, "), "")).await;
    assert!(connect(secure, "pass.example", client(&inside)).await.is_err());
    passed.write_all(b"still").await.unwrap();
    let mut back = [0; 5];
    timeout(SOON, passed.read_exact(&mut back)).await.expect("in time").unwrap();
    assert_eq!(&back, b"still");
}

#[tokio::test]
async fn a_tcp_route_takes_what_a_tls_listener_has_decrypted() {
    let (end, end_key) = secret("end", "end.example");
    let all = [
        gateway(END),
        end,
        service("raw", echo("raw", None).await),
        stream_route("TCPRoute", "raw", "end", "", "raw"),
    ]
    .concat();
    let world = World::new(&all).await;
    let mut ended = connect(world.address(443).unwrap(), "end.example", client(&end_key)).await.unwrap();
    converse(&mut ended, "raw").await.unwrap();
}

#[tokio::test]
async fn a_raw_connection_without_a_backend_is_closed() {
    let all = [gateway(TCP), stream_route("TCPRoute", "raw", "tcp", "", "none")].concat();
    let world = World::new(&all).await;
    let mut tcp = TcpStream::connect(world.address(9).unwrap()).await.unwrap();
    assert_eq!(converse(&mut tcp, "x").await, None);
}

#[tokio::test]
async fn sessions_are_resumed_at_their_own_listener_only() {
    let (certificate, key) = secret("cert", "*.shop.example");
    let listener = |name: &str| {
        https("cert").replace("secure", name).replace("shop.example", &format!("{name}.shop.example"))
    };
    let two = listener("one") + ", " + &listener("two");
    let (web, _) = app("web").await;
    let world = World::new(&[gateway(&two), certificate, service("web", web), route("web")].concat()).await;
    let to = world.address(443).unwrap();
    let mut config = (*client(&key)).clone();
    config.resumption = Resumption::in_memory_sessions(8);
    let config = Arc::new(config);
    let kind = |name: &'static str| {
        let config = Arc::clone(&config);
        async move {
            let mut stream = connect(to, name, config).await.unwrap();
            let request = format!("GET / HTTP/1.1\r\nhost: {name}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // Reading to the end also takes in the session's ticket.
            let _closed = timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an answer");
            stream.get_ref().1.handshake_kind().unwrap()
        }
    };
    assert_eq!(kind("one.shop.example").await, rustls::HandshakeKind::Full);
    assert_eq!(kind("one.shop.example").await, rustls::HandshakeKind::Resumed);
    assert_eq!(kind("two.shop.example").await, rustls::HandshakeKind::Full);
    let unknown = connect(to, "three.shop.example", config).await.unwrap_err();
    assert!(unknown.to_string().contains("UnrecognisedName"), "{unknown}");
}
