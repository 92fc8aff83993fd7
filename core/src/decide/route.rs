//! The two ways into a decision: from a public listener, and from an application to a service of the mesh.

use std::sync::Arc;

use http::StatusCode;

use super::{
    Availability, Backend, Bind, BindKey, Caller, Listener, LocalAnswer, Outcome, RequestHead, Timeouts,
    forward::{Course, Request, SHARED, unrouted},
    gray::Issuing,
    host::normalize_host,
    lane::lane_from_baggage,
    rule::Target,
    trace::{Trace, Untraced},
};
use crate::model::{HOST_LABEL, HostName, Labels, ServiceKey, Snapshot};

/// What to do with a request that came in on a public listener.
///
/// The lane that such a request claims is believed by routes that trust their clients alone (see
/// [`TRUST_CLIENT_LANE`](super::TRUST_CLIENT_LANE)); for all others only a gray arm puts it into one. No listener or rule: 404. A
/// TLS client that asked for one listener's name and sends a request for another's host: 421 (GEP-3567).
pub fn decide_edge(
    snapshot: &Snapshot,
    bind: BindKey,
    head: &RequestHead<'_>,
    caller: &Caller<'_>,
    avail: &dyn Availability,
) -> Outcome {
    edge(snapshot, bind, head, caller, avail, &mut Untraced)
}

/// What to do with a request that an application in the mesh sends to `port` of `service`.
///
/// `caller.identity` is the application's own: routes that its namespace attached to a service of another one
/// (GAMMA consumer routes) apply to it alone, and instead of the service's own. A service that routes are attached
/// to answers 404 where none matches; one without is sent to as it is, or to an arm of its gray release.
pub fn decide_mesh(
    snapshot: &Snapshot,
    service: &ServiceKey,
    port: u16,
    head: &RequestHead<'_>,
    caller: &Caller<'_>,
    avail: &dyn Availability,
) -> Outcome {
    mesh(snapshot, service, port, head, caller, avail, &mut Untraced)
}

/// Decides for a call to one host of a headless service: its caller has chosen, so that neither routes nor gray releases
/// of the service choose another one. The service's policies apply.
pub fn decide_host(
    snapshot: &Snapshot,
    (service, host): (&ServiceKey, &HostName),
    port: u16,
    head: &RequestHead<'_>,
    caller: &Caller<'_>,
    avail: &dyn Availability,
) -> Outcome {
    let lane = lane_from_baggage(head.headers);
    let name = &*normalize_host(head.host);
    let request = Request { snapshot, head, host: name, port, caller, avail, lane, issuing: Issuing::Mesh };
    let labels = Arc::new(Labels::from([(HOST_LABEL.into(), Arc::clone(host))]));
    let outcome = request.unruled(service, Some(labels), &mut Untraced);
    snapshot.config.edge_policies.govern_call(outcome)
}

pub(crate) fn edge<T: Trace>(
    snapshot: &Snapshot,
    bind: BindKey,
    head: &RequestHead<'_>,
    caller: &Caller<'_>,
    avail: &dyn Availability,
    trace: &mut T,
) -> Outcome {
    let host = &*normalize_host(head.host);
    let Some(bind) = snapshot.config.bind(bind) else {
        return unrouted(StatusCode::NOT_FOUND, "no_listener");
    };
    let Some(chosen) = bind.listeners_for(host, trace) else {
        return unrouted(StatusCode::NOT_FOUND, "no_listener");
    };
    if let Some(sni) = caller.sni
        && is_misdirected(bind, chosen, &normalize_host(sni))
    {
        return unrouted(StatusCode::MISDIRECTED_REQUEST, "misdirected");
    }
    let issuing = snapshot.cookies.as_ref().map_or(Issuing::Never, Issuing::Signed);
    let request = Request { snapshot, head, host, port: bind.key.port, caller, avail, lane: None, issuing };
    let policies = &snapshot.config.edge_policies;
    for listener in chosen {
        trace.place("listener", || listener.title());
        if let Some(entry) = listener.routes.find(host, head, trace) {
            let lane = caller.claimed_lane.filter(|_| entry.rule.trusts_lane).cloned();
            if let (Some(claimed), None) = (caller.claimed_lane, &lane) {
                trace.lost(
                    || format!("lane {claimed} of the request"),
                    "the route does not trust its clients",
                );
            }
            let request = Request { lane, ..request };
            let outcome = secured(snapshot, listener, request.carry_out(&entry.rule, trace));
            return policies.govern(listener, Some(&entry.rule.origin), head, caller, outcome);
        }
    }
    let nowhere = unrouted(StatusCode::NOT_FOUND, "no_route");
    match chosen.first() {
        Some(listener) => policies.govern(listener, None, head, caller, nowhere),
        None => nowhere,
    }
}

/// With TLS towards the backend where a policy asks for it; a 500 where that policy cannot be carried out.
fn secured(snapshot: &Snapshot, listener: &Listener, mut outcome: Outcome) -> Outcome {
    let Outcome::Forward(decision) = &mut outcome else { return outcome };
    match snapshot.config.backend_tls.of(&decision.backend, &listener.shown) {
        Ok(tls) => decision.tls = tls,
        Err(_) => {
            return Outcome::Local(LocalAnswer {
                status: StatusCode::INTERNAL_SERVER_ERROR,
                headers: Vec::new(),
                reason: "invalid_tls_policy",
                route: Some(decision.route.clone()),
                policies: Default::default(),
                verdict: None,
                missed: None,
            });
        }
    }
    outcome
}

/// True if the name in the ClientHello belongs to another listener than the host of the request.
fn is_misdirected(bind: &Bind, chosen: &[Arc<Listener>], sni: &str) -> bool {
    let by_sni = bind.listeners_for(sni, &mut Untraced).and_then(|group| group.first());
    match (by_sni, chosen.first()) {
        (Some(by_sni), Some(by_host)) => by_sni.pattern != by_host.pattern,
        _ => false,
    }
}

impl Bind {
    /// The listeners that take requests for a host: those with the most specific hostname that covers it (several
    /// only where Gateways share a socket and a hostname). A less specific listener never gets them (listener
    /// isolation).
    pub(crate) fn listeners_for<T: Trace>(&self, host: &str, trace: &mut T) -> Option<&[Arc<Listener>]> {
        let same = |a: &Arc<Listener>, b: &Arc<Listener>| a.pattern == b.pattern;
        self.listeners.chunk_by(same).find(|group| {
            let Some(first) = group.first() else { return false };
            let matches = first.pattern.matches(host);
            if !matches {
                trace.lost(
                    || format!("listener {}", first.title()),
                    format_args!("host is not {}", first.pattern),
                );
            }
            matches
        })
    }
}

pub(crate) fn mesh<T: Trace>(
    snapshot: &Snapshot,
    service: &ServiceKey,
    port: u16,
    head: &RequestHead<'_>,
    caller: &Caller<'_>,
    avail: &dyn Availability,
    trace: &mut T,
) -> Outcome {
    let host = &*normalize_host(head.host);
    let lane = lane_from_baggage(head.headers);
    let request = Request { snapshot, head, host, port, caller, avail, lane, issuing: Issuing::Mesh };
    trace.place("service", || format!("{service} port {port}"));
    let namespace = caller.identity.map(|identity| identity.namespace());
    let policies = &snapshot.config.edge_policies;
    if let Some(table) = snapshot.config.mesh.table(service, port, namespace) {
        return match table.find(host, head, trace) {
            Some(entry) => policies.govern_call(request.carry_out(&entry.rule, trace)),
            None => unrouted(StatusCode::NOT_FOUND, "no_route"),
        };
    }
    policies.govern_call(request.unruled(service, None, trace))
}

impl Request<'_> {
    /// To a service that no route has a rule for; with labels: to those of its endpoints, whatever is released.
    fn unruled<T: Trace>(&self, service: &ServiceKey, labels: Option<Arc<Labels>>, trace: &mut T) -> Outcome {
        let known = self.snapshot.config.mesh.service(service);
        let made;
        let route = match known {
            Some(known) => &known.route,
            None => {
                made = Arc::from(format!("service/{}/{}", service.namespace, service.name));
                &made
            }
        };
        let course = Course {
            route,
            rule: &SHARED.default_rule,
            timeouts: Timeouts::default(),
            retry: &SHARED.retry,
            mirrors: &SHARED.mirrors,
            calls: false,
            session: None,
        };
        let protocol = known.and_then(|known| known.protocol(self.port));
        let release = known.filter(|_| labels.is_none()).and_then(|known| known.release.clone());
        let backend = Backend::Service {
            service: service.clone(),
            port: self.port,
            labels: labels.unwrap_or_else(|| SHARED.labels.clone()),
            protocol: protocol.unwrap_or_default(),
        };
        self.to_target(course, &Target { release, ..Target::plain(backend, protocol) }, trace)
    }
}
