//! What TrafficPolicies say of services, from their documents. What is out of bounds was refused with its document.

use std::time::Duration;

use http::{HeaderName, StatusCode};

use crate::{
    decide::{
        Algorithm, Balancing, Breaker, Fault, HashKey, HealthCheck, HealthQuestion, Localities, Outliers,
        RetryBudget, Share,
    },
    resources::{
        kinds::{
            CircuitBreakerSpec, FaultSpec, HashKeySpec, HealthCheckSpec, HealthCheckType, LoadBalancerSpec,
            LoadBalancerType, LocalitySpec, OutlierSpec, RetryBudgetSpec, StatusesSpec,
        },
        parse_duration,
    },
};

fn duration(text: &Option<String>) -> Option<Duration> {
    text.as_deref().and_then(|text| parse_duration(text).ok())
}

pub(super) fn balancing(spec: &LoadBalancerSpec) -> Balancing {
    let algorithm = match spec.r#type {
        LoadBalancerType::PeakEwma => Algorithm::PeakEwma,
        LoadBalancerType::LeastRequest => Algorithm::LeastRequest,
        LoadBalancerType::RoundRobin => Algorithm::RoundRobin,
        LoadBalancerType::ConsistentHash => Algorithm::Hash(hash_key(spec.hash_key.as_ref())),
    };
    Balancing {
        algorithm,
        slow_start: duration(&spec.slow_start).unwrap_or_default(),
        subset: spec.subset_size,
    }
}

fn hash_key(spec: Option<&HashKeySpec>) -> HashKey {
    let header = |name: &String| HeaderName::from_bytes(name.as_bytes()).ok();
    match spec {
        Some(HashKeySpec { header: Some(name), .. }) => header(name).map_or(HashKey::Source, HashKey::Header),
        Some(HashKeySpec { cookie: Some(name), .. }) => HashKey::Cookie(name.as_str().into()),
        _ => HashKey::Source,
    }
}

pub(super) fn localities(spec: &LocalitySpec) -> Localities {
    let usual = Localities::default();
    Localities {
        overprovisioning: spec.overprovisioning_percent.unwrap_or(usual.overprovisioning),
        fail_back: spec.fail_back_percent_per_second.unwrap_or(usual.fail_back),
    }
}

pub(super) fn outliers(spec: &OutlierSpec) -> Outliers {
    let usual = Outliers::default();
    let ejection = duration(&spec.base_ejection).unwrap_or(usual.ejection);
    Outliers {
        failures: spec.consecutive_failures.unwrap_or(usual.failures),
        ejection,
        longest: duration(&spec.max_ejection).unwrap_or(usual.longest).max(ejection),
        most: spec.max_ejected_percent.unwrap_or(usual.most),
        interval: duration(&spec.interval).unwrap_or(usual.interval),
        success_rate: spec.success_rate_percent.unwrap_or(usual.success_rate),
        latency: spec.latency_factor.unwrap_or(usual.latency),
        requests: spec.minimum_requests.unwrap_or(usual.requests),
    }
}

pub(super) fn health_check(spec: &HealthCheckSpec) -> HealthCheck {
    let text = |text: &Option<String>| text.as_deref().map(Into::into);
    let question = match spec.r#type {
        HealthCheckType::Http => HealthQuestion::Http {
            path: text(&spec.path).unwrap_or_else(|| "/".into()),
            host: text(&spec.host),
            statuses: match spec.expected_statuses.as_slice() {
                [] => [(200, 299)].into(),
                some => some.iter().filter_map(StatusesSpec::bounds).collect(),
            },
        },
        HealthCheckType::Grpc => {
            HealthQuestion::Grpc { service: text(&spec.service).unwrap_or_default(), host: text(&spec.host) }
        }
        HealthCheckType::Tcp => HealthQuestion::Tcp,
    };
    HealthCheck {
        question,
        port: spec.port,
        interval: duration(&spec.interval).unwrap_or(Duration::from_secs(10)),
        timeout: duration(&spec.timeout).unwrap_or(Duration::from_secs(1)),
        healthy: spec.healthy_threshold.unwrap_or(2),
        unhealthy: spec.unhealthy_threshold.unwrap_or(3),
        jitter: spec.jitter_percent.unwrap_or(20),
    }
}

pub(super) fn breaker(spec: &CircuitBreakerSpec) -> Breaker {
    Breaker {
        requests: spec.max_requests,
        per_endpoint: spec.max_requests_per_endpoint,
        pending: spec.max_pending_requests,
        adaptive: spec.adaptive_concurrency == Some(true),
    }
}

pub(super) fn retries(spec: &RetryBudgetSpec) -> RetryBudget {
    let usual = RetryBudget::default();
    RetryBudget {
        percent: spec.percent.unwrap_or(usual.percent),
        per_second: spec.min_per_second.unwrap_or(usual.per_second),
    }
}

pub(super) fn fault(spec: &FaultSpec) -> Fault {
    // Checked to be 0 to 100.
    let share = |percent: f64| Share((percent * 100.0).round() as u16);
    let header = |name: &str| HeaderName::from_bytes(name.as_bytes()).ok();
    Fault {
        delay: spec
            .delay
            .as_ref()
            .and_then(|delay| Some((share(delay.percent), parse_duration(&delay.duration).ok()?))),
        abort: spec
            .abort
            .as_ref()
            .and_then(|abort| Some((share(abort.percent), StatusCode::from_u16(abort.status).ok()?))),
        headers: spec
            .headers
            .iter()
            .filter_map(|h| Some((header(&h.name)?, h.value.as_str().into())))
            .collect(),
    }
}
