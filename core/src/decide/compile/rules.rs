//! The rules of one HTTPRoute or GRPCRoute.

use std::sync::Arc;

use http::{HeaderName, Method};
use xxhash_rust::xxh3::xxh3_64;

use super::{
    filters::{CompiledFilters, compile_filters, replaces_prefix},
    refs::{GATEWAY_GROUP, Referrer, Resolved, created, resolve},
    releases::Releases,
    status::Problem,
};
use crate::{
    decide::{
        Backend, Filters, Retry, Timeouts,
        forward::SHARED,
        host::HostPattern,
        lane::TRUST_CLIENT_LANE,
        matcher::{HeaderMatch, PathMatch, QueryMatch, RequestMatch, TextMatch},
        rule::{Action, Invalid, Origin, Rule, Target, Weighted},
        session::{Carrier, Session},
        table::Entry,
    },
    resources::{
        ObjectKey, ObjectMeta, ResourceSet,
        kinds::{
            BackendRef, CookieLifetime, HeaderMatchType, PathMatchSpec, PathMatchType, RouteMatch,
            RouteRetry, RouteRule, RouteTimeouts, SessionPersistence, SessionPersistenceType,
        },
        parse_duration,
    },
};

/// The kind for all of HTTP.
pub(super) const HTTP_ROUTE: &str = "HTTPRoute";
/// The kind whose requests are calls.
pub(super) const GRPC_ROUTE: &str = "GRPCRoute";

/// A route's matches with their rules, ready to be attached, and what is wrong with some of them.
#[derive(Debug, Default)]
pub(super) struct RouteRules {
    pub(super) entries: Vec<Entry>,
    /// References that lead nowhere: ResolvedRefs.
    pub(super) unresolved: Vec<Problem>,
    /// What is left out or not carried out: PartiallyInvalid.
    pub(super) unsupported: Vec<Problem>,
}

/// What the rules of a route have in common.
struct Source<'a> {
    resources: &'a ResourceSet,
    releases: &'a Releases,
    key: &'a ObjectKey,
    kind: &'static str,
    route: Arc<str>,
    created: i128,
    trusts_lane: bool,
}

/// Compiles all rules of a route of this kind, in terms of HTTP. A match that cannot be compiled is left out and
/// reported.
pub(super) fn compile_rules(
    resources: &ResourceSet,
    releases: &Releases,
    (kind, key): (&'static str, &ObjectKey),
    meta: &ObjectMeta,
    rules: &[RouteRule],
) -> RouteRules {
    let route = format!("{}/{key}", kind.to_ascii_lowercase()).into();
    let source = Source {
        resources,
        releases,
        key,
        kind,
        route,
        created: created(meta),
        trusts_lane: trusts_lane(meta),
    };
    let mut out = RouteRules::default();
    // The API's default of `rules`: everything, to nowhere.
    let default = [RouteRule::default()];
    let rules = if rules.is_empty() { default.as_slice() } else { rules };
    for (position, rule) in rules.iter().enumerate() {
        source.rule(position, rule, &mut out);
    }
    out
}

/// Whether the clients of a route may say which lane they are in. What is not valid was refused with its document.
fn trusts_lane(meta: &ObjectMeta) -> bool {
    meta.annotations.get(TRUST_CLIENT_LANE).is_some_and(|value| value == "true")
}

impl Source<'_> {
    fn from(&self) -> Referrer<'_> {
        Referrer { group: GATEWAY_GROUP, kind: self.kind, namespace: &self.key.namespace }
    }

    fn rule(&self, position: usize, rule: &RouteRule, out: &mut RouteRules) {
        let default = [RouteMatch::default()];
        let matches = if rule.matches.is_empty() { default.as_slice() } else { &rule.matches };
        let by_prefix = replaces_prefix(&rule.filters)
            || rule.backend_refs.iter().any(|backend| replaces_prefix(&backend.filters));
        let mut shared: Option<Arc<Rule>> = None;
        for (at, spec) in matches.iter().enumerate() {
            let compiled = match &shared {
                Some(compiled) => compiled.clone(),
                None => Arc::new(self.compile(position, rule, prefix_of(spec), at == 0, out)),
            };
            // What is replaced differs from match to match; else all share one rule.
            if !by_prefix {
                shared = Some(compiled.clone());
            }
            match request_matches(spec) {
                Ok(matches) => {
                    let position = u16::try_from(at).unwrap_or(u16::MAX);
                    out.entries.extend(matches.into_iter().map(|matches| Entry {
                        matches: Arc::new(matches),
                        rule: compiled.clone(),
                        position,
                        own: HostPattern::Any,
                    }));
                }
                Err(error) => {
                    let message = format!("rule {position} match {at} is left out: {error}");
                    out.unsupported.push(Problem::new("UnsupportedValue", message));
                }
            }
        }
    }

    /// Compiles one rule for the prefix that its matches have; problems are noted only if `report`.
    fn compile(
        &self,
        position: usize,
        rule: &RouteRule,
        prefix: &str,
        report: bool,
        out: &mut RouteRules,
    ) -> Rule {
        let mut found = compile_filters(self.resources, self.from(), &rule.filters, prefix);
        let action = match found.redirect.take() {
            Some(redirect) => Action::Redirect(redirect),
            None => Action::Forward(self.backends(&rule.backend_refs, prefix, &mut found)),
        };
        if report {
            out.unresolved.append(&mut found.unresolved);
            out.unsupported.append(&mut found.unsupported);
        }
        let number = position.to_string();
        Rule {
            origin: Origin {
                route: self.route.clone(),
                created: self.created,
                position: u16::try_from(position).unwrap_or(u16::MAX),
                name: rule.name.as_deref().unwrap_or(&number).into(),
            },
            action,
            filters: share(found.filters),
            timeouts: rule.timeouts.as_deref().map(timeouts).unwrap_or_default(),
            retry: rule.retry.as_deref().map_or_else(|| SHARED.retry.clone(), |spec| retry(spec).into()),
            mirrors: if found.mirrors.is_empty() { SHARED.mirrors.clone() } else { found.mirrors.into() },
            session: rule.session_persistence.as_ref().map(|spec| Arc::new(self.session(spec, position))),
            release: self.releases.of_rule(self.kind, self.key, position).cloned(),
            trusts_lane: self.trusts_lane,
            calls: self.kind == GRPC_ROUTE,
        }
    }

    fn session(&self, spec: &SessionPersistence, position: usize) -> Session {
        let limit = |text: &Option<String>| text.as_deref().and_then(|text| parse_duration(text).ok());
        let name = spec.session_name.as_deref();
        let carrier = match spec.r#type.unwrap_or_default() {
            SessionPersistenceType::Cookie => {
                // Its own for each rule: clients may have sessions with several.
                let own = || xxh3_64(format!("{}#{position}", self.route).as_bytes()) >> 32;
                let lifetime = spec.cookie_config.as_ref().and_then(|config| config.lifetime_type);
                Carrier::Cookie {
                    name: name.map_or_else(|| format!("tombolo-session-{:08x}", own()), str::to_owned).into(),
                    permanent: lifetime == Some(CookieLifetime::Permanent),
                }
            }
            // One that is not valid was refused with its document.
            SessionPersistenceType::Header => Carrier::Header(
                name.and_then(|name| HeaderName::from_bytes(name.as_bytes()).ok())
                    .unwrap_or(HeaderName::from_static("x-tombolo-session")),
            ),
        };
        Session { carrier, absolute: limit(&spec.absolute_timeout), idle: limit(&spec.idle_timeout) }
    }

    fn backends(&self, references: &[BackendRef], prefix: &str, rule: &mut CompiledFilters) -> Weighted {
        let mut targets = Vec::new();
        for reference in references {
            let target = self.target(reference, prefix, rule).map(Arc::new).map_err(|problem| {
                rule.unresolved.push(problem);
                Invalid
            });
            targets.push((reference.weight.unwrap_or(1), target));
        }
        Weighted::new(targets)
    }

    fn target(
        &self,
        reference: &BackendRef,
        prefix: &str,
        rule: &mut CompiledFilters,
    ) -> Result<Target, Problem> {
        let resolved = resolve(self.resources, self.from(), reference)?;
        let own = compile_filters(self.resources, self.from(), &reference.filters, prefix);
        rule.unresolved.extend(own.unresolved);
        rule.unsupported.extend(own.unsupported);
        let mirrors = (!own.mirrors.is_empty()).then(|| [&*rule.mirrors, &*own.mirrors].concat().into());
        let release = match &resolved.backend {
            Backend::Service { service, .. } => {
                self.releases.of_service(&resolved.key, service.scope).cloned()
            }
            Backend::Address { .. } => None,
        };
        let filters = share(rule.filters.then(&own.filters));
        let Resolved { backend, protocol, .. } = resolved;
        Ok(Target { backend, protocol, filters, redirect: own.redirect, mirrors, release })
    }
}

fn share(filters: Filters) -> Arc<Filters> {
    if filters.is_empty() { SHARED.filters.clone() } else { Arc::new(filters) }
}

fn prefix_of(spec: &RouteMatch) -> &str {
    match &spec.path {
        Some(PathMatchSpec { r#type: PathMatchType::PathPrefix, value }) => value,
        _ => "/",
    }
}

/// `0s` is no bound (Gateway API HTTPRouteTimeouts).
pub(super) fn timeouts(spec: &RouteTimeouts) -> Timeouts {
    let of = |text: &Option<String>| {
        text.as_deref().and_then(|text| parse_duration(text).ok()).filter(|duration| !duration.is_zero())
    };
    Timeouts { request: of(&spec.request), attempt: of(&spec.backend_request) }
}

/// A route that asks for more gets so many.
const MAX_RETRIES: u8 = 15;

fn retry(spec: &RouteRetry) -> Retry {
    let default = &SHARED.retry;
    Retry {
        attempts: spec
            .attempts
            .map_or(default.attempts, |n| u8::try_from(n).unwrap_or(u8::MAX).min(MAX_RETRIES)),
        // None listed: connections that fail alone are tried again (GEP-1731).
        codes: spec.codes.as_slice().into(),
        backoff: spec.backoff.as_deref().and_then(|text| parse_duration(text).ok()),
        budget: default.budget,
    }
}

/// One for each of the methods that it names.
fn request_matches(spec: &RouteMatch) -> Result<Vec<RequestMatch>, String> {
    let all = request_match(spec)?;
    if spec.methods.is_empty() {
        return Ok(vec![all]);
    }
    let of = |method: &String| {
        let method = Method::from_bytes(method.as_bytes()).map_err(|e| e.to_string())?;
        Ok(RequestMatch { method: Some(method), ..all.clone() })
    };
    spec.methods.iter().map(of).collect()
}

fn request_match(spec: &RouteMatch) -> Result<RequestMatch, String> {
    let path = match &spec.path {
        None => PathMatch::prefix("/"),
        Some(path) => match path.r#type {
            PathMatchType::Exact => PathMatch::Exact(path.value.as_str().into()),
            PathMatchType::PathPrefix => PathMatch::prefix(&path.value),
            PathMatchType::RegularExpression => PathMatch::regex(&path.value).map_err(|e| e.to_string())?,
        },
    };
    let method = spec.method.as_ref().map(|method| Method::from_bytes(method.as_bytes())).transpose();
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for header in &spec.headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|e| e.to_string())?;
        // Of several with one name the first counts (Gateway API HTTPHeaderMatch).
        if headers.iter().all(|earlier| earlier.name != name) {
            headers.push(HeaderMatch { name, value: text(header.r#type, &header.value)? });
        }
    }
    let mut query: Vec<QueryMatch> = Vec::new();
    for param in &spec.query_params {
        if query.iter().all(|earlier| *earlier.name != *param.name) {
            let name = param.name.as_str().into();
            query.push(QueryMatch { name, value: text(param.r#type, &param.value)? });
        }
    }
    let method = method.map_err(|e| e.to_string())?;
    Ok(RequestMatch { path, method, headers: headers.into(), query: query.into() })
}

fn text(how: HeaderMatchType, value: &str) -> Result<TextMatch, String> {
    match how {
        HeaderMatchType::Exact => Ok(TextMatch::Exact(value.into())),
        HeaderMatchType::RegularExpression => TextMatch::whole(value).map_err(|e| e.to_string()),
    }
}
