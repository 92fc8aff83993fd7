//! The part of a TrafficPolicy that is for Services.

use std::{fmt::Display, time::Duration};

use super::{common::Checker, traffic::duration};
use crate::resources::kinds::{
    CapacitySpec, CircuitBreakerSpec, FaultSpec, HealthCheckSpec, HealthCheckType, InboundSpec,
    LoadBalancerSpec, LoadBalancerType, LocalitySpec, OutlierSpec, RetryBudgetSpec, TrafficPolicy,
};

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// True if it asks for something of services.
pub(super) fn says(policy: &TrafficPolicy) -> bool {
    given(policy).into_iter().any(|(_, given)| given)
}

fn given(policy: &TrafficPolicy) -> [(&'static str, bool); 10] {
    [
        ("loadBalancer", policy.load_balancer.is_some()),
        ("locality", policy.locality.is_some()),
        ("outlierDetection", policy.outlier_detection.is_some()),
        ("healthCheck", policy.health_check.is_some()),
        ("circuitBreaker", policy.circuit_breaker.is_some()),
        ("retryBudget", policy.retry_budget.is_some()),
        ("timeouts", policy.timeouts.is_some()),
        ("fault", policy.fault.is_some()),
        ("inbound", policy.inbound.is_some()),
        ("capacity", policy.capacity.is_some()),
    ]
}

pub(super) fn of_services(c: &mut Checker, policy: &TrafficPolicy) {
    if let Some(other) = policy.target_refs.iter().find(|target| target.kind != "Service") {
        for (field, _) in given(policy).into_iter().filter(|(_, given)| *given) {
            let message = format!("is for Services, and this targets {} {}", other.kind, other.name);
            c.at(field, |c| c.fail(message, "target a Service with a TrafficPolicy of its own"));
        }
    }
    if let Some(spec) = &policy.load_balancer {
        c.at("loadBalancer", |c| load_balancer(c, spec));
    }
    if let Some(spec) = &policy.locality {
        c.at("locality", |c| locality(c, spec));
    }
    if let Some(spec) = &policy.outlier_detection {
        c.at("outlierDetection", |c| outliers(c, spec));
    }
    if let Some(spec) = &policy.health_check {
        c.at("healthCheck", |c| health_check(c, spec));
    }
    if let Some(spec) = &policy.circuit_breaker {
        c.at("circuitBreaker", |c| circuit_breaker(c, spec));
    }
    if let Some(spec) = &policy.retry_budget {
        c.at("retryBudget", |c| retry_budget(c, spec));
    }
    if let Some(spec) = &policy.timeouts {
        c.at("timeouts", |c| super::routes::timeouts(c, spec));
    }
    if let Some(spec) = &policy.fault {
        c.at("fault", |c| fault(c, spec));
    }
    if let Some(spec) = &policy.inbound {
        c.at("inbound", |c| inbound(c, spec));
    }
    if let Some(spec) = &policy.capacity {
        c.at("capacity", |c| capacity(c, spec));
    }
}

fn within<T: PartialOrd + Display + Copy>(c: &mut Checker, field: &str, value: Option<T>, least: T, most: T) {
    let Some(value) = value.filter(|value| *value < least || *value > most) else { return };
    c.at(field, |c| c.fail(format!("{value} is out of bounds"), &format!("use {least} to {most}")));
}

fn load_balancer(c: &mut Checker, spec: &LoadBalancerSpec) {
    within(c, "subsetSize", spec.subset_size, 2, 1000);
    duration(c, "slowStart", spec.slow_start.as_deref(), MILLISECOND, 15 * MINUTE);
    let Some(key) = &spec.hash_key else { return };
    c.at("hashKey", |c| {
        let hashes = spec.r#type == LoadBalancerType::ConsistentHash;
        c.require(hashes, "is of no use to this type", "use type ConsistentHash, or remove it");
        let given = [key.header.is_some(), key.cookie.is_some(), key.source_ip == Some(true)];
        let count = given.into_iter().filter(|given| *given).count();
        c.require(count == 1, format!("has {count} keys"), "use one of header, cookie, sourceIP: true");
        for (field, name) in [("header", &key.header), ("cookie", &key.cookie)] {
            if let Some(name) = name {
                c.header_name(field, name);
            }
        }
    });
}

fn locality(c: &mut Checker, spec: &LocalitySpec) {
    within(c, "overprovisioningPercent", spec.overprovisioning_percent, 100, 1000);
    within(c, "failBackPercentPerSecond", spec.fail_back_percent_per_second, 0, 100);
}

fn outliers(c: &mut Checker, spec: &OutlierSpec) {
    within(c, "consecutiveFailures", spec.consecutive_failures, 0, 1000);
    within(c, "maxEjectedPercent", spec.max_ejected_percent, 0, 100);
    within(c, "successRatePercent", spec.success_rate_percent, 0, 100);
    within(c, "latencyFactor", spec.latency_factor, 0, 100);
    within(c, "minimumRequests", spec.minimum_requests, 1, 1_000_000);
    duration(c, "baseEjection", spec.base_ejection.as_deref(), 100 * MILLISECOND, HOUR);
    duration(c, "maxEjection", spec.max_ejection.as_deref(), 100 * MILLISECOND, 24 * HOUR);
    duration(c, "interval", spec.interval.as_deref(), SECOND, 10 * MINUTE);
}

fn health_check(c: &mut Checker, spec: &HealthCheckSpec) {
    use HealthCheckType::{Grpc, Http, Tcp};
    let of = |fits: bool, types: &str| fits.then_some(()).ok_or_else(|| format!("is for {types} alone"));
    for (field, given, fits) in [
        ("path", spec.path.is_some(), of(spec.r#type == Http, "HTTP")),
        ("host", spec.host.is_some(), of(spec.r#type != Tcp, "HTTP and GRPC")),
        ("expectedStatuses", !spec.expected_statuses.is_empty(), of(spec.r#type == Http, "HTTP")),
        ("service", spec.service.is_some(), of(spec.r#type == Grpc, "GRPC")),
    ] {
        if let (true, Err(message)) = (given, fits) {
            c.at(field, |c| c.fail(message, "remove it, or change type"));
        }
    }
    if let Some(path) = &spec.path {
        let fits = path.starts_with('/') && path.parse::<http::uri::PathAndQuery>().is_ok();
        c.at("path", |c| c.require(fits, format!("{path:?} is no path"), "begin it with /, and encode it"));
    }
    if let Some(host) = &spec.host {
        let fits = host.parse::<http::uri::Authority>().is_ok();
        c.at("host", |c| {
            c.require(fits, format!("{host:?} is no host"), "write a name, with or without a port")
        });
    }
    c.at_most("expectedStatuses", spec.expected_statuses.len(), 16);
    c.each("expectedStatuses", &spec.expected_statuses, |c, statuses| {
        c.require(statuses.bounds().is_some(), "are no statuses", "write one from 100 to 599, or 200-299");
    });
    within(c, "port", spec.port, 1, u16::MAX);
    within(c, "healthyThreshold", spec.healthy_threshold, 1, 100);
    within(c, "unhealthyThreshold", spec.unhealthy_threshold, 1, 100);
    within(c, "jitterPercent", spec.jitter_percent, 0, 100);
    duration(c, "interval", spec.interval.as_deref(), 100 * MILLISECOND, HOUR);
    duration(c, "timeout", spec.timeout.as_deref(), 10 * MILLISECOND, MINUTE);
}

fn circuit_breaker(c: &mut Checker, spec: &CircuitBreakerSpec) {
    let bounds = [
        ("maxRequests", spec.max_requests),
        ("maxRequestsPerEndpoint", spec.max_requests_per_endpoint),
        ("maxPendingRequests", spec.max_pending_requests),
    ];
    let bounded = bounds.iter().any(|(_, bound)| bound.is_some()) || spec.adaptive_concurrency == Some(true);
    c.require(bounded, "bounds nothing", "give maxRequests or another bound, or remove it");
    for (field, bound) in bounds {
        within(c, field, bound, 1, u32::MAX);
    }
}

fn capacity(c: &mut Checker, spec: &CapacitySpec) {
    const MOST: u32 = 10_000_000;
    let given = spec.requests_per_second.or(spec.requests_per_second_per_endpoint).is_some();
    c.require(given, "asks for nothing", "give requestsPerSecond or requestsPerSecondPerEndpoint");
    within(c, "requestsPerSecond", spec.requests_per_second, 1, MOST);
    within(c, "requestsPerSecondPerEndpoint", spec.requests_per_second_per_endpoint, 1, MOST);
}

fn retry_budget(c: &mut Checker, spec: &RetryBudgetSpec) {
    within(c, "percent", spec.percent, 0, 100);
    within(c, "minPerSecond", spec.min_per_second, 0, 10_000);
}

fn fault(c: &mut Checker, spec: &FaultSpec) {
    c.require(
        spec.delay.is_some() || spec.abort.is_some(),
        "does nothing",
        "give delay or abort, or remove it",
    );
    if let Some(delay) = &spec.delay {
        c.at("delay", |c| {
            percent(c, delay.percent);
            duration(c, "duration", Some(&delay.duration), MILLISECOND, HOUR);
        });
    }
    if let Some(abort) = &spec.abort {
        c.at("abort", |c| {
            percent(c, abort.percent);
            within(c, "status", Some(abort.status), 200, 599);
        });
    }
    c.at_most("headers", spec.headers.len(), 16);
    c.each("headers", &spec.headers, |c, header| {
        c.header_name("name", &header.name);
        c.header_value("value", &header.value);
    });
}

fn inbound(c: &mut Checker, spec: &InboundSpec) {
    let says = spec.mode.is_some()
        || !spec.ports.is_empty()
        || !spec.probe_paths.is_empty()
        || spec.max_connections.is_some()
        || spec.max_requests.is_some();
    c.require(says, "says nothing", "give mode, maxRequests or another field, or remove it");
    c.at_most("ports", spec.ports.len(), 64);
    c.each("ports", &spec.ports, |c, port| c.port("port", port.port));
    let ports: Vec<String> = spec.ports.iter().map(|port| port.port.to_string()).collect();
    c.unique("ports", "port", ports.iter().map(String::as_str));
    c.at_most("probePaths", spec.probe_paths.len(), 16);
    c.each("probePaths", &spec.probe_paths, |c, path| {
        let fits =
            path.starts_with('/') && path.bytes().all(|b| b.is_ascii_graphic() && b != b'?' && b != b'#');
        c.require(fits, format!("{path:?} is not a path"), "write one such as /healthz, without a query");
    });
    within(c, "maxConnections", spec.max_connections, 1, u32::MAX);
    within(c, "maxRequests", spec.max_requests, 1, u32::MAX);
}

fn percent(c: &mut Checker, percent: f64) {
    let hundredths = percent * 100.0;
    let fits = (0.0..=100.0).contains(&percent) && (hundredths - hundredths.round()).abs() < 1e-6;
    c.at("percent", |c| {
        c.require(fits, format!("{percent} is no share"), "use 0 to 100, with two decimals at most")
    });
}
