//! A public client of the gateway: HTTPS with the quickstart's own root, HTTP/1.1, connections kept.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::{Request, body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;

use super::documents::HOST;
use crate::{demo::Reply, failure::Failure};

/// A request that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(10);
const MAX_BODY: usize = 1 << 20;

/// Where and how to connect. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    connector: TlsConnector,
}

/// One client's kept connection.
pub struct Session {
    client: Client,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

/// What came back.
pub struct Answer {
    pub status: u16,
    pub body: Bytes,
}

impl Answer {
    /// The demo service's answer, if it is one with status 200.
    pub fn reply(&self) -> Result<Reply, String> {
        if self.status != 200 {
            let text = String::from_utf8_lossy(&self.body);
            return Err(format!("status {}: {}", self.status, text.chars().take(600).collect::<String>()));
        }
        serde_json::from_slice(&self.body).map_err(|e| format!("not a demo service's answer: {e}"))
    }
}

impl Client {
    /// A client that trusts only `root`.
    pub fn new(address: SocketAddr, root: CertificateDer<'static>) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(root).map_err(|e| Failure::new(format!("the quickstart's own root: {e}")))?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| Failure::new(e.to_string()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { address, connector: TlsConnector::from(Arc::new(config)) })
    }

    /// A client of its own, without a connection yet.
    pub fn session(&self) -> Session {
        Session { client: self.clone(), sender: None }
    }

    /// One request on a fresh connection.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        self.session().get(path, headers).await
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, String> {
        let stream = TcpStream::connect(self.address).await.map_err(|e| format!("connect: {e}"))?;
        let name = ServerName::try_from(HOST).map_err(|e| e.to_string())?;
        let stream = self.connector.connect(name, stream).await.map_err(|e| format!("TLS: {e}"))?;
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

impl Session {
    /// Sends `GET path`. A kept connection that the gateway has closed meanwhile is replaced before anything is sent.
    pub async fn get(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        match timeout(TIMEOUT, self.attempt(path, headers)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.sender = None;
                Err(error)
            }
            Err(_) => {
                self.sender = None;
                Err(format!("no answer within {TIMEOUT:?}"))
            }
        }
    }

    async fn kept(&mut self) -> Option<SendRequest<Empty<Bytes>>> {
        let mut kept = self.sender.take()?;
        kept.ready().await.is_ok().then_some(kept)
    }

    async fn attempt(&mut self, path: &str, headers: &[(&str, &str)]) -> Result<Answer, String> {
        let mut sender = match self.kept().await {
            Some(kept) => kept,
            None => self.client.connect().await?,
        };
        let mut request = Request::builder().uri(path).header("host", HOST);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new()).map_err(|e| e.to_string())?;
        let response = sender.send_request(request).await.map_err(|e| format!("request: {e}"))?;
        let answer = read(response).await?;
        self.sender = Some(sender);
        Ok(answer)
    }
}

async fn read(response: hyper::Response<Incoming>) -> Result<Answer, String> {
    let status = response.status().as_u16();
    let body =
        Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| format!("body: {e}"))?;
    Ok(Answer { status, body: body.to_bytes() })
}
