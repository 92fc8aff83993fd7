use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::{
    decide::{ArmReason, Backend, Decision, MissedArm, SharedLimit},
    model::{AppProtocol, Endpoint, EndpointHealth, Lane, Reach, ServiceKey, SpiffeId, Transport},
    proxy::{Arrival, Entry},
    quota::Quotas,
    telemetry::requests::MAX_LABEL_SETS,
};

#[test]
fn shares_of_limits_that_the_cluster_holds_are_shown_while_they_are_in_use() {
    let (telemetry, quotas) = (Telemetry::new(AccessLog::off()), Quotas::together());
    telemetry.watch_quotas(&quotas);
    let limit =
        SharedLimit { policy: "shop/p".into(), requests: 100, per: Duration::from_secs(1), burst: 100 };
    let now = std::time::Instant::now();
    assert_eq!((0..15).filter_map(|_| quotas.take(&limit, now)).count(), 15);
    let text = telemetry.encode();
    for line in [
        "tombolo_shared_limit_requests_total{policy=\"shop/p\",result=\"allowed\"} 10",
        "tombolo_shared_limit_requests_total{policy=\"shop/p\",result=\"refused\"} 5",
        "tombolo_shared_limit_share{policy=\"shop/p\"} 0.1",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    quotas.uses(now + Duration::from_secs(70));
    assert!(!telemetry.encode().contains("shop/p"), "it was given back");
}

/// A GET that was answered here.
fn answered<'a>(status: u16, route: &'a str) -> RequestEnd<'a> {
    RequestEnd {
        arrival: None,
        method: &http::Method::GET,
        host: "a",
        path: "/",
        version: http::Version::HTTP_11,
        status,
        reason: None,
        decision: None,
        route: Some(route),
        endpoint: None,
        upstream: None,
        tries: 0,
        duration: Duration::from_millis(3),
        last_try: None,
        upstream_latency: None,
        received: 10,
        sent: 0,
        request_id: None,
        trace_id: None,
        span: None,
        grpc: None,
        user_agent: None,
        verdict: None,
        missed: None,
    }
}

fn arrival(entry: Entry, identity: Option<&str>) -> Arrival {
    Arrival {
        entry: Arc::new(entry),
        peer: "127.0.0.1:1000".parse().unwrap(),
        local: "127.0.0.1:80".parse().unwrap(),
        tls: true,
        sni: None,
        identity: identity.map(|id| SpiffeId::parse(id).unwrap()),
        clients: None,
        http2: false,
    }
}

fn decision() -> Decision {
    Decision {
        route: "httproute/shop/pay".into(),
        rule: "0".into(),
        release: Some("shop/v2".into()),
        arm: Some("v2".into()),
        reason: ArmReason::Rule(0),
        unavailable: None,
        lane: Some(Lane::parse("gray").unwrap()),
        backend: Backend::Service {
            service: ServiceKey::parse("cluster/shop/checkout").unwrap(),
            port: 80,
            labels: Arc::default(),
            protocol: AppProtocol::Http1,
        },
        filters: Arc::default(),
        timeouts: Default::default(),
        retry: Default::default(),
        set_cookie: None,
        hash: None,
        delay: None,
        mirrors: Arc::from([]),
        tls: Default::default(),
        sticky: None,
        cors: None,
        policies: Default::default(),
        verdict: None,
    }
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: "west/checkout-1".into(),
        reach: Reach::Direct("127.0.0.1:1".parse().unwrap()),
        transport: Transport::Plaintext,
        cluster: "west".into(),
        locality: Default::default(),
        weight: 1,
        labels: Default::default(),
        lane: None,
        health: EndpointHealth::Healthy,
        stale: false,
        target_port: 1,
        exported: false,
    }
}

/// The labels of the only series of this histogram, and how many requests it has.
fn series(telemetry: &Telemetry, name: &str) -> (String, String) {
    let text = telemetry.encode();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(&format!("{name}_count{{")));
    let line = lines.next().unwrap_or_else(|| panic!("no {name} in {text}"));
    assert_eq!(lines.next(), None, "more than one series");
    let (labels, count) = line.split_once("} ").unwrap();
    (labels.replace('"', ""), count.into())
}

#[test]
fn requests_that_come_in_are_those_of_a_server() {
    let telemetry = Telemetry::new(AccessLog::off());
    let (decision, endpoint) = (decision(), endpoint());
    let edge = arrival(Entry::Edge(crate::decide::BindKey { address: None, port: 443 }), None);
    let end = RequestEnd {
        arrival: Some(&edge),
        decision: Some(&decision),
        endpoint: Some(&endpoint),
        reason: Some("upstream_timeout"),
        ..answered(504, "")
    };
    telemetry.request(&end);
    telemetry.request(&end);
    let labels = "http_request_method=GET,http_response_status_code=504,error_type=upstream_timeout,url_scheme=https,\
                  tombolo_route=httproute/shop/pay,tombolo_destination=cluster/shop/checkout,tombolo_arm=v2,\
                  tombolo_lane=gray,tombolo_cluster=west,tombolo_reason=upstream_timeout";
    assert_eq!(series(&telemetry, "http_server_request_duration_seconds"), (labels.into(), "2".into()));
    let text = telemetry.encode();
    assert!(text.contains("tombolo_bytes_total{kind=\"received\"} 20"), "{text}");
    assert!(text.contains("http_server_request_duration_seconds_bucket{le=\"0.005\","), "{text}");
}

#[test]
fn callers_and_codes_of_calls_are_told() {
    let telemetry = Telemetry::new(AccessLog::off());
    let inbound = arrival(Entry::Inbound, Some("spiffe://east/ns/shop/sa/web"));
    telemetry.request(&RequestEnd { arrival: Some(&inbound), grpc: Some(Some(14)), ..answered(200, "r") });
    let labels = "http_request_method=GET,http_response_status_code=200,rpc_grpc_status_code=14,url_scheme=http,\
                  tombolo_route=r,tombolo_source=spiffe://east/ns/shop/sa/web";
    assert_eq!(series(&telemetry, "http_server_request_duration_seconds").0, labels);
}

#[test]
fn requests_of_the_application_are_those_of_a_client() {
    let telemetry = Telemetry::new(AccessLog::off());
    let service = ServiceKey::parse("clusterset/shop/checkout").unwrap();
    let outbound = arrival(Entry::Outbound { service, port: 80, http2: false, host: None }, None);
    let brew = http::Method::from_bytes(b"BREW").unwrap();
    let end = RequestEnd { arrival: Some(&outbound), method: &brew, ..answered(404, "r") };
    telemetry.request(&end);
    let labels = "http_request_method=_OTHER,http_response_status_code=404,error_type=404,url_scheme=http,\
                  server_address=checkout.shop.svc.clusterset.local,server_port=80,tombolo_route=r";
    assert_eq!(series(&telemetry, "http_client_request_duration_seconds"), (labels.into(), "1".into()));
}

#[test]
fn whatever_differs_is_another_series() {
    let telemetry = Telemetry::new(AccessLog::off());
    let (decision, endpoint) = (decision(), endpoint());
    let callers = ["spiffe://east/ns/shop/sa/web", "spiffe://west/ns/shop/sa/web"];
    let [east, west] = callers.map(|caller| arrival(Entry::Inbound, Some(caller)));
    let plain = answered(200, "r");
    let stable = Decision { arm: Some("stable".into()), ..self::decision() };
    let all = [
        RequestEnd { ..answered(201, "r") },
        RequestEnd { ..answered(200, "s") },
        RequestEnd { reason: Some("redirect"), ..answered(200, "r") },
        RequestEnd { method: &http::Method::PUT, ..answered(200, "r") },
        RequestEnd { grpc: Some(None), ..answered(200, "r") },
        RequestEnd { grpc: Some(Some(0)), ..answered(200, "r") },
        RequestEnd { arrival: Some(&east), ..answered(200, "r") },
        RequestEnd { arrival: Some(&west), ..answered(200, "r") },
        RequestEnd { decision: Some(&decision), ..answered(200, "r") },
        RequestEnd { decision: Some(&stable), ..answered(200, "r") },
        RequestEnd { endpoint: Some(&endpoint), ..answered(200, "r") },
        plain,
    ];
    for _ in 0..2 {
        all.iter().for_each(|end| telemetry.request(end));
        assert_eq!(telemetry.requests.len(), all.len());
    }
}

#[test]
fn label_sets_are_bounded() {
    let telemetry = Telemetry::new(AccessLog::off());
    for n in 0..MAX_LABEL_SETS + 10 {
        telemetry.request(&answered(200, &format!("httproute/a/{n}")));
    }
    let text = telemetry.encode();
    let counts = || text.lines().filter(|l| l.starts_with("http_server_request_duration_seconds_count{"));
    assert_eq!(counts().count(), MAX_LABEL_SETS + 1);
    let over = counts().find(|l| l.contains("overflow")).unwrap();
    assert_eq!(over, "http_server_request_duration_seconds_count{otel_metric_overflow=\"true\"} 10");
}

#[test]
fn a_listeners_counters_are_shown() {
    let telemetry = Telemetry::new(AccessLog::off());
    let stats = Arc::new(ListenStats::default());
    stats.accepted.store(9, Relaxed);
    stats.unknown_name.store(2, Relaxed);
    stats.probes.store(4, Relaxed);
    stats.bad_heads.store(1, Relaxed);
    telemetry.watch_listener("mesh", true, stats.clone());
    let text = telemetry.encode();
    assert!(text.contains("tombolo_passthrough_connections_total 3"), "{text}");
    assert!(text.contains("tombolo_passthrough_probes_total 4"), "{text}");
    assert!(text.contains("tombolo_listener_accepted_total{listener=\"mesh\"} 9"), "{text}");
    assert!(text.contains("tombolo_listener_bad_heads_total{listener=\"mesh\"} 1"), "{text}");
}

#[test]
fn every_metric_is_documented() {
    let text = Telemetry::new(AccessLog::off()).encode();
    let documented = include_str!("../../../../TELEMETRY.md");
    for described in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = described.split_once(' ').unwrap();
        let name = if kind == "counter" { format!("`{name}_total`") } else { format!("`{name}`") };
        assert!(documented.contains(&name), "{name} is not in TELEMETRY.md");
    }
}

#[test]
fn a_request_that_its_arm_could_not_take_is_a_failure_of_the_arm() {
    let telemetry = Telemetry::new(AccessLog::off());
    let missed = MissedArm { release: "shop/a".into(), arm: "v2".into() };
    for missed in [Some(&missed), None] {
        telemetry.request(&RequestEnd { missed, ..answered(503, "r") });
    }
    let arms = telemetry.arms();
    let told: Vec<_> =
        arms.iter().map(|arm| (&*arm.release, &*arm.arm, arm.requests, arm.failures)).collect();
    assert_eq!(told, [("shop/a", "v2", 1, 1)]);
}
