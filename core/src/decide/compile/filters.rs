//! Filters of a rule or backendRef, from the documents' form to what is carried out.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, StatusCode};

use super::{
    auth::external_auth,
    refs::{Referrer, resolve},
    status::Problem,
};
use crate::{
    decide::{
        Cors, Filters, HeaderEdits, Mirror, PathRewrite, Rewrite,
        cors::{Allowed, OriginPattern},
        gray::WHOLE,
        redirect::Redirect,
    },
    resources::{
        ResourceSet,
        kinds::{
            self, Filter, HeaderFilter, HeaderValueSpec, MirrorFilter, PathModifier, PathModifierType,
            RedirectFilter,
        },
    },
};

/// All filters of one rule or backendRef.
#[derive(Debug, Default)]
pub(super) struct CompiledFilters {
    pub(super) filters: Filters,
    pub(super) redirect: Option<Box<Redirect>>,
    pub(super) mirrors: Vec<Mirror>,
    /// Mirrors that lead nowhere: they are left out.
    pub(super) unresolved: Vec<Problem>,
    /// What is not carried out.
    pub(super) unsupported: Vec<Problem>,
}

/// True if the result depends on which prefix matched.
pub(super) fn replaces_prefix(filters: &[Filter]) -> bool {
    let of = |filter: &Filter| {
        let redirect = filter.request_redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
        let rewrite = filter.url_rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
        redirect.or(rewrite).is_some_and(|path| path.r#type == PathModifierType::ReplacePrefixMatch)
    };
    filters.iter().any(of)
}

/// Compiles filters. `matched` is the prefix that ReplacePrefixMatch replaces.
pub(super) fn compile_filters(
    resources: &ResourceSet,
    from: Referrer<'_>,
    filters: &[Filter],
    matched: &str,
) -> CompiledFilters {
    let mut out = CompiledFilters::default();
    for filter in filters {
        if let Some(headers) = &filter.request_header_modifier {
            out.filters.request = out.filters.request.then(&edits(headers));
        }
        if let Some(headers) = &filter.response_header_modifier {
            out.filters.response = out.filters.response.then(&edits(headers));
        }
        if let Some(spec) = &filter.request_redirect {
            out.redirect = Some(Box::new(redirect(spec, matched)));
        }
        if let Some(rewrite) = &filter.url_rewrite {
            out.filters.rewrite = Rewrite {
                hostname: rewrite.hostname.as_deref().map(Into::into),
                path: rewrite.path.as_ref().and_then(|path| path_rewrite(path, matched)),
            };
        }
        if let Some(mirror) = &filter.request_mirror {
            match resolve(resources, from, &mirror.backend_ref) {
                Ok(to) => {
                    out.mirrors.push(Mirror { backend: to.backend, per_ten_thousand: mirror_share(mirror) });
                }
                Err(problem) => out.unresolved.push(problem),
            }
        }
        if let Some(spec) = &filter.external_auth {
            let (auth, problem) = external_auth(resources, from, spec);
            out.filters.external_auth = Some(Arc::new(auth));
            if let Some(problem) = problem {
                let message = format!("requests are refused, as nobody can be asked: {}", problem.message);
                out.unsupported.push(Problem::new("UnsupportedValue", message));
                out.unresolved.push(problem);
            }
        }
        if let Some(spec) = &filter.cors {
            out.filters.cors = Some(Arc::new(cors(spec)));
        }
    }
    out
}

/// Seconds for which a preflight's answer may be kept, if the filter does not say.
const MAX_AGE: u32 = 5;

fn cors(spec: &kinds::Cors) -> Cors {
    let list = |names: &[String]| HeaderValue::try_from(names.join(", ")).ok();
    let allowed = |names: &[String]| match names {
        [] => Allowed::Unsaid,
        names if names.iter().any(|name| name == "*") => Allowed::Any,
        names => list(names).map_or(Allowed::Unsaid, Allowed::These),
    };
    Cors {
        // One that has not the form of an origin was refused with its document.
        origins: spec.allow_origins.iter().filter_map(|origin| OriginPattern::parse(origin)).collect(),
        credentials: spec.allow_credentials.unwrap_or(false),
        methods: allowed(&spec.allow_methods),
        headers: allowed(&spec.allow_headers),
        expose: list(&spec.expose_headers).filter(|value| !value.is_empty()),
        max_age: spec.max_age.unwrap_or(MAX_AGE).into(),
    }
}

fn redirect(spec: &RedirectFilter, matched: &str) -> Redirect {
    Redirect {
        scheme: spec.scheme.as_deref().map(Into::into),
        hostname: spec.hostname.as_deref().map(Into::into),
        path: spec.path.as_ref().and_then(|path| path_rewrite(path, matched)),
        port: spec.port,
        status: spec
            .status_code
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or(StatusCode::FOUND),
    }
}

fn edits(filter: &HeaderFilter) -> HeaderEdits {
    // Names and values that are not valid were refused with their document.
    let pair = |header: &HeaderValueSpec| {
        let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_str(&header.value).ok()?))
    };
    HeaderEdits {
        set: filter.set.iter().filter_map(pair).collect(),
        add: filter.add.iter().filter_map(pair).collect(),
        remove: filter
            .remove
            .iter()
            .filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok())
            .collect(),
    }
}

fn path_rewrite(path: &PathModifier, matched: &str) -> Option<PathRewrite> {
    match path.r#type {
        PathModifierType::ReplaceFullPath => {
            path.replace_full_path.as_deref().map(|full| PathRewrite::Full(rooted(full).into()))
        }
        PathModifierType::ReplacePrefixMatch => path.replace_prefix_match.as_deref().map(|replacement| {
            let replacement = if replacement.is_empty() { String::new() } else { rooted(replacement) };
            PathRewrite::Prefix { matched: matched.into(), replacement: replacement.into() }
        }),
    }
}

/// A request target begins with a slash (RFC 9112 section 3.2.1).
fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.into() } else { format!("/{path}") }
}

fn mirror_share(mirror: &MirrorFilter) -> u16 {
    let whole = u64::from(WHOLE);
    let share = match (mirror.percent, mirror.fraction) {
        (Some(percent), _) => u64::from(percent) * whole / 100,
        (None, Some(fraction)) => {
            let denominator = u64::from(fraction.denominator.unwrap_or(100)).max(1);
            u64::from(fraction.numerator) * whole / denominator
        }
        (None, None) => whole,
    };
    u16::try_from(share.min(whole)).unwrap_or(WHOLE)
}
