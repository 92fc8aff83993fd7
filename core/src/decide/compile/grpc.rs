//! GRPCRoutes: their rules as those of requests, so that all of the rest is shared.
//!
//! A call is a POST to `/SERVICE/METHOD` (gRPC over HTTP/2), so that a match of both is one of the path.

use crate::resources::kinds::{
    GrpcMatch, GrpcMethodMatch, GrpcRoute, HeaderMatchType, PathMatchSpec, PathMatchType, RouteMatch,
    RouteRule,
};

/// The rules in the form of an HTTPRoute's.
pub(super) fn as_requests(route: &GrpcRoute) -> Vec<RouteRule> {
    let rule = |rule: &crate::resources::kinds::GrpcRule| RouteRule {
        name: rule.name.clone(),
        matches: rule.matches.iter().map(request_match).collect(),
        filters: rule.filters.clone(),
        backend_refs: rule.backend_refs.clone(),
        session_persistence: rule.session_persistence.clone(),
        ..RouteRule::default()
    };
    route.rules.iter().map(rule).collect()
}

fn request_match(spec: &GrpcMatch) -> RouteMatch {
    RouteMatch {
        path: spec.method.as_ref().and_then(path),
        headers: spec.headers.clone(),
        ..RouteMatch::default()
    }
}

fn path(spec: &GrpcMethodMatch) -> Option<PathMatchSpec> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (given(&spec.service), given(&spec.method));
    let (r#type, value) = match (spec.r#type, service, method) {
        (_, None, None) => return None,
        (HeaderMatchType::Exact, Some(service), Some(method)) => {
            (PathMatchType::Exact, format!("/{service}/{method}"))
        }
        (HeaderMatchType::Exact, Some(service), None) => (PathMatchType::PathPrefix, format!("/{service}")),
        (HeaderMatchType::Exact, None, Some(method)) => {
            (PathMatchType::RegularExpression, format!("/[^/]+/{}", regex::escape(&method)))
        }
        (HeaderMatchType::RegularExpression, service, method) => {
            let part = |text: Option<String>| text.map_or("[^/]+".into(), |text| format!("(?:{text})"));
            (PathMatchType::RegularExpression, format!("/{}/{}", part(service), part(method)))
        }
    };
    Some(PathMatchSpec { r#type, value })
}
