//! TrafficPolicy.

use std::time::Duration;

use super::{auth::external_auth, common::Checker};
use crate::{
    decide::Cidr,
    resources::{
        duration::parse_duration,
        kinds::{
            CompressionSpec, IpAccessSpec, RateLimitSpec, RequestLimitsSpec, SharedRateLimitSpec,
            TrafficPolicy, TrafficTargetRef,
        },
    },
};

/// Requests in a period or burst of a rate limit.
const MOST_REQUESTS: u32 = 1_000_000;
/// The same of one that a cluster shares.
const MOST_SHARED: u32 = 1_000_000_000;
const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn traffic_policy(c: &mut Checker, policy: &TrafficPolicy) {
    let count = policy.target_refs.len();
    c.at("targetRefs", |c| {
        c.require((1..=16).contains(&count), format!("has {count} entries"), "use 1 to 16")
    });
    c.each("targetRefs", &policy.target_refs, target);
    let names: Vec<String> = policy
        .target_refs
        .iter()
        .map(|t| format!("{} {} {}", t.kind, t.name, t.section_name.as_deref().unwrap_or_default()))
        .collect();
    c.unique("targetRefs", "target", names.iter().map(|name| name.trim_end()));
    let says = policy.ip_access.is_some()
        || policy.request_limits.is_some()
        || policy.max_connections.is_some()
        || policy.rate_limit.is_some()
        || policy.shared_rate_limit.is_some()
        || policy.jwt.is_some()
        || policy.external_auth.is_some()
        || policy.compression.is_some()
        || policy.proxy_protocol.is_some()
        || super::traffic_service::says(policy);
    c.require(says, "asks for nothing", "add rateLimit, ipAccess or another field, or remove it");
    if let Some(access) = &policy.ip_access {
        c.at("ipAccess", |c| ip_access(c, access));
    }
    if let Some(limits) = &policy.request_limits {
        c.at("requestLimits", |c| request_limits(c, limits));
    }
    if policy.max_connections == Some(0) {
        c.at("maxConnections", |c| c.fail("0 lets nobody in", "use at least 1"));
    }
    if let Some(limit) = &policy.rate_limit {
        c.at("rateLimit", |c| rate_limit(c, limit));
    }
    if let Some(limit) = &policy.shared_rate_limit {
        c.at("sharedRateLimit", |c| shared_limit(c, limit));
    }
    if let Some(jwt) = &policy.jwt {
        c.at("jwt", |c| super::jwt::jwt(c, jwt));
    }
    if let Some(auth) = &policy.external_auth {
        c.at("externalAuth", |c| external_auth(c, auth, true));
    }
    if policy.proxy_protocol.is_some() {
        let fits = policy.target_refs.iter().all(|target| target.kind == "Service");
        let hint = "put it into a TrafficPolicy of its own whose targets are Services";
        c.at("proxyProtocol", |c| c.require(fits, "is said to backends, and a target is none", hint));
    }
    if let Some(compression) = &policy.compression {
        c.at("compression", |c| self::compression(c, compression));
    }
    super::traffic_service::of_services(c, policy);
}

fn target(c: &mut Checker, target: &TrafficTargetRef) {
    let known = matches!(
        (target.group.as_str(), target.kind.as_str()),
        ("gateway.networking.k8s.io", "Gateway" | "ListenerSet" | "HTTPRoute" | "GRPCRoute")
            | ("", "Service")
    );
    let hint = "use a Gateway, ListenerSet, HTTPRoute or GRPCRoute of group gateway.networking.k8s.io, or a Service of group \"\"";
    c.at("kind", |c| c.require(known, format!("{:?} of group {:?}", target.kind, target.group), hint));
    c.dns_name("name", &target.name);
    let fits = target.kind != "Service" || target.section_name.is_none();
    c.at("sectionName", |c| c.require(fits, "a Service has no sections here", "remove it"));
}

fn ip_access(c: &mut Checker, access: &IpAccessSpec) {
    let empty = access.allow.is_empty() && access.deny.is_empty();
    c.require(!empty, "has neither allow nor deny", "list addresses, or remove it");
    for (field, list) in [("allow", &access.allow), ("deny", &access.deny)] {
        c.at_most(field, list.len(), 4096);
        c.each(field, list, |c, text| {
            if let Err(error) = Cidr::parse(text) {
                c.fail(error, "write an address or a block such as 10.0.0.0/8 or 2001:db8::/32");
            }
        });
    }
}

fn request_limits(c: &mut Checker, limits: &RequestLimitsSpec) {
    let none = limits.body_bytes.is_none() && limits.header_bytes.is_none() && limits.header_count.is_none();
    c.require(!none, "limits nothing", "give bodyBytes, headerBytes or headerCount");
}

fn counts(c: &mut Checker, counts: [(&str, Option<u32>); 2], most: u32) {
    for (field, count) in counts {
        let fits = count.is_none_or(|count| (1..=most).contains(&count));
        c.at(field, |c| c.require(fits, "is out of bounds", &format!("use 1 to {most}")));
    }
}

fn shared_limit(c: &mut Checker, limit: &SharedRateLimitSpec) {
    counts(c, [("requests", Some(limit.requests)), ("burst", limit.burst)], MOST_SHARED);
    duration(c, "per", limit.per.as_deref(), Duration::from_secs(1), DAY);
    c.at("key", |c| {
        let hint = "use rateLimit for a bound for each key (each proxy counts alone), and this one for all of them together";
        c.require(limit.key.is_none(), "is not possible here: the cluster holds one bound for all clients", hint);
    });
}

fn rate_limit(c: &mut Checker, limit: &RateLimitSpec) {
    counts(c, [("requests", Some(limit.requests)), ("burst", limit.burst)], MOST_REQUESTS);
    duration(c, "per", limit.per.as_deref(), Duration::from_secs(1), DAY);
    let key = &limit.key;
    let given =
        [key.client_ip == Some(true), key.header.is_some(), key.cookie.is_some(), key.jwt_claim.is_some()];
    let count = given.into_iter().filter(|given| *given).count();
    c.at("key", |c| {
        c.require(count <= 1, "has more than one key", "use one of clientIP, header, cookie, jwtClaim");
        for (field, name) in [("header", &key.header), ("cookie", &key.cookie)] {
            if let Some(name) = name {
                c.header_name(field, name);
            }
        }
    });
}

fn compression(c: &mut Checker, compression: &CompressionSpec) {
    let names: Vec<String> = compression.algorithms.iter().map(|a| format!("{a:?}").to_lowercase()).collect();
    c.unique("algorithms", "algorithm", names.iter().map(String::as_str));
    c.at_most("contentTypes", compression.content_types.len(), 64);
    c.each("contentTypes", &compression.content_types, |c, text| {
        let token = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&^_.+-".contains(&b))
        };
        let fits = text.split_once('/').is_some_and(|(t, sub)| token(t) && (sub == "*" || token(sub)));
        c.require(fits, format!("{text:?} is not a content type"), "write one such as text/html or text/*");
    });
}

/// A duration within bounds.
pub(super) fn duration(c: &mut Checker, field: &str, text: Option<&str>, least: Duration, most: Duration) {
    let Some(text) = text else { return };
    match parse_duration(text) {
        Err(message) => {
            c.at(field, |c| c.fail(message, "write one such as 500ms, 10s, 1m30s (GEP-2257)"));
        }
        Ok(value) if value < least || value > most => {
            let hint = format!("use {least:?} to {most:?}");
            c.at(field, |c| c.fail(format!("{text} is out of bounds"), &hint));
        }
        Ok(_) => {}
    }
}
