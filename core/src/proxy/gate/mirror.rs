//! Copies of requests, whose answers are dropped. A copy never delays or fails the request that it is made of.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Uri, header};
use http_body_util::{BodyExt, Empty, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pingora_http::RequestHeader;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::{attempt::spoken, trace::random};
use crate::{
    decide::{Backend, Compiled, Decision, UpstreamTls},
    model::Lane,
    proxy::{
        Arrival, Connection, MeshProtocol, MeshUpstream, Picker, TryResult, Wanted,
        upstream::{CONNECT_TIMEOUT, To, plain, set_authority, strip_connection_fields},
    },
};

/// Copies at a time in one engine; one more is left out and counted.
const COPIES: usize = 64;
/// Parts of a body that wait for a copy; where it takes them too slowly, it is broken off.
const PARTS: usize = 16;
/// A copy may take this long in all.
const LIMIT: Duration = Duration::from_secs(30);

type Error = Box<dyn std::error::Error + Send + Sync>;
type Body = UnsyncBoxBody<Bytes, Error>;

/// The engine's room for copies.
pub(in crate::proxy) struct Mirrors {
    places: Arc<Semaphore>,
    left_out: AtomicU64,
}

impl Default for Mirrors {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(COPIES)), left_out: AtomicU64::new(0) }
    }
}

/// One part of a body. Without an `End`, the body was not whole.
enum Part {
    Data(Bytes),
    End,
}

/// One request's copies, as long as its body is read.
#[derive(Default)]
pub(in crate::proxy) struct Copies(Vec<mpsc::Sender<Part>>);

impl Copies {
    /// The next part of the body. A copy that is too slow is broken off.
    pub fn body(&mut self, data: Option<&Bytes>, end: bool) {
        if let Some(data) = data.filter(|data| !data.is_empty()) {
            self.0.retain(|copy| copy.try_send(Part::Data(data.clone())).is_ok());
        }
        if end {
            self.0.drain(..).for_each(|copy| drop(copy.try_send(Part::End)));
        }
    }

    /// Breaks off those that do not have the whole body: another try reads it again from its begin.
    pub fn stop(&mut self) {
        self.0.clear();
    }
}

/// What copies are sent by.
pub(in crate::proxy) struct Means<'a> {
    pub picker: &'a Arc<dyn Picker>,
    pub upstream: &'a Arc<MeshUpstream>,
    pub config: &'a Compiled,
}

impl Mirrors {
    /// Begins the copies that a decision asks for.
    pub fn begin(
        &self,
        request: &RequestHeader,
        empty: bool,
        decision: &Decision,
        client: Option<&Arc<Arrival>>,
        means: &Means<'_>,
    ) -> Copies {
        let Means { picker, upstream, config } = *means;
        let mut copies = Copies::default();
        for mirror in decision.mirrors.iter() {
            if random() % 10_000 >= u64::from(mirror.per_ten_thousand) {
                continue;
            }
            let Ok(tls) = config.tls_of(&mirror.backend, &decision.tls.certificate) else { continue };
            let Ok(place) = self.places.clone().try_acquire_owned() else {
                let left_out = self.left_out.fetch_add(1, Ordering::Relaxed) + 1;
                tracing::debug!(left_out, "no room for a mirrored request");
                continue;
            };
            let (sender, parts) = mpsc::channel(PARTS);
            let body =
                if empty { Empty::new().map_err(|never| match never {}).boxed_unsync() } else { body(parts) };
            if !empty {
                copies.0.push(sender);
            }
            let copy = Copy {
                request: request.clone(),
                body,
                backend: mirror.backend.clone(),
                tls,
                client: client.cloned(),
                lane: decision.lane.clone(),
                picker: picker.clone(),
                upstream: upstream.clone(),
            };
            tokio::spawn(copy.run(place));
        }
        copies
    }
}

fn body(mut parts: mpsc::Receiver<Part>) -> Body {
    let mut ended = false;
    let frames = futures::stream::poll_fn(move |cx| {
        if ended {
            return std::task::Poll::Ready(None);
        }
        parts.poll_recv(cx).map(|part| match part {
            Some(Part::Data(data)) => Some(Ok(Frame::data(data))),
            Some(Part::End) => {
                ended = true;
                None
            }
            None => {
                ended = true;
                Some(Err(Error::from("the request broke off")))
            }
        })
    });
    StreamBody::new(frames).boxed_unsync()
}

/// One copy on its way.
struct Copy {
    request: RequestHeader,
    body: Body,
    backend: Backend,
    tls: UpstreamTls,
    client: Option<Arc<Arrival>>,
    lane: Option<Lane>,
    picker: Arc<dyn Picker>,
    upstream: Arc<MeshUpstream>,
}

impl Copy {
    async fn run(self, place: OwnedSemaphorePermit) {
        match tokio::time::timeout(LIMIT, self.send()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a mirrored request failed"),
            Err(_) => tracing::debug!("a mirrored request took too long"),
        }
        drop(place);
    }

    async fn send(self) -> Result<(), Error> {
        match &self.backend {
            Backend::Address { address, protocol } => {
                let to = To { address: *address, announce: None };
                let connection = plain(to, CONNECT_TIMEOUT).await?;
                exchange(connection, spoken(*protocol, false), self.request, self.body).await
            }
            Backend::Service { service, port, labels, protocol } => {
                let (begun, protocol) = (Instant::now(), spoken(*protocol, false));
                let wanted = Wanted {
                    service,
                    port: *port,
                    labels,
                    lane: self.lane.as_ref(),
                    prefer: None,
                    hash: None,
                    avoid: &[],
                    around: &[],
                };
                let mut pick = self.picker.pick(&wanted, begun)?;
                let address = self.upstream.address(pick.endpoint(), &[], random()).ok_or("no address")?;
                let client = self.client.as_deref();
                let connection =
                    self.upstream.connect(pick.endpoint(), address, protocol, &self.tls, client).await;
                let connection = match connection {
                    Ok(connection) => connection,
                    Err(error) => {
                        let result = self.upstream.judge(pick.endpoint(), address, error.failure());
                        pick.finish(result, begun.elapsed(), Instant::now());
                        return Err(error.into());
                    }
                };
                pick.connected();
                let result = exchange(connection, protocol, self.request, self.body).await;
                // A copy that broke off may be the fault of this side: nothing is said of the endpoint then.
                if result.is_ok() {
                    pick.finish(TryResult::Success, begun.elapsed(), Instant::now());
                }
                result
            }
        }
    }
}

/// Sends the copy and reads its answer to the end.
async fn exchange(
    connection: Connection,
    protocol: MeshProtocol,
    mut request: RequestHeader,
    body: Body,
) -> Result<(), Error> {
    strip_connection_fields(&mut request)?;
    set_authority(&mut request)?;
    let io = TokioIo::new(connection);
    let response = if protocol == MeshProtocol::Http2 {
        let (mut client, driver) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
        tokio::spawn(driver);
        client.send_request(Request::from_parts(request.as_owned_parts(), body)).await?
    } else {
        let (mut client, driver) = hyper::client::conn::http1::handshake(io).await?;
        tokio::spawn(driver);
        client.send_request(Request::from_parts(origin_form(&request)?, body)).await?
    };
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// HTTP/1.1 wants the authority in Host and the rest as the target (RFC 9112 section 3.2.1).
fn origin_form(request: &RequestHeader) -> Result<http::request::Parts, Error> {
    let mut parts = request.as_owned_parts();
    if let Some(authority) = parts.uri.authority() {
        parts.headers.insert(header::HOST, HeaderValue::from_str(authority.as_str())?);
    }
    let target = parts.uri.path_and_query().cloned();
    parts.uri = Uri::builder().path_and_query(target.ok_or("no target")?).build()?;
    parts.version = http::Version::HTTP_11;
    Ok(parts)
}
