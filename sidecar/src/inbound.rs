//! Calls from the mesh to the application: which port, who may, and on to it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Instant,
};

use arc_swap::ArcSwap;
use http::StatusCode;
use tombolo_core::{
    decide::{
        ArmReason, Backend, Caller, Decision, Filters, LocalAnswer, Mirror, Outcome, Policies, RequestHead,
        Retry, Timeouts, Verdict, authorize, inbound_limits, lane_from_baggage,
    },
    model::{AppProtocol, Snapshot, TrustDomain},
    proxy::{Arrival, DENIED, Director, Entry, TcpOutcome},
};

use crate::{
    capture::plaintext::{Admission, Admissions},
    in_flight::InFlight,
};

/// The reason of a call to a name that is none of this workload's.
const UNKNOWN: &str = "unknown_name";

/// The reason of a call in plaintext where mutual TLS is asked for.
const PLAINTEXT: &str = "plaintext_refused";

/// A port of the application, and how policies judged the call; none where it is a probe's.
type Admitted = (u16, Option<Verdict>);

/// Why a call does not come in.
enum Refused {
    /// By policies.
    Denied(Verdict),
    /// For this reason.
    Otherwise(&'static str),
}

/// The workload's ports by the server names that lead to them.
pub(crate) type Names = BTreeMap<String, u16>;

/// Decides for calls that come in.
pub(crate) struct InboundDirector {
    own: TrustDomain,
    app: IpAddr,
    names: Arc<ArcSwap<Names>>,
    in_flight: Arc<InFlight>,
    admissions: Arc<Admissions>,
    shared: Shared,
}

/// What all decisions have in common, made once.
struct Shared {
    route: Arc<str>,
    rule: Arc<str>,
    filters: Arc<Filters>,
    retry: Retry,
    mirrors: Arc<[Mirror]>,
}

impl InboundDirector {
    /// For the workload `name` behind `app`.
    pub fn new(
        own: TrustDomain,
        name: &str,
        app: IpAddr,
        names: Arc<ArcSwap<Names>>,
        in_flight: Arc<InFlight>,
        admissions: Arc<Admissions>,
    ) -> Self {
        let shared = Shared {
            route: format!("workload/{}/{name}", admissions.workload.namespace).into(),
            rule: "inbound".into(),
            filters: Arc::default(),
            // That the application does not answer is the caller's to know: it has other endpoints.
            retry: Retry { attempts: 0, codes: Arc::from([]), ..Retry::default() },
            mirrors: Arc::from([]),
        };
        Self { own, app, names, in_flight, admissions, shared }
    }

    /// The application's port that is called, if the caller may.
    fn admit(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        head: Option<&RequestHead<'_>>,
        caller: &Caller<'_>,
    ) -> Result<Admitted, Refused> {
        let port = match &*arrival.entry {
            Entry::Captured { port, .. } => match self.captured(snapshot, *port, head) {
                Admission::Everything => return Ok((*port, None)),
                Admission::Policies => *port,
                Admission::Probes | Admission::Nothing => return Err(Refused::Otherwise(PLAINTEXT)),
            },
            _ => {
                let names = self.names.load();
                let port = arrival.sni.as_deref().and_then(|name| names.get(name));
                *port.ok_or(Refused::Otherwise(UNKNOWN))?
            }
        };
        let verdict = authorize(snapshot, &self.own, &self.admissions.workload, port, head, caller);
        if verdict.is_allow() { Ok((port, Some(verdict))) } else { Err(Refused::Denied(verdict)) }
    }

    /// What is admitted of a call that nobody vouches for.
    fn captured(&self, snapshot: &Snapshot, port: u16, head: Option<&RequestHead<'_>>) -> Admission {
        match head {
            Some(head) => self.admissions.of_request(snapshot, port, head.method, head.path),
            None => self.admissions.of_port(snapshot, port),
        }
    }

    /// Limits do not hold for health checks: who is at them is not ill.
    fn limits(&self, snapshot: &Snapshot, (port, verdict): &Admitted) -> Policies {
        let limits = verdict.as_ref().map(|_| inbound_limits(snapshot, &self.admissions.workload, *port));
        limits.unwrap_or_default()
    }

    fn decision(
        &self,
        snapshot: &Snapshot,
        admitted: Admitted,
        arrival: &Arrival,
        head: &RequestHead<'_>,
    ) -> Decision {
        let policies = self.limits(snapshot, &admitted);
        let (port, verdict) = admitted;
        let found = matches!(*arrival.entry, Entry::Captured { http2: true, .. });
        let protocol = if arrival.http2 || found { AppProtocol::Http2 } else { AppProtocol::Http1 };
        // Who is not known does not say in which lane a request is.
        let lane = lane_from_baggage(head.headers).filter(|_| *arrival.entry == Entry::Inbound);
        Decision {
            route: Arc::clone(&self.shared.route),
            rule: Arc::clone(&self.shared.rule),
            release: None,
            arm: None,
            reason: ArmReason::None,
            lane,
            backend: Backend::Address { address: SocketAddr::new(self.app, port), protocol },
            filters: Arc::clone(&self.shared.filters),
            timeouts: Timeouts::default(),
            retry: self.shared.retry.clone(),
            set_cookie: None,
            unavailable: None,
            sticky: None,
            cors: None,
            hash: None,
            delay: None,
            mirrors: Arc::clone(&self.shared.mirrors),
            tls: Default::default(),
            policies,
            verdict,
        }
    }
}

impl Director for InboundDirector {
    fn direct(
        &self,
        snapshot: &Snapshot,
        arrival: &Arrival,
        head: &RequestHead<'_>,
        caller: &Caller<'_>,
    ) -> Outcome {
        let admitted = match self.admit(snapshot, arrival, Some(head), caller) {
            Ok(admitted) => admitted,
            Err(refused) => return refuse(refused),
        };
        let decision = self.decision(snapshot, admitted, arrival, head);
        // Strangers do not say how long others' calls may take: a trace's id is no secret.
        if *arrival.entry == Entry::Inbound {
            self.in_flight.begin(head.headers, decision.lane.as_ref(), Instant::now());
        }
        Outcome::Forward(Box::new(decision))
    }

    fn direct_tcp(&self, snapshot: &Snapshot, arrival: &Arrival, caller: &Caller<'_>) -> TcpOutcome {
        let to =
            |port| Backend::Address { address: SocketAddr::new(self.app, port), protocol: AppProtocol::Tcp };
        match self.admit(snapshot, arrival, None, caller) {
            Ok((port, Some(verdict))) => {
                let limits = inbound_limits(snapshot, &self.admissions.workload, port);
                TcpOutcome::Allow(to(port), verdict, limits)
            }
            Ok((port, None)) => TcpOutcome::Forward(to(port)),
            Err(Refused::Denied(verdict)) => TcpOutcome::Deny(verdict),
            Err(Refused::Otherwise(reason)) => TcpOutcome::Refuse(reason),
        }
    }
}

fn refuse(refused: Refused) -> Outcome {
    let (reason, verdict) = match refused {
        Refused::Denied(verdict) => (DENIED, Some(verdict)),
        Refused::Otherwise(reason) => (reason, None),
    };
    let status = if reason == UNKNOWN { StatusCode::MISDIRECTED_REQUEST } else { StatusCode::FORBIDDEN };
    Outcome::Local(LocalAnswer {
        status,
        headers: Vec::new(),
        reason,
        route: None,
        policies: Default::default(),
        verdict,
        missed: None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use http::{HeaderMap, Method};
    use tombolo_core::{
        decide::InboundWorkload,
        model::{Lane, SpiffeId},
    };

    use super::*;
    use crate::capture::plaintext::Plaintext;

    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const NAME: &str = "8eeafcedbe74ecca963c12d79622c792.t";

    fn director(in_flight: &Arc<InFlight>) -> InboundDirector {
        let own = TrustDomain::parse("east.example").unwrap();
        let workload = InboundWorkload { namespace: "shop".into(), ..Default::default() };
        let names = ArcSwap::from_pointee(Names::from([(NAME.to_string(), 8080)]));
        let app = "127.0.0.1".parse().unwrap();
        let told = Plaintext {
            ports: [8081].into(),
            probe_paths: ["/healthz".to_string()].into(),
            probe_ports: [9000].into(),
            ..Plaintext::default()
        };
        let (names, in_flight) = (Arc::new(names), Arc::clone(in_flight));
        InboundDirector::new(
            own,
            "checkout-1",
            app,
            names,
            in_flight,
            Arc::new(Admissions { workload, told }),
        )
    }

    fn arrival(sni: Option<&str>, identity: &str, http2: bool) -> Arrival {
        Arrival {
            entry: Arc::new(Entry::Inbound),
            peer: "127.0.0.1:1000".parse().unwrap(),
            local: "127.0.0.1:15006".parse().unwrap(),
            tls: true,
            sni: sni.map(Into::into),
            identity: Some(SpiffeId::parse(identity).unwrap()),
            clients: None,
            http2,
        }
    }

    fn ask(director: &InboundDirector, arrival: &Arrival, headers: &HeaderMap) -> Outcome {
        let head = RequestHead {
            scheme: "http",
            host: "checkout",
            method: &Method::GET,
            path: "/",
            query: None,
            headers,
        };
        director.direct(&Snapshot::default(), arrival, &head, &arrival.caller(0))
    }

    fn status(outcome: &Outcome) -> (u16, &'static str) {
        match outcome {
            Outcome::Local(answer) => (answer.status.as_u16(), answer.reason),
            Outcome::Forward(decision) => panic!("{decision:?}"),
        }
    }

    #[test]
    fn the_name_leads_to_the_port_in_the_protocol_of_the_caller() {
        let director = director(&Arc::default());
        for (http2, protocol) in [(false, AppProtocol::Http1), (true, AppProtocol::Http2)] {
            let arrival = arrival(Some(NAME), "spiffe://east.example/ns/shop/sa/web", http2);
            let Outcome::Forward(decision) = ask(&director, &arrival, &HeaderMap::new()) else { panic!() };
            let address = "127.0.0.1:8080".parse().unwrap();
            assert_eq!(decision.backend, Backend::Address { address, protocol });
            assert_eq!((&*decision.route, decision.lane), ("workload/shop/checkout-1", None));
        }
    }

    #[test]
    fn other_names_and_callers_are_refused() {
        let director = director(&Arc::default());
        let (ours, foreign) =
            ("spiffe://east.example/ns/shop/sa/web", "spiffe://west.example/ns/shop/sa/web");
        let none = HeaderMap::new();
        assert_eq!(status(&ask(&director, &arrival(None, ours, false), &none)), (421, UNKNOWN));
        assert_eq!(status(&ask(&director, &arrival(Some("x.t"), ours, false), &none)), (421, UNKNOWN));
        assert_eq!(status(&ask(&director, &arrival(Some(NAME), foreign, false), &none)), (403, DENIED));
        let tcp = |arrival: &Arrival| director.direct_tcp(&Snapshot::default(), arrival, &arrival.caller(0));
        let denied = tcp(&arrival(Some(NAME), foreign, false));
        assert!(
            matches!(denied, TcpOutcome::Deny(verdict) if verdict.enforced.policy() == "foreign-trust-domain")
        );
        assert_eq!(tcp(&arrival(None, ours, false)), TcpOutcome::Refuse(UNKNOWN));
        assert!(matches!(tcp(&arrival(Some(NAME), ours, false)), TcpOutcome::Allow(..)));
    }

    #[test]
    fn plaintext_that_was_captured_is_held_to_the_mode_of_its_port() {
        let in_flight = Arc::<InFlight>::default();
        let director = director(&in_flight);
        let captured = |port, http2| Arrival {
            entry: Arc::new(Entry::Captured { port, http2 }),
            tls: false,
            sni: None,
            identity: None,
            ..arrival(None, "spiffe://east.example/ns/shop/sa/web", false)
        };
        let mut headers = HeaderMap::new();
        headers.insert("baggage", "tombolo.lane=v2".parse().unwrap());
        headers.insert("x-tombolo-timeout", "9S".parse().unwrap());
        headers.insert("traceparent", TRACE.parse().unwrap());
        let goes_to = |port, path, http2| {
            let (arrival, method) = (captured(port, http2), &Method::GET);
            let head =
                RequestHead { scheme: "http", host: "x", method, path, query: None, headers: &headers };
            match director.direct(&Snapshot::default(), &arrival, &head, &arrival.caller(0)) {
                Outcome::Forward(decision) => {
                    assert_eq!(decision.lane, None, "not for strangers to say");
                    Ok(decision.backend)
                }
                Outcome::Local(answer) => Err((answer.status.as_u16(), answer.reason)),
            }
        };
        let app = |port, protocol| {
            Ok(Backend::Address { address: SocketAddr::new("127.0.0.1".parse().unwrap(), port), protocol })
        };
        assert_eq!(goes_to(8080, "/", false), Err((403, PLAINTEXT)));
        assert_eq!(goes_to(8080, "/healthz", false), app(8080, AppProtocol::Http1));
        assert_eq!(goes_to(8081, "/", false), app(8081, AppProtocol::Http1));
        assert_eq!(goes_to(8081, "/", true), app(8081, AppProtocol::Http2));
        let tcp = |port| {
            let arrival = captured(port, false);
            director.direct_tcp(&Snapshot::default(), &arrival, &arrival.caller(0))
        };
        assert_eq!(tcp(8080), TcpOutcome::Refuse(PLAINTEXT));
        assert!(matches!(tcp(8081), TcpOutcome::Allow(..)));
        assert!(matches!(tcp(9000), TcpOutcome::Forward(_)));
        assert_eq!(in_flight.deadlines.find(&headers, Instant::now()), None, "nor how long others wait");
    }

    #[test]
    fn a_lane_and_a_deadline_are_remembered() {
        let in_flight = Arc::<InFlight>::default();
        let director = director(&in_flight);
        let arrival = arrival(Some(NAME), "spiffe://east.example/ns/shop/sa/web", false);
        let mut headers = HeaderMap::new();
        headers.insert("baggage", "a=b,tombolo.lane=v2".parse().unwrap());
        headers.insert("traceparent", TRACE.parse().unwrap());
        headers.insert("x-tombolo-timeout", "9S".parse().unwrap());
        let Outcome::Forward(decision) = ask(&director, &arrival, &headers) else { panic!() };
        let v2 = Some(Lane::parse("v2").unwrap());
        assert_eq!(decision.lane, v2);
        headers.remove("baggage");
        let now = Instant::now();
        assert_eq!(in_flight.lanes.find(&headers, now), v2);
        assert!(in_flight.deadlines.find(&headers, now).is_some_and(|left| left <= Duration::from_secs(9)));
    }
}
