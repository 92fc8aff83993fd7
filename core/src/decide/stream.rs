//! Where bytes go that are not parsed: TLSRoutes and TCPRoutes.

use std::sync::Arc;

use super::{
    Backend, Bind, BindKey, Listener, ListenerProtocol, UpstreamTls,
    hash::NameMap,
    host::{HostPattern, normalize_host},
    rule::Weighted,
    trace::Untraced,
};
use crate::model::Snapshot;

/// Where a raw connection goes.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamDecision {
    /// `NAMESPACE/GATEWAY/LISTENER`.
    pub listener: Arc<str>,
    /// e.g. `tlsroute/shop/mqtt`.
    pub route: Arc<str>,
    /// The rule's name, else its position.
    pub rule: Arc<str>,
    /// Where its bytes go.
    pub backend: Backend,
    /// TLS towards the backend.
    pub tls: UpstreamTls,
}

/// What to do with a raw connection on a public listener: `sni` is the server name of its ClientHello, if it began with
/// one; `terminated` says that its TLS was ended here. `random` is 64 fresh random bits.
///
/// The error is a reason for the access log: `no_listener`, `no_route`, `no_valid_backend` for the share of connections
/// whose backendRef leads nowhere, `invalid_tls_policy` where a BackendTLSPolicy holds that cannot be carried out.
pub fn decide_stream(
    snapshot: &Snapshot,
    bind: BindKey,
    sni: Option<&str>,
    terminated: bool,
    random: u64,
) -> Result<StreamDecision, &'static str> {
    let bind = snapshot.config.bind(bind).ok_or("no_listener")?;
    let name = normalize_host(sni.unwrap_or_default());
    let group = bind.listeners_for(&name, &mut Untraced).ok_or("no_listener")?;
    // The configuration may have changed since the connection was accepted: bytes that were decrypted here never go
    // where ciphertext is meant to go, nor the other way around.
    let fits = |listener: &&Arc<Listener>| match listener.protocol {
        ListenerProtocol::Tcp => true,
        ListenerProtocol::TlsTerminate => terminated,
        ListenerProtocol::TlsPassthrough => !terminated && sni.is_some(),
        ListenerProtocol::Http | ListenerProtocol::Https => false,
    };
    let mut tables = group.iter().filter(fits);
    let found = tables.find_map(|listener| Some((listener, listener.streams.find(&name)?)));
    let (listener, route) = found.ok_or("no_route")?;
    let target = route.backends.pick(random).map_err(|_| "no_valid_backend")?;
    let tls = match listener.protocol {
        // What is passed on is the client's own TLS.
        ListenerProtocol::TlsPassthrough => snapshot.config.backend_tls.of_passed(&target.backend),
        _ => snapshot
            .config
            .backend_tls
            .of(&target.backend, &listener.shown)
            .map_err(|_| "invalid_tls_policy")?,
    };
    Ok(StreamDecision {
        listener: listener.title().into(),
        route: route.route.clone(),
        rule: route.rule.clone(),
        backend: target.backend.clone(),
        tls,
    })
}

impl Bind {
    /// The listener that takes a TLS connection with this server name: the one with the most specific hostname that
    /// covers it; of several with the same hostname, the oldest Gateway's. A client that sends no server name gets the
    /// listener for every host, if there is one.
    pub fn tls_listener(&self, sni: Option<&str>) -> Option<&Arc<Listener>> {
        let name = normalize_host(sni.unwrap_or_default());
        self.listeners_for(&name, &mut Untraced)?.first()
    }
}

/// A TLSRoute or TCPRoute as it is carried out.
#[derive(Debug)]
pub(crate) struct StreamRoute {
    /// e.g. `tlsroute/shop/mqtt`.
    pub(crate) route: Arc<str>,
    /// Name or position of its rule.
    pub(crate) rule: Arc<str>,
    pub(crate) backends: Weighted,
}

/// The raw routes of one listener, one for each hostname.
#[derive(Debug, Default)]
pub(crate) struct StreamTable {
    exact: NameMap<Box<str>, Arc<StreamRoute>>,
    /// By suffix with its dot.
    wildcard: NameMap<Box<str>, Arc<StreamRoute>>,
    any: Option<Arc<StreamRoute>>,
}

impl StreamTable {
    /// From routes in their order of precedence: of those for one hostname the first counts.
    pub(crate) fn new(entries: impl IntoIterator<Item = (HostPattern, Arc<StreamRoute>)>) -> Self {
        let mut table = Self::default();
        for (host, route) in entries {
            let _first = match host {
                HostPattern::Exact(name) => table.exact.entry((*name).into()).or_insert(route),
                HostPattern::Wildcard(suffix) => table.wildcard.entry((*suffix).into()).or_insert(route),
                HostPattern::Any => table.any.get_or_insert(route),
            };
        }
        table
    }

    /// All routes, once for each of their hostnames.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &StreamRoute> {
        self.exact.values().chain(self.wildcard.values()).chain(&self.any).map(|route| &**route)
    }

    /// The route for a server name (normalized; empty: none was sent): exact, then the longest wildcard, then any.
    fn find(&self, name: &str) -> Option<&StreamRoute> {
        if let Some(route) = self.exact.get(name) {
            return Some(route);
        }
        let suffixes = name.match_indices('.').filter(|(at, _)| *at > 0).filter_map(|(at, _)| name.get(at..));
        let wildcard = suffixes.into_iter().find_map(|suffix| self.wildcard.get(suffix));
        wildcard.or(self.any.as_ref()).map(|route| &**route)
    }
}
