//! Small requests of our own to a backend: sent whole, answered whole, over connections that are kept.

use std::{
    collections::HashMap,
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Uri, header, response::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{
    Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    decide::{Backend, UpstreamTls},
    model::Transport,
    proxy::{
        Connection, MeshProtocol, MeshUpstream, Picked, Picker, TryResult, Wanted,
        gate::{attempt::spoken, random},
        upstream::{CONNECT_TIMEOUT, To, plain},
    },
};

/// Bytes of an answer's body; a longer one is an error.
const ANSWER: usize = 64 * 1024;
/// Idle connections kept for one address; one more is closed.
const IDLE: usize = 16;
/// Addresses with kept connections; for one more, all are forgotten.
const ADDRESSES: usize = 256;
/// Endpoints that are tried.
const TRIES: usize = 3;

pub(super) type Error = Box<dyn std::error::Error + Send + Sync>;
type Http1 = http1::SendRequest<Full<Bytes>>;
type Http2 = http2::SendRequest<Full<Bytes>>;

/// An answer, whole.
#[derive(Debug)]
pub(super) struct Answer {
    pub head: Parts,
    pub body: Bytes,
    pub trailers: Option<HeaderMap>,
}

/// Connections that are kept: those in plaintext. A mesh connection is made anew each time, as nothing here knows for how
/// long its certificates hold.
#[derive(Default)]
pub(in crate::proxy::gate::policy) struct Client {
    http1: Mutex<HashMap<SocketAddr, Vec<Http1>>>,
    http2: Mutex<HashMap<SocketAddr, Http2>>,
}

/// Who picks and who connects.
#[derive(Clone, Copy)]
pub(super) struct Ways<'a> {
    pub picker: &'a dyn Picker,
    pub upstream: &'a MeshUpstream,
    pub tls: &'a UpstreamTls,
}

impl Client {
    /// Sends a request to a backend, to another endpoint where one takes no connection. Not bounded in time by itself.
    pub(super) async fn send(
        &self,
        ways: Ways<'_>,
        backend: &Backend,
        request: &Request<Bytes>,
    ) -> Result<Answer, Error> {
        let (service, port, labels, protocol) = match backend {
            Backend::Address { address, protocol } => {
                let protocol = spoken(*protocol, false);
                if let Some(answer) = self.over_kept(*address, protocol, request).await {
                    return Ok(answer);
                }
                let to = To { address: *address, announce: None };
                return self
                    .over_new(plain(to, CONNECT_TIMEOUT).await?, Some(*address), protocol, request)
                    .await;
            }
            Backend::Service { service, port, labels, protocol } => {
                (service, *port, labels, spoken(*protocol, false))
            }
        };
        let mut avoid: Vec<Arc<str>> = Vec::new();
        let mut failed: Error = "no endpoint".into();
        for _ in 0..TRIES {
            let wanted =
                Wanted { service, port, labels, lane: None, prefer: None, hash: None, avoid: &avoid };
            let begun = Instant::now();
            let pick = match ways.picker.pick(&wanted, begun) {
                Ok(pick) if !avoid.contains(&pick.endpoint().id) => pick,
                Ok(_) => break,
                Err(reason) => return Err(reason.into()),
            };
            let place = Place { pick: Some(pick), begun };
            let Some(endpoint) = place.pick.as_ref().map(|pick| pick.endpoint().clone()) else { break };
            let address = ways.upstream.address(&endpoint, &[], random()).ok_or("no address")?;
            let is_plain = endpoint.transport == Transport::Plaintext && ways.tls.policy.is_none();
            let kept = is_plain.then_some(address);
            if let Some(address) = kept
                && let Some(answer) = self.over_kept(address, protocol, request).await
            {
                place.done(TryResult::Success);
                return Ok(answer);
            }
            match ways.upstream.connect(&endpoint, address, protocol, ways.tls, None).await {
                Ok(connection) => {
                    let answer = self.over_new(connection, kept, protocol, request).await;
                    place.done(if answer.is_ok() { TryResult::Success } else { TryResult::Failure });
                    return answer;
                }
                Err(error) => {
                    place.done(TryResult::ConnectFailure);
                    avoid.push(endpoint.id.clone());
                    failed = error.into();
                }
            }
        }
        Err(failed)
    }

    /// None: there is no kept connection, or it has ended in the meantime.
    async fn over_kept(
        &self,
        address: SocketAddr,
        protocol: MeshProtocol,
        request: &Request<Bytes>,
    ) -> Option<Answer> {
        if protocol == MeshProtocol::Http2 {
            let mut sender = get(&self.http2, &address, |sender| sender.clone())?;
            let answer = async { whole(sender.send_request(absolute(request)?).await?).await }.await;
            if answer.is_err() {
                lock(&self.http2).remove(&address);
            }
            return answer.ok();
        }
        let mut sender = lock(&self.http1).get_mut(&address)?.pop()?;
        let answer = async { whole(sender.send_request(origin_form(request)?).await?).await }.await.ok()?;
        self.keep(Some(address), sender);
        Some(answer)
    }

    async fn over_new(
        &self,
        connection: Connection,
        kept: Option<SocketAddr>,
        protocol: MeshProtocol,
        request: &Request<Bytes>,
    ) -> Result<Answer, Error> {
        let io = TokioIo::new(connection);
        if protocol == MeshProtocol::Http2 {
            let (mut sender, driver) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(driver);
            if let Some(address) = kept {
                insert(&self.http2, address, sender.clone());
            }
            return whole(sender.send_request(absolute(request)?).await?).await;
        }
        let (mut sender, driver) = http1::handshake(io).await?;
        tokio::spawn(driver);
        let answer = whole(sender.send_request(origin_form(request)?).await?).await?;
        self.keep(kept, sender);
        Ok(answer)
    }

    fn keep(&self, address: Option<SocketAddr>, sender: Http1) {
        let Some(address) = address.filter(|_| !sender.is_closed()) else { return };
        let mut all = lock(&self.http1);
        if all.len() >= ADDRESSES && !all.contains_key(&address) {
            all.clear();
        }
        let idle = all.entry(address).or_default();
        idle.retain(|sender| !sender.is_closed());
        if idle.len() < IDLE {
            idle.push(sender);
        }
    }
}

/// A place on an endpoint; where the request is given up, it is given back without a judgement.
struct Place {
    pick: Option<Box<dyn Picked>>,
    begun: Instant,
}

impl Place {
    fn done(mut self, result: TryResult) {
        if let Some(pick) = self.pick.take() {
            pick.finish(result, self.begun.elapsed(), Instant::now());
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn get<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>, key: &K, of: impl FnOnce(&V) -> V) -> Option<V> {
    lock(map).get(key).map(of)
}

fn insert<K: Eq + Hash, V>(map: &Mutex<HashMap<K, V>>, key: K, value: V) {
    let mut map = lock(map);
    if map.len() >= ADDRESSES {
        map.clear();
    }
    map.insert(key, value);
}

/// Reads an answer to its end.
async fn whole(response: Response<Incoming>) -> Result<Answer, Error> {
    let (head, mut incoming) = response.into_parts();
    let mut body = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = incoming.frame().await {
        match frame?.into_data() {
            Ok(data) if body.len() + data.len() > ANSWER => return Err("the answer is too long".into()),
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok(Answer { head, body: body.freeze(), trailers })
}

fn copy(request: &Request<Bytes>) -> Request<Full<Bytes>> {
    let mut copy = Request::new(Full::new(request.body().clone()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// For HTTP/2: the authority stands in the URI.
fn absolute(request: &Request<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
    let mut request = copy(request);
    request.headers_mut().remove(header::HOST);
    Ok(request)
}

/// For HTTP/1.1: the authority stands in Host (RFC 9112 section 3.2.1).
fn origin_form(request: &Request<Bytes>) -> Result<Request<Full<Bytes>>, Error> {
    let mut request = copy(request);
    let authority =
        request.uri().authority().map(|authority| HeaderValue::from_str(authority.as_str())).transpose()?;
    if let Some(authority) = authority {
        request.headers_mut().insert(header::HOST, authority);
    }
    let target = request.uri().path_and_query().cloned().ok_or("no target")?;
    *request.uri_mut() = Uri::builder().path_and_query(target).build()?;
    Ok(request)
}
