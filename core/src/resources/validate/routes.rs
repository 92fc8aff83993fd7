//! HTTPRoute.

use super::common::Checker;
use crate::{
    decide::OriginPattern,
    resources::{
        kinds::{
            BackendRef, CookieLifetime, Cors, Filter, FilterType, HeaderFilter, HeaderMatchSpec,
            HeaderMatchType, HttpRoute, ParentRef, PathMatchSpec, PathMatchType, PathModifier,
            PathModifierType, RouteMatch, RouteRule, RouteTimeouts, SessionPersistence,
            SessionPersistenceType,
        },
        parse_duration,
    },
};

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

pub(super) fn http_route(c: &mut Checker, route: &HttpRoute) {
    parents_and_hostnames(c, &route.parent_refs, &route.hostnames);
    c.at_most("rules", route.rules.len(), 64);
    c.unique("rules", "rule", route.rules.iter().filter_map(|rule| rule.name.as_deref()));
    c.each("rules", &route.rules, rule);
}

/// Also for GRPCRoutes.
pub(super) fn parents_and_hostnames(c: &mut Checker, parents: &[ParentRef], hostnames: &[String]) {
    c.at_most("parentRefs", parents.len(), 32);
    c.each("parentRefs", parents, |c, parent| c.dns_name("name", &parent.name));
    c.at_most("hostnames", hostnames.len(), 16);
    for (index, hostname) in hostnames.iter().enumerate() {
        c.hostname(&format!("hostnames[{index}]"), hostname);
    }
}

fn rule(c: &mut Checker, rule: &RouteRule) {
    if let Some(name) = &rule.name {
        c.dns_name("name", name);
    }
    c.at_most("matches", rule.matches.len(), 128);
    c.each("matches", &rule.matches, route_match);
    filters(c, &rule.filters);
    let prefix_only =
        rule.matches.iter().all(|m| m.path.as_ref().is_none_or(|p| p.r#type == PathMatchType::PathPrefix));
    let modifiers = rule.filters.iter().filter_map(|f| {
        let redirect = f.request_redirect.as_ref().and_then(|r| r.path.as_ref());
        redirect.or(f.url_rewrite.as_ref().and_then(|r| r.path.as_ref()))
    });
    let replaces_prefix = modifiers.filter(|m| m.r#type == PathModifierType::ReplacePrefixMatch).count() > 0;
    c.at("filters", |c| {
        c.require(
            prefix_only || !replaces_prefix,
            "ReplacePrefixMatch needs a PathPrefix",
            "match by PathPrefix",
        );
    });
    backend_refs(c, &rule.backend_refs);
    let redirects = rule.filters.iter().any(|filter| filter.r#type == FilterType::RequestRedirect);
    c.at("backendRefs", |c| {
        let fits = !redirects || rule.backend_refs.is_empty();
        c.require(fits, "does not go with RequestRedirect, which sends nothing on", "remove one of them");
    });
    session(c, rule.session_persistence.as_deref());
    if let Some(spec) = &rule.timeouts {
        c.at("timeouts", |c| timeouts(c, spec));
    }
    if let Some(retry) = &rule.retry {
        c.at("retry", |c| {
            c.each("codes", &retry.codes, |c, code| {
                c.require(
                    (400..600).contains(code),
                    format!("{code} is not a status that is tried again"),
                    "use 400 to 599",
                );
                let times = retry.codes.iter().filter(|other| *other == code).count();
                c.require(times == 1, format!("{code} stands there more than once"), "name it once");
            });
            c.duration("backoff", retry.backoff.as_ref());
        });
    }
}

/// Also for GRPCRoutes.
pub(super) fn session(c: &mut Checker, spec: Option<&SessionPersistence>) {
    let Some(spec) = spec else { return };
    c.at("sessionPersistence", |c| {
        c.duration("absoluteTimeout", spec.absolute_timeout.as_ref());
        c.duration("idleTimeout", spec.idle_timeout.as_ref());
        if let Some(name) = &spec.session_name {
            // A cookie's name has the form of a header's: a token (RFC 6265 section 4.1.1).
            c.header_name("sessionName", name);
            c.at("sessionName", |c| c.require(name.len() <= 128, "is longer than 128 letters", "shorten it"));
        }
        let lifetime = spec.cookie_config.as_ref().and_then(|config| config.lifetime_type);
        let permanent = lifetime == Some(CookieLifetime::Permanent);
        c.at("absoluteTimeout", |c| {
            let given = spec.absolute_timeout.is_some();
            c.require(!permanent || given, "is missing", "a Permanent cookie needs it")
        });
        let header = spec.r#type == Some(SessionPersistenceType::Header);
        c.at("cookieConfig", |c| {
            c.require(!header || spec.cookie_config.is_none(), "does not go with type Header", "remove it")
        });
    });
}

fn cors(c: &mut Checker, cors: &Cors) {
    c.at_most("allowOrigins", cors.allow_origins.len(), 64);
    for (index, origin) in cors.allow_origins.iter().enumerate() {
        c.at(&format!("allowOrigins[{index}]"), |c| {
            c.require(
                OriginPattern::parse(origin).is_some(),
                format!("{origin:?} is not an origin"),
                "use *, or SCHEME://HOST[:PORT] with scheme http or https and at most one * in the host",
            )
        });
    }
    for (field, list) in [("allowOrigins", &cors.allow_origins), ("allowMethods", &cors.allow_methods)] {
        let alone = list.len() < 2 || list.iter().all(|value| value != "*");
        c.at(field, |c| c.require(alone, "* stands beside others", "use * alone, or none"));
    }
    c.at_most("allowMethods", cors.allow_methods.len(), 9);
    for (index, method) in cors.allow_methods.iter().enumerate() {
        let known = method == "*" || METHODS.contains(&method.as_str());
        c.at(&format!("allowMethods[{index}]"), |c| {
            c.require(
                known,
                format!("{method:?} is not a method"),
                &format!("use * or {}", METHODS.join(", ")),
            )
        });
    }
    for (field, list) in [("allowHeaders", &cors.allow_headers), ("exposeHeaders", &cors.expose_headers)] {
        c.at_most(field, list.len(), 64);
        for (index, name) in list.iter().enumerate() {
            c.header_name(&format!("{field}[{index}]"), name);
        }
    }
    c.at("maxAge", |c| c.require(cors.max_age != Some(0), "is 0", "use at least 1"));
}

/// Also for GRPCRoutes.
pub(super) fn backend_refs(c: &mut Checker, backends: &[BackendRef]) {
    c.at_most("backendRefs", backends.len(), 16);
    c.each("backendRefs", backends, |c, backend| {
        backend_ref(c, backend);
        c.at("labels", |c| {
            c.require(backend.labels.is_empty(), "belongs into a GrayRelease's arm", "remove it")
        });
    });
}

/// One try cannot take longer than all of them (Gateway API HTTPRouteTimeouts); `0s` is no bound.
pub(super) fn timeouts(c: &mut Checker, timeouts: &RouteTimeouts) {
    c.duration("request", timeouts.request.as_ref());
    c.duration("backendRequest", timeouts.backend_request.as_ref());
    let of = |text: &Option<String>| text.as_deref().and_then(|text| parse_duration(text).ok());
    if let (Some(whole), Some(attempt)) = (of(&timeouts.request), of(&timeouts.backend_request)) {
        let fits = whole.is_zero() || attempt <= whole;
        c.at("backendRequest", |c| {
            c.require(fits, "is longer than request", "make it shorter, or leave it out")
        });
    }
}

/// Also for arms of a GrayRelease.
pub(super) fn backend_ref(c: &mut Checker, backend: &BackendRef) {
    c.dns_name("name", &backend.name);
    if let Some(namespace) = &backend.namespace {
        c.dns_label("namespace", namespace);
    }
    let needs_port = matches!(backend.kind.as_deref(), None | Some("Service" | "ServiceImport"));
    match backend.port {
        Some(port) => c.port("port", port),
        None if needs_port => c.at("port", |c| c.fail("is missing", "give the service's port")),
        None => {}
    }
    let weight = backend.weight.unwrap_or(1);
    c.at("weight", |c| c.require(weight <= 1_000_000, format!("{weight} is too much"), "use 0 to 1000000"));
    c.labels("labels", &backend.labels);
    filters(c, &backend.filters);
}

fn route_match(c: &mut Checker, route_match: &RouteMatch) {
    if let Some(spec) = &route_match.path {
        c.at("path", |c| path(c, spec));
    }
    header_matches(c, &route_match.headers);
    c.at_most("queryParams", route_match.query_params.len(), 16);
    c.each("queryParams", &route_match.query_params, |c, query| {
        if query.r#type == HeaderMatchType::RegularExpression {
            c.regex("value", &query.value);
        }
    });
    let known = |c: &mut Checker, method: &String| {
        let known = METHODS.contains(&method.as_str());
        c.require(known, format!("{method:?} is not a method"), &format!("use {}", METHODS.join(", ")));
    };
    if let Some(method) = &route_match.method {
        c.at("method", |c| known(c, method));
        let first = route_match.methods.first().is_none_or(|first| first == method);
        c.at("methods", |c| c.require(first, "does not begin with `method`", "list that one first"));
    }
    c.at_most("methods", route_match.methods.len(), METHODS.len());
    c.each("methods", &route_match.methods, known);
}

/// Also for GRPCRoutes.
pub(super) fn header_matches(c: &mut Checker, headers: &[HeaderMatchSpec]) {
    c.at_most("headers", headers.len(), 16);
    c.each("headers", headers, |c, header| {
        c.header_name("name", &header.name);
        if header.r#type == HeaderMatchType::RegularExpression {
            c.regex("value", &header.value);
        }
    });
}

fn path(c: &mut Checker, path: &PathMatchSpec) {
    let value = path.value.as_str();
    c.at("value", |c| c.require(value.len() <= 1024, "is longer than 1024 letters", "shorten it"));
    if path.r#type == PathMatchType::RegularExpression {
        return c.regex("value", value);
    }
    c.at("value", |c| {
        c.require(value.starts_with('/'), format!("{value:?} does not begin with '/'"), "begin with '/'");
        let odd = ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().find(|odd| value.contains(odd));
        let odd = odd.or(["/..", "/."].into_iter().find(|odd| value.ends_with(odd)));
        if let Some(odd) = odd {
            c.fail(format!("{value:?} has {odd:?} in it"), "write the path as servers see it");
        }
    });
}

/// Also for GRPCRoutes.
pub(super) fn filters(c: &mut Checker, filters: &[Filter]) {
    c.at_most("filters", filters.len(), 16);
    c.each("filters", filters, filter);
    let count = |wanted: FilterType| filters.iter().filter(|f| f.r#type == wanted).count();
    for once in [
        FilterType::RequestHeaderModifier,
        FilterType::ResponseHeaderModifier,
        FilterType::RequestRedirect,
        FilterType::UrlRewrite,
        FilterType::Cors,
        FilterType::ExternalAuth,
    ] {
        c.at("filters", |c| {
            c.require(count(once) <= 1, format!("{once:?} stands more than once"), "put them together")
        });
    }
    let both = count(FilterType::RequestRedirect) > 0 && count(FilterType::UrlRewrite) > 0;
    c.at("filters", |c| c.require(!both, "RequestRedirect and URLRewrite exclude each other", "use one"));
}

fn filter(c: &mut Checker, filter: &Filter) {
    let fields = [
        (
            "requestHeaderModifier",
            FilterType::RequestHeaderModifier,
            filter.request_header_modifier.is_some(),
        ),
        (
            "responseHeaderModifier",
            FilterType::ResponseHeaderModifier,
            filter.response_header_modifier.is_some(),
        ),
        ("requestRedirect", FilterType::RequestRedirect, filter.request_redirect.is_some()),
        ("urlRewrite", FilterType::UrlRewrite, filter.url_rewrite.is_some()),
        ("requestMirror", FilterType::RequestMirror, filter.request_mirror.is_some()),
        ("cors", FilterType::Cors, filter.cors.is_some()),
        ("externalAuth", FilterType::ExternalAuth, filter.external_auth.is_some()),
    ];
    for (name, r#type, there) in fields {
        let wanted = filter.r#type == r#type;
        if wanted != there {
            let message = if wanted {
                "is missing".to_owned()
            } else {
                format!("does not go with {:?}", filter.r#type)
            };
            c.at(name, |c| c.fail(message, "a filter has its type and the field of that type"));
        }
    }
    for (name, headers) in [
        ("requestHeaderModifier", &filter.request_header_modifier),
        ("responseHeaderModifier", &filter.response_header_modifier),
    ] {
        if let Some(headers) = headers {
            c.at(name, |c| header_filter(c, headers));
        }
    }
    if let Some(spec) = &filter.cors {
        c.at("cors", |c| cors(c, spec));
    }
    if let Some(auth) = &filter.external_auth {
        c.at("externalAuth", |c| super::auth::external_auth(c, auth, false));
    }
    if let Some(redirect) = &filter.request_redirect {
        c.at("requestRedirect", |c| {
            let scheme = redirect.scheme.as_deref().unwrap_or("http");
            c.at("scheme", |c| {
                c.require(
                    matches!(scheme, "http" | "https"),
                    format!("{scheme:?} is not known"),
                    "use http or https",
                )
            });
            if let Some(port) = redirect.port {
                c.port("port", port);
            }
            let code = redirect.status_code.unwrap_or(302);
            let known = matches!(code, 301 | 302 | 303 | 307 | 308);
            c.at("statusCode", |c| {
                c.require(known, format!("{code} is not a redirect"), "use 301, 302, 303, 307 or 308")
            });
            if let Some(hostname) = &redirect.hostname {
                c.dns_name("hostname", hostname);
            }
            path_modifier(c, redirect.path.as_ref());
        });
    }
    if let Some(rewrite) = &filter.url_rewrite {
        c.at("urlRewrite", |c| {
            if let Some(hostname) = &rewrite.hostname {
                c.dns_name("hostname", hostname);
            }
            path_modifier(c, rewrite.path.as_ref());
        });
    }
    if let Some(mirror) = &filter.request_mirror {
        c.at("requestMirror", |c| {
            c.at("backendRef", |c| backend_ref(c, &mirror.backend_ref));
            let both = mirror.percent.is_some() && mirror.fraction.is_some();
            c.require(!both, "percent and fraction exclude each other", "use one");
            c.at("percent", |c| c.require(mirror.percent.unwrap_or(0) <= 100, "is over 100", "use 0 to 100"));
            if let Some(fraction) = mirror.fraction {
                let denominator = fraction.denominator.unwrap_or(100);
                let fits = denominator > 0 && fraction.numerator <= denominator;
                c.at("fraction", |c| {
                    c.require(fits, "is over 1", "the numerator is at most the denominator")
                });
            }
        });
    }
}

fn header_filter(c: &mut Checker, headers: &HeaderFilter) {
    for (field, list) in [("set", &headers.set), ("add", &headers.add)] {
        c.at_most(field, list.len(), 16);
        c.each(field, list, |c, header| {
            c.header_name("name", &header.name);
            c.header_value("value", &header.value);
        });
    }
    c.at_most("remove", headers.remove.len(), 16);
    for (index, name) in headers.remove.iter().enumerate() {
        c.header_name(&format!("remove[{index}]"), name);
    }
}

fn path_modifier(c: &mut Checker, modifier: Option<&PathModifier>) {
    let Some(modifier) = modifier else { return };
    let (full, prefix) = (modifier.replace_full_path.is_some(), modifier.replace_prefix_match.is_some());
    let fits = match modifier.r#type {
        PathModifierType::ReplaceFullPath => full && !prefix,
        PathModifierType::ReplacePrefixMatch => prefix && !full,
    };
    c.at("path", |c| {
        c.require(fits, "has not the field of its type", "replaceFullPath or replacePrefixMatch")
    });
}
