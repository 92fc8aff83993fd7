//! GRPCRoute.

use super::{
    common::Checker,
    routes::{backend_refs, filters, header_matches, parents_and_hostnames, session},
};
use crate::resources::kinds::{
    Filter, FilterType, GrpcMatch, GrpcMethodMatch, GrpcRoute, GrpcRule, HeaderMatchType,
};

pub(super) fn grpc_route(c: &mut Checker, route: &GrpcRoute) {
    parents_and_hostnames(c, &route.parent_refs, &route.hostnames);
    c.at_most("rules", route.rules.len(), 64);
    c.unique("rules", "rule", route.rules.iter().filter_map(|rule| rule.name.as_deref()));
    c.each("rules", &route.rules, rule);
}

fn rule(c: &mut Checker, rule: &GrpcRule) {
    if let Some(name) = &rule.name {
        c.dns_name("name", name);
    }
    c.at_most("matches", rule.matches.len(), 64);
    c.each("matches", &rule.matches, route_match);
    filters(c, &rule.filters);
    c.each("filters", &rule.filters, fits_grpc);
    session(c, rule.session_persistence.as_deref());
    backend_refs(c, &rule.backend_refs);
    c.each("backendRefs", &rule.backend_refs, |c, backend| c.each("filters", &backend.filters, fits_grpc));
}

/// Only some filters make sense for gRPC (Gateway API GRPCRouteFilter).
fn fits_grpc(c: &mut Checker, filter: &Filter) {
    let known = matches!(
        filter.r#type,
        FilterType::RequestHeaderModifier | FilterType::ResponseHeaderModifier | FilterType::RequestMirror
    );
    c.at("type", |c| {
        c.require(
            known,
            format!("{:?} is not for GRPCRoutes", filter.r#type),
            "use RequestHeaderModifier, ResponseHeaderModifier or RequestMirror",
        );
    });
}

fn route_match(c: &mut Checker, route_match: &GrpcMatch) {
    if let Some(spec) = &route_match.method {
        c.at("method", |c| method(c, spec));
    }
    header_matches(c, &route_match.headers);
}

fn method(c: &mut Checker, spec: &GrpcMethodMatch) {
    let there = spec.service.is_some() || spec.method.is_some();
    c.require(there, "names neither a service nor a method", "give one of both, or leave `method` out");
    let letters = |text: &str, more: &[u8]| {
        let head = text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_');
        head && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || more.contains(&b))
    };
    for (field, value, more) in
        [("service", &spec.service, b".".as_slice()), ("method", &spec.method, b"".as_slice())]
    {
        let Some(value) = value else { continue };
        c.at(field, |c| {
            c.require((1..=1024).contains(&value.len()), "has not 1 to 1024 letters", "name it whole")
        });
        match spec.r#type {
            HeaderMatchType::RegularExpression => c.regex(field, value),
            HeaderMatchType::Exact => c.at(field, |c| {
                let hint = "write it as in the .proto file, e.g. shop.v1.Checkout and Buy";
                c.require(letters(value, more), format!("{value:?} is not a gRPC {field}"), hint);
            }),
        }
    }
}
