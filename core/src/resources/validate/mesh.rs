//! GrayRelease, Workload, AuthorizationPolicy, Peer.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{common::Checker, routes::backend_ref, traffic::duration};
use crate::{
    model::{SpiffeId, TrustDomain, check_dns_label},
    resources::{
        kinds::{
            Analysis, AuthorizationPolicy, BundleEndpoint, BundleProfile, GrayRelease, MetricName, Peer,
            PeerLease, PeerLimits, PolicyFrom, PolicyTo, ServicePatterns, Split, TextMatchType, TextRule,
            Workload,
        },
        parse_duration,
    },
    spiffe::{Document, parse_url},
};

/// The arm that every release has.
const STABLE: &str = "stable";

pub(super) fn gray_release(c: &mut Checker, release: &GrayRelease) {
    let count = release.target_refs.len();
    c.at("targetRefs", |c| {
        c.require((1..=16).contains(&count), format!("has {count} entries"), "use 1 to 16")
    });
    c.each("targetRefs", &release.target_refs, |c, target| {
        let known = matches!(
            (target.group.as_str(), target.kind.as_str()),
            ("gateway.networking.k8s.io", "HTTPRoute" | "GRPCRoute") | ("", "Service")
        );
        let hint =
            "use an HTTPRoute or GRPCRoute of group gateway.networking.k8s.io, or a Service of group \"\"";
        c.at("kind", |c| c.require(known, format!("{:?} of group {:?}", target.kind, target.group), hint));
        c.dns_name("name", &target.name);
        let section_fits =
            matches!(target.kind.as_str(), "HTTPRoute" | "GRPCRoute") || target.section_name.is_none();
        c.at("sectionName", |c| c.require(section_fits, "a Service has no rules", "remove it"));
    });
    c.at_most("arms", release.arms.len(), 32);
    c.unique("arms", "arm", release.arms.iter().map(|arm| arm.name.as_str()));
    c.each("arms", &release.arms, |c, arm| {
        c.dns_label("name", &arm.name);
        c.at("name", |c| {
            c.require(arm.name != STABLE, "`stable` is the rule's own backendRefs", "choose another")
        });
        c.at("backendRefs", |c| {
            c.require(!arm.backend_refs.is_empty(), "is empty", "name where its requests go")
        });
        c.at_most("backendRefs", arm.backend_refs.len(), 16);
        c.each("backendRefs", &arm.backend_refs, backend_ref);
        if let Some(lane) = &arm.lane {
            c.dns_label("lane", lane);
        }
    });
    let is_arm = |name: &str| name == STABLE || release.arms.iter().any(|arm| arm.name == name);
    c.at_most("rules", release.rules.len(), 64);
    c.each("rules", &release.rules, |c, rule| {
        let message = format!("there is no arm {:?}", rule.arm);
        c.at("arm", |c| c.require(is_arm(&rule.arm), message, "use `stable` or the name of an arm"));
        let empty = rule.headers.is_empty() && rule.cookies.is_empty();
        c.require(!empty, "has no condition", "give headers or cookies; for everybody, use split");
        c.each("headers", &rule.headers, |c, header| {
            c.header_name("name", &header.name);
            text_rule(c, header);
        });
        c.each("cookies", &rule.cookies, |c, cookie| {
            cookie_name(c, "name", &cookie.name);
            text_rule(c, cookie);
        });
    });
    if let Some(split) = &release.split {
        c.at("split", |c| self::split(c, split, is_arm));
    }
    if let Some(plan) = &release.analysis {
        c.at("analysis", |c| analysis(c, plan, release));
    }
}

/// A step lasts no longer.
const LONGEST_STEP: Duration = Duration::from_secs(30 * 24 * 3600);

fn analysis(c: &mut Checker, plan: &Analysis, release: &GrayRelease) {
    match &plan.arm {
        Some(name) => c.at("arm", |c| {
            let known = release.arms.iter().any(|arm| arm.name == *name);
            c.require(known, format!("there is no arm {name:?}"), "use the name of an arm");
        }),
        None => c.at("arm", |c| {
            c.require(
                release.arms.len() == 1,
                "there is not just one arm",
                "say which is released step by step",
            )
        }),
    }
    let count = plan.steps.len();
    c.at("steps", |c| c.require((1..=32).contains(&count), format!("has {count} entries"), "use 1 to 32"));
    c.each("steps", &plan.steps, |c, step| {
        c.at("weight", |c| {
            c.require(is_percentage(step.weight) && step.weight > 0.0, step.weight, PERCENTAGE)
        });
        let lasting = parse_duration(&step.duration);
        let fits = lasting.is_ok_and(|d| (Duration::from_secs(1)..=LONGEST_STEP).contains(&d));
        c.at("duration", |c| c.require(fits, format!("{:?}", step.duration), "use 1s to 720h, e.g. 10m"));
    });
    let grows = plan.steps.is_sorted_by(|a, b| a.weight < b.weight);
    c.at("steps", |c| c.require(grows, "do not grow", "give each a greater weight than the one before"));
    let arm = plan.arm.as_deref().or(release.arms.first().map(|arm| arm.name.as_str()));
    let weights = release.split.iter().flat_map(|split| &split.weights);
    let others: f64 = weights.filter(|(name, _)| Some(name.as_str()) != arm).map(|(_, weight)| weight).sum();
    let most = plan.steps.last().map_or(0.0, |step| step.weight);
    c.at("steps", |c| {
        c.require(
            most + others <= 100.0 + 1e-9,
            format!("with the other arms come to {}%", most + others),
            "use at most 100 together",
        )
    });
    c.at_most("thresholds", plan.thresholds.len(), 8);
    c.each("thresholds", &plan.thresholds, |c, threshold| {
        let (fits, hint) = match threshold.metric {
            MetricName::SuccessRate => (
                threshold.max.is_none() && threshold.min.is_some_and(|min| (0.0..=100.0).contains(&min)),
                "success-rate takes `min`, 0 to 100 percent",
            ),
            MetricName::LatencyP99 => (
                threshold.min.is_none() && threshold.max.is_some_and(|max| (1.0..=60_000.0).contains(&max)),
                "latency-p99 takes `max`, 1 to 60000 milliseconds",
            ),
        };
        c.require(fits, "the bound does not go with the metric", hint);
    });
}

const PERCENTAGE: &str = "use 0 to 100 with at most two decimals";

fn is_percentage(percent: f64) -> bool {
    let hundredths = percent * 100.0;
    (0.0..=10_000.0).contains(&hundredths) && (hundredths - hundredths.round()).abs() < 1e-6
}

fn split(c: &mut Checker, split: &Split, is_arm: impl Fn(&str) -> bool) {
    let key = &split.key;
    let given = [key.cookie.is_some(), key.header.is_some(), key.source_ip == Some(true)];
    let count = given.into_iter().filter(|given| *given).count();
    c.at("key", |c| c.require(count <= 1, "has more than one key", "use one of cookie, header, sourceIP"));
    if let Some(name) = &key.cookie {
        c.at("key", |c| cookie_name(c, "cookie", name));
    }
    if let Some(name) = &key.header {
        c.at("key", |c| c.header_name("header", name));
    }
    for (arm, percent) in &split.weights {
        c.at(&format!("weights.{arm}"), |c| {
            c.require(arm != STABLE, "`stable` takes the rest", "remove it");
            c.require(is_arm(arm), format!("there is no arm {arm:?}"), "use the name of an arm");
            c.require(is_percentage(*percent), format!("{percent} is not a percentage"), PERCENTAGE);
        });
    }
    let sum: f64 = split.weights.values().sum();
    c.at("weights", |c| {
        c.require(sum <= 100.0 + 1e-9, format!("come to {sum}%"), "use at most 100 together")
    });
}

fn cookie_name(c: &mut Checker, field: &str, name: &str) {
    // A token, as in RFC 6265 section 4.1.1: what header names are made of.
    if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
        c.at(field, |c| c.fail(format!("{name:?} is not a cookie name"), "use letters, digits, '-' and '_'"));
    }
}

fn text_rule(c: &mut Checker, rule: &TextRule) {
    let (value, values) = (rule.value.is_some(), !rule.values.is_empty());
    let (fits, hint) = match rule.r#type {
        TextMatchType::Present => (!value && !values, "Present takes no value"),
        TextMatchType::In => (values && !value, "In takes `values`"),
        _ => (value && !values, "give `value`"),
    };
    c.require(fits, format!("the value does not go with {:?}", rule.r#type), hint);
    if let (TextMatchType::RegularExpression, Some(pattern)) = (rule.r#type, &rule.value) {
        c.regex("value", pattern);
    }
    c.at_most("values", rule.values.len(), 1024);
}

pub(super) fn workload(c: &mut Checker, workload: &Workload) {
    c.address("address", &workload.address);
    let count = workload.ports.len();
    c.at("ports", |c| c.require((1..=64).contains(&count), format!("has {count} entries"), "use 1 to 64"));
    c.each("ports", &workload.ports, |c, port| c.port("port", port.port));
    c.each("services", &workload.services, |c, service| {
        if let Err(error) = check_dns_label(service) {
            c.fail(error, "");
        }
    });
    c.labels("labels", &workload.labels);
    let weight = workload.weight.unwrap_or(1);
    c.at("weight", |c| c.require((1..=1000).contains(&weight), format!("{weight}"), "use 1 to 1000"));
    if let Some(account) = &workload.account {
        c.dns_label("account", account);
    }
}

pub(super) fn authorization_policy(c: &mut Checker, policy: &AuthorizationPolicy) {
    c.labels("selector", &policy.selector);
    c.at_most("rules", policy.rules.len(), 256);
    c.each("rules", &policy.rules, |c, rule| {
        if let Some(from) = &rule.from {
            c.at("from", |c| policy_from(c, from));
        }
        if let Some(to) = &rule.to {
            c.at("to", |c| policy_to(c, to));
        }
    });
}

fn policy_from(c: &mut Checker, from: &PolicyFrom) {
    c.each("spiffeIds", &from.spiffe_ids, |c, id| {
        let fits = match id.strip_suffix('*') {
            Some(prefix) => prefix
                .strip_prefix("spiffe://")
                .and_then(|rest| rest.split_once('/'))
                .is_some_and(|(domain, _)| TrustDomain::parse(domain).is_ok()),
            None => SpiffeId::parse(id).is_ok(),
        };
        let hint = "write spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT; a `*` may stand at its end";
        c.require(fits, format!("{id:?} is not a SPIFFE ID"), hint);
    });
    for (field, names) in [("namespaces", &from.namespaces), ("accounts", &from.accounts)] {
        c.each(field, names, |c, name| {
            let fits = match name.strip_suffix('*') {
                Some(prefix) => !prefix.contains(['*', '/']),
                None => check_dns_label(name).is_ok(),
            };
            let hint = "use a DNS label; a `*` may stand at its end";
            c.require(fits, format!("{name:?} can match nothing"), hint);
        });
    }
    c.each("trustDomains", &from.trust_domains, |c, domain| {
        if let Err(error) = TrustDomain::parse(domain) {
            c.fail(error, "");
        }
    });
}

fn policy_to(c: &mut Checker, to: &PolicyTo) {
    c.each("methods", &to.methods, |c, method| {
        let fits = method != "*" && http::Method::from_bytes(method.as_bytes()).is_ok();
        let hint = "write a method such as GET; leave the list out for all of them";
        c.require(fits, format!("{method:?} is not a method"), hint);
    });
    c.each("paths", &to.paths, |c, path| {
        c.require(path.starts_with('/') || path == "*", "does not begin with '/'", "begin with '/'");
    });
    c.each("ports", &to.ports, |c, port| {
        c.require(*port > 0, "0 is not a port", "use 1 to 65535");
    });
    c.each("headers", &to.headers, |c, header| {
        c.header_name("name", &header.name);
        text_rule(c, header);
    });
}

pub(super) fn peer(c: &mut Checker, peer: &Peer) {
    if let Err(error) = TrustDomain::parse(&peer.trust_domain) {
        c.at("trustDomain", |c| c.fail(error, ""));
    }
    for (field, patterns) in [("export", &peer.export), ("import", &peer.import)] {
        c.at(field, |c| service_patterns(c, patterns));
    }
    c.at("lease", |c| peer_lease(c, &peer.lease));
    c.at("limits", |c| peer_limits(c, &peer.limits));
    if let (Some(endpoint), Ok(domain)) = (&peer.bundle_endpoint, TrustDomain::parse(&peer.trust_domain)) {
        c.at("bundleEndpoint", |c| bundle_endpoint(c, endpoint, &domain));
    }
}

fn peer_limits(c: &mut Checker, limits: &PeerLimits) {
    let fields = [
        ("services", limits.services, 1..=100_000),
        ("endpoints", limits.endpoints, 1..=1_000_000),
        ("messagesPerSecond", limits.messages_per_second, 10..=100_000),
        ("bytesPerSecond", limits.bytes_per_second, 65_536..=1_000_000_000),
    ];
    for (field, value, bounds) in fields {
        let Some(value) = value.filter(|value| !bounds.contains(value)) else { continue };
        let hint = format!("use {} to {}", bounds.start(), bounds.end());
        c.at(field, |c| c.fail(format!("{value} is out of bounds"), &hint));
    }
}

fn bundle_endpoint(c: &mut Checker, endpoint: &BundleEndpoint, domain: &TrustDomain) {
    if let Err(reason) = parse_url(&endpoint.url) {
        c.at("url", |c| c.fail(reason, "write one such as https://spire.example:8443/"));
    }
    let by_id = endpoint.profile == BundleProfile::Spiffe;
    let needed = "https_spiffe needs it, https_web has none";
    c.at("spiffeId", |c| c.require(endpoint.spiffe_id.is_some() == by_id, "belongs to https_spiffe", needed));
    c.at("caCertificates", |c| {
        let fits = endpoint.ca_certificates.is_none() || !by_id;
        c.require(fits, "belongs to https_web", "remove it: https_spiffe verifies by the bundle");
    });
    if let Some(pem) = &endpoint.ca_certificates {
        let any = CertificateDer::pem_slice_iter(pem.as_bytes()).any(|certificate| certificate.is_ok());
        c.at("caCertificates", |c| c.require(any, "holds no certificate", "paste them as PEM"));
    }
    if let Some(id) = &endpoint.spiffe_id {
        let own = id.strip_prefix("spiffe://").and_then(|rest| rest.split('/').next());
        let of = own.and_then(|own| TrustDomain::parse(own).ok());
        c.at("spiffeId", |c| {
            c.require(
                of.is_some() && id.len() <= 2048,
                "is no SPIFFE ID",
                "write spiffe://TRUST-DOMAIN/PATH",
            );
        });
        c.at("bundle", |c| {
            let begins = endpoint.bundle.is_some() || of.as_ref() != Some(domain);
            c.require(begins, "is missing", "https_spiffe verifies the first answer by it: paste what the peer shows as its bundle, e.g. `spire-server bundle show -format spiffe`");
        });
    }
    if let Some(bundle) = &endpoint.bundle
        && let Err(error) = Document::parse(bundle.as_bytes(), domain)
    {
        c.at("bundle", |c| c.fail(error, "paste a SPIFFE bundle: a JWK Set with keys of use x509-svid"));
    }
}

/// Both within a second and 30 days, the first not longer than the second.
fn peer_lease(c: &mut Checker, lease: &PeerLease) {
    let mut bounds = [Duration::from_secs(30), Duration::from_secs(24 * 3600)];
    let fields = [("deprioritizeAfter", &lease.deprioritize_after), ("dropAfter", &lease.drop_after)];
    for ((field, text), bound) in fields.into_iter().zip(&mut bounds) {
        duration(c, field, text.as_deref(), Duration::from_secs(1), Duration::from_secs(30 * 86_400));
        *bound = text.as_deref().and_then(|text| parse_duration(text).ok()).unwrap_or(*bound);
    }
    let [deprioritize, drop] = bounds;
    c.require(
        deprioritize <= drop,
        "dropAfter is before deprioritizeAfter",
        "drop no sooner than deprioritize",
    );
}

fn service_patterns(c: &mut Checker, patterns: &ServicePatterns) {
    c.at_most("services", patterns.services.len(), 4096);
    c.each("services", &patterns.services, |c, pattern| {
        for (field, text) in [("namespace", &pattern.namespace), ("name", &pattern.name)] {
            if text != "*" {
                c.dns_label(field, text);
            }
        }
    });
}
