//! Clients: so many connections, each with the next request as soon as it has the answer to the last.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustls::{ClientConfig, RootCertStore};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};
use tokio_rustls::TlsConnector;

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
}

/// Streams at a time on one HTTP/2 connection.
const STREAMS: usize = 32;

/// When it ends.
#[derive(Debug, Clone, Copy)]
pub enum Until {
    /// After so many requests.
    Requests(usize),
    /// At this time.
    Time(Instant),
}

/// What is asked, of whom.
pub struct Load {
    pub address: SocketAddr,
    pub protocol: Protocol,
    pub connections: usize,
    pub requests: Arc<Vec<Bytes>>,
    tls: Arc<ClientConfig>,
}

struct Shared {
    until: Until,
    asked: AtomicUsize,
}

impl Shared {
    /// The number of the next request, if there is one.
    fn next(&self) -> Option<usize> {
        let number = self.asked.fetch_add(1, Relaxed);
        match self.until {
            Until::Requests(all) => (number < all).then_some(number),
            Until::Time(end) => (Instant::now() < end).then_some(number),
        }
    }
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
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut tls = tls.with_root_certificates(roots).with_no_client_auth();
        let alpn: &[u8] = if protocol == Protocol::Http2 { b"h2" } else { b"http/1.1" };
        tls.alpn_protocols = vec![alpn.to_vec()];
        Ok(Self { address, protocol, connections, requests: Arc::new(requests), tls: Arc::new(tls) })
    }

    /// Runs it, and gives each request's time. Any answer but 200 with the whole body is a failure.
    pub async fn run(&self, until: Until) -> Result<Vec<Duration>, Failure> {
        let shared = Arc::new(Shared { until, asked: AtomicUsize::new(0) });
        let mut clients = JoinSet::new();
        for _ in 0..self.connections {
            let tcp = TcpStream::connect(self.address).await?;
            tcp.set_nodelay(true)?;
            let (shared, requests) = (shared.clone(), self.requests.clone());
            if self.protocol == Protocol::Plain {
                clients.spawn(http1(tcp, shared, requests));
                continue;
            }
            let tls =
                TlsConnector::from(self.tls.clone()).connect("h0.example.test".try_into()?, tcp).await?;
            match self.protocol {
                Protocol::Http2 => clients.spawn(http2(tls, shared, requests)),
                Protocol::Plain | Protocol::Tls => clients.spawn(http1(tls, shared, requests)),
            };
        }
        let mut times = Vec::new();
        while let Some(done) = clients.join_next().await {
            times.extend(done??);
        }
        Ok(times)
    }
}

async fn http1<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    shared: Arc<Shared>,
    requests: Arc<Vec<Bytes>>,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    let mut answer = Vec::with_capacity(4096);
    while let Some(number) = shared.next() {
        let begun = Instant::now();
        let request = requests.get(number % requests.len()).ok_or("no requests")?;
        stream.write_all(request).await?;
        stream.flush().await?;
        answer.clear();
        let head = loop {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("the connection was closed".into());
            }
            if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
        };
        while answer.len() < head + BODY {
            if stream.read_buf(&mut answer).await? == 0 {
                return Err("the answer was cut".into());
            }
        }
        if !answer.starts_with(b"HTTP/1.1 200 ") {
            return Err(String::from_utf8_lossy(&answer).into_owned().into());
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

async fn http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    shared: Arc<Shared>,
    requests: Arc<Vec<Bytes>>,
) -> Result<Vec<Duration>, Failure> {
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    let driver = tokio::spawn(connection);
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        let (sender, shared, requests) = (sender.clone(), shared.clone(), requests.clone());
        streams.spawn(one_stream_after_another(sender, shared, requests));
    }
    let mut times = Vec::new();
    while let Some(done) = streams.join_next().await {
        times.extend(done??);
    }
    driver.abort();
    Ok(times)
}

async fn one_stream_after_another(
    mut sender: h2::client::SendRequest<Bytes>,
    shared: Arc<Shared>,
    requests: Arc<Vec<Bytes>>,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    while let Some(number) = shared.next() {
        let begun = Instant::now();
        let text = requests.get(number % requests.len()).ok_or("no requests")?;
        sender = sender.ready().await?;
        let (answer, _) = sender.send_request(head_of(text)?, true)?;
        let mut answer = answer.await?;
        if answer.status() != 200 {
            return Err(format!("{answer:?}").into());
        }
        let mut body = 0;
        while let Some(part) = answer.body_mut().data().await {
            let part = part?;
            body += part.len();
            answer.body_mut().flow_control().release_capacity(part.len())?;
        }
        if body != BODY {
            return Err("the answer was cut".into());
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// The same request in HTTP/2's form.
fn head_of(text: &[u8]) -> Result<http::Request<()>, Failure> {
    let text = std::str::from_utf8(text)?;
    let mut lines = text.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no path")?;
    let mut request = http::Request::get(path);
    let mut host = "";
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if name == "host" {
            host = value;
        } else {
            request = request.header(name, value);
        }
    }
    let request = request.uri(format!("https://{host}{path}"));
    Ok(request.version(http::Version::HTTP_2).body(())?)
}
