//! Small requests of our own to a backend: sent whole, answered whole, over connections that are kept.

use std::{
    collections::HashMap,
    hash::Hash,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use http::Request;

use crate::{
    decide::{Backend, UpstreamTls},
    model::Transport,
    proxy::{
        Connection, MeshProtocol, MeshUpstream, Picked, Picker, TryResult, Wanted,
        ask::{Answer, Error, Http1, Http2, http1, http2, over_http1, over_http2},
        gate::{attempt::spoken, random},
        upstream::{CONNECT_TIMEOUT, To, plain},
    },
};

/// Idle connections kept for one address; one more is closed.
const IDLE: usize = 16;
/// Addresses with kept connections; for one more, all are forgotten.
const ADDRESSES: usize = 256;
/// Endpoints that are tried.
const TRIES: usize = 3;

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
            let wanted = Wanted {
                service,
                port,
                labels,
                lane: None,
                prefer: None,
                hash: None,
                avoid: &avoid,
                around: &[],
            };
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
                    place.done(ways.upstream.judge(&endpoint, address, error.failure()));
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
            let answer = over_http2(&mut sender, request).await;
            if answer.is_err() {
                lock(&self.http2).remove(&address);
            }
            return answer.ok();
        }
        let mut sender = lock(&self.http1).get_mut(&address)?.pop()?;
        let answer = over_http1(&mut sender, request).await.ok()?;
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
        if protocol == MeshProtocol::Http2 {
            let mut sender = http2(connection).await?;
            if let Some(address) = kept {
                insert(&self.http2, address, sender.clone());
            }
            return over_http2(&mut sender, request).await;
        }
        let mut sender = http1(connection).await?;
        let answer = over_http1(&mut sender, request).await?;
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
