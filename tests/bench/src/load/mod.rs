//! Clients: so many connections, each with its next request as soon as it has the answer to the last, or when its turn comes
//! in a schedule that waits for nobody.

mod http1;
mod http2;
mod pace;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::future::try_join_all;
use rustls::{ClientConfig, RootCertStore, client::Resumption, crypto::CryptoProvider};
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::{TlsConnector, client::TlsStream};

pub use self::pace::{Times, percentile};

use self::pace::Pace;
use crate::{Failure, backend::BODY, documents::Certificate};

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 without TLS.
    Plain,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    /// HTTP/2 over TLS 1.3, 32 streams at a time on each connection.
    Http2,
    /// gRPC's unary calls over HTTP/2 without TLS, 32 at a time on each connection.
    Grpc,
    /// HTTP/1.1 over TLS 1.3: a new connection with a full handshake for each request.
    Handshake,
}

/// When it ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many requests.
    Requests(usize),
    /// At this time.
    Time(Instant),
    /// So many requests have their turn at this rate, in requests a second. A request's time begins with its turn, also
    /// if no connection is free then: who is slow cannot slow down what measures it.
    Rate(usize, f64),
}

/// What is asked, of whom.
pub struct Load {
    address: SocketAddr,
    protocol: Protocol,
    connections: usize,
    requests: Arc<Vec<Bytes>>,
    body: usize,
    tls: TlsConnector,
}

/// One connection.
enum Client {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Http2(http2::Sender),
    /// Connects for each request.
    New(SocketAddr, TlsConnector),
}

/// What each connection asks.
struct Task {
    pace: Pace,
    requests: Arc<Vec<Bytes>>,
    body: usize,
}

impl Task {
    /// The next request, and since when its time counts.
    async fn next(&self) -> Option<(Instant, &Bytes)> {
        let (number, begun) = self.pace.next().await?;
        Some((begun, self.requests.get(number % self.requests.len())?))
    }
}

/// Open connections.
pub struct Connected {
    clients: Vec<Client>,
    requests: Arc<Vec<Bytes>>,
    body: usize,
}

/// The engine's provider, with one cipher suite: what is compared is not which one a server likes best.
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = vec![rustls::crypto::ring::cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(provider)
}

impl Load {
    pub fn new(
        address: SocketAddr,
        protocol: Protocol,
        connections: usize,
        requests: Vec<Bytes>,
        certificate: &Certificate,
    ) -> Result<Self, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der.clone())?;
        let tls = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        let alpn: &[u8] = if protocol == Protocol::Http2 { b"h2" } else { b"http/1.1" };
        tls.alpn_protocols = vec![alpn.to_vec()];
        tls.resumption = Resumption::disabled();
        let (requests, tls) = (Arc::new(requests), TlsConnector::from(Arc::new(tls)));
        Ok(Self { address, protocol, connections, requests, body: BODY, tls })
    }

    /// The same with so many bytes in each answer's body.
    pub fn answered_with(self, body: usize) -> Self {
        Self { body, ..self }
    }

    /// Requests that are on their way at a time.
    pub fn at_a_time(&self) -> usize {
        match self.protocol {
            Protocol::Http2 | Protocol::Grpc => self.connections * http2::STREAMS,
            Protocol::Plain | Protocol::Tls | Protocol::Handshake => self.connections,
        }
    }

    /// Opens the connections.
    pub async fn connect(&self) -> Result<Connected, Failure> {
        let clients = try_join_all((0..self.connections).map(|_| self.client())).await?;
        Ok(Connected { clients, requests: self.requests.clone(), body: self.body })
    }

    async fn client(&self) -> Result<Client, Failure> {
        Ok(match self.protocol {
            Protocol::Plain => Client::Plain(tcp(self.address).await?),
            Protocol::Tls => Client::Tls(Box::new(tls(self.address, &self.tls).await?)),
            Protocol::Http2 => Client::Http2(http2::open(tls(self.address, &self.tls).await?, false).await?),
            Protocol::Grpc => Client::Http2(http2::open(tcp(self.address).await?, true).await?),
            Protocol::Handshake => Client::New(self.address, self.tls.clone()),
        })
    }

    /// Connects, runs it, and gives each request's time. Any answer but 200 with the whole body is a failure.
    pub async fn run(&self, until: Until) -> Result<Vec<Duration>, Failure> {
        self.connect().await?.run(until).await
    }
}

impl Connected {
    /// Runs it, and gives each request's time. The connections stay open afterwards. Any answer but 200 with the whole
    /// body is a failure.
    pub async fn run(&mut self, until: Until) -> Result<Vec<Duration>, Failure> {
        let pace = Pace::begin(until)?;
        let task = Arc::new(Task { pace, requests: self.requests.clone(), body: self.body });
        let mut running = JoinSet::new();
        for client in self.clients.drain(..) {
            running.spawn(client.run(task.clone()));
        }
        let mut times = Vec::new();
        while let Some(done) = running.join_next().await {
            let (client, part) = done??;
            self.clients.push(client);
            times.extend(part);
        }
        Ok(times)
    }
}

impl Client {
    async fn run(mut self, task: Arc<Task>) -> Result<(Self, Vec<Duration>), Failure> {
        let times = match &mut self {
            Self::Plain(tcp) => http1::requests(tcp, &task).await?,
            Self::Tls(tls) => http1::requests(&mut **tls, &task).await?,
            Self::Http2(sender) => sender.requests(&task).await?,
            Self::New(address, connector) => http1::connections(*address, connector, &task).await?,
        };
        Ok((self, times))
    }
}

async fn tcp(address: SocketAddr) -> Result<TcpStream, Failure> {
    let tcp = TcpStream::connect(address).await?;
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

async fn tls(address: SocketAddr, connector: &TlsConnector) -> Result<TlsStream<TcpStream>, Failure> {
    Ok(connector.connect("h0.example.test".try_into()?, tcp(address).await?).await?)
}
