//! A client that sends one request on a connection of its own.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{
    body::Body,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{backend::Echo, certificates::Issued};

/// A request, made with [`get`] and changed by its methods.
#[derive(Debug, Clone)]
pub struct Ask {
    pub method: Method,
    pub host: String,
    pub path: String,
    pub headers: Vec<(String, String)>,
    pub body: Bytes,
    pub http2: bool,
    pub tls: Option<Tls>,
}

/// How a connection is made with TLS.
#[derive(Debug, Clone)]
pub struct Tls {
    /// The name in the ClientHello.
    pub sni: String,
    /// PEM of the authority that has to have signed the server's certificate; none: any certificate will do.
    pub roots: Option<String>,
    /// The certificate that is shown.
    pub client: Option<Issued>,
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub trailers: HeaderMap,
    pub body: Bytes,
    /// Whether the head was the end of it: no frame came after.
    pub headed: bool,
    /// What reached the backend, where one answered.
    pub echo: Option<Echo>,
    /// The server's certificate, where there was TLS.
    pub certificate: Option<CertificateDer<'static>>,
}

/// `GET http://HOST/PATH`.
pub fn get(host: &str, path: &str) -> Ask {
    Ask {
        method: Method::GET,
        host: host.into(),
        path: path.into(),
        headers: Vec::new(),
        body: Bytes::new(),
        http2: false,
        tls: None,
    }
}

/// A unary gRPC call with an empty message.
pub fn call(host: &str, method: &str) -> Ask {
    let ask = get(host, method).method(Method::POST).over_http2();
    let ask = ask.header("content-type", "application/grpc").header("te", "trailers");
    Ask { body: Bytes::from_static(&[0; 5]), ..ask }
}

impl Ask {
    pub fn method(self, method: Method) -> Self {
        Self { method, ..self }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn over_http2(self) -> Self {
        Self { http2: true, ..self }
    }

    /// Over TLS with this server name, which any certificate may answer.
    pub fn over_tls(self, sni: &str) -> Self {
        Self { tls: Some(Tls { sni: sni.into(), roots: None, client: None }), ..self }
    }

    /// Over TLS with this server name, whose certificate has to come from this authority (PEM).
    pub fn trusting(self, sni: &str, roots: &str) -> Self {
        Self { tls: Some(Tls { sni: sni.into(), roots: Some(roots.into()), client: None }), ..self }
    }

    /// Shows this certificate.
    pub fn with_certificate(mut self, client: &Issued) -> Self {
        let tls = self.tls.take().unwrap();
        Self { tls: Some(Tls { client: Some(client.clone()), ..tls }), ..self }
    }

    /// Sends it.
    pub async fn send(&self, to: SocketAddr) -> Result<Answer, String> {
        let tcp = TcpStream::connect(to).await.map_err(|e| format!("connect {to}: {e}"))?;
        let Some(tls) = &self.tls else { return self.exchange(tcp, None).await };
        let name = ServerName::try_from(tls.sni.clone()).map_err(|e| e.to_string())?;
        let connector = tokio_rustls::TlsConnector::from(Arc::new(tls.config(self.http2)));
        let stream = connector.connect(name, tcp).await.map_err(|e| format!("handshake: {e}"))?;
        let certificate = stream
            .get_ref()
            .1
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|c| c.clone().into_owned());
        self.exchange(stream, certificate).await
    }

    async fn exchange(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        certificate: Option<CertificateDer<'static>>,
    ) -> Result<Answer, String> {
        let io = TokioIo::new(stream);
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        let uri =
            if self.http2 { format!("{scheme}://{}{}", self.host, self.path) } else { self.path.clone() };
        let mut request = http::Request::builder().method(self.method.clone()).uri(uri);
        if !self.http2 {
            request = request.header("host", &self.host);
        }
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(self.body.clone())).map_err(|e| e.to_string())?;
        let response = if self.http2 {
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), io).await.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            sender.send_request(request).await
        } else {
            let (mut sender, connection) = http1::handshake(io).await.map_err(|e| e.to_string())?;
            tokio::spawn(connection);
            sender.send_request(request).await
        };
        let (head, body) = response.map_err(|e| format!("request: {e}"))?.into_parts();
        let headed = body.is_end_stream();
        let collected = body.collect().await.map_err(|e| format!("body: {e}"))?;
        let trailers = collected.trailers().cloned().unwrap_or_default();
        let body = collected.to_bytes();
        let is_grpc = head.headers.get("content-type").is_some_and(|value| value == "application/grpc");
        let text = if is_grpc { body.get(5..).unwrap_or_default() } else { &body };
        let echo = serde_json::from_slice(text).ok();
        Ok(Answer { status: head.status, headers: head.headers, trailers, body, echo, certificate, headed })
    }
}

impl Tls {
    pub fn config(&self, http2: bool) -> ClientConfig {
        let builder =
            ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let builder = match &self.roots {
            Some(pem) => {
                let mut roots = rustls::RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(pem.as_bytes()).unwrap()).unwrap();
                builder.with_root_certificates(roots)
            }
            None => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone)),
        };
        let mut config = match &self.client {
            Some(client) => {
                let chain = CertificateDer::pem_slice_iter(client.certificate.as_bytes());
                let key = PrivateKeyDer::from_pem_slice(client.key.as_bytes()).unwrap();
                builder.with_client_auth_cert(chain.map(Result::unwrap).collect(), key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        config
    }
}

/// The one crypto provider.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Takes any client certificate, or none.
pub fn any_client() -> Arc<dyn ClientCertVerifier> {
    Arc::new(Anyone)
}

/// Trusts every certificate: the tests look at it themselves.
#[derive(Debug)]
struct Anyone;

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for Anyone {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
