//! Tokens, of TrafficPolicies.

use std::{sync::Arc, time::Duration};

use http::HeaderName;

use super::status::Problem;
use crate::{
    decide::{Jwt, JwtProvider, KeySource, TokenSource},
    jwt::KeySet,
    resources::{
        ObjectKey, ResourceSet,
        kinds::{JwksSpec, JwtProviderSpec, JwtSpec, TokenSourceSpec},
        parse_duration,
    },
};

const REFRESH: Duration = Duration::from_secs(600);
const SKEW: Duration = Duration::from_secs(60);

/// Compiles it. Keys that are not there are told, and refuse every token.
pub(super) fn jwt(resources: &ResourceSet, namespace: &str, spec: &JwtSpec) -> (Jwt, Vec<Problem>) {
    let mut problems = Vec::new();
    let providers = spec
        .providers
        .iter()
        .map(|spec| {
            let keys = key_source(resources, namespace, &spec.jwks).unwrap_or_else(|problem| {
                problems.push(problem);
                KeySource::Missing
            });
            provider(spec, keys)
        })
        .collect();
    (Jwt { providers, allow_missing: spec.allow_missing }, problems)
}

fn provider(spec: &JwtProviderSpec, keys: KeySource) -> JwtProvider {
    JwtProvider {
        issuer: spec.issuer.as_str().into(),
        audiences: spec.audiences.iter().map(|text| text.as_str().into()).collect(),
        keys,
        from: token_source(&spec.from),
        claims: spec
            .claims_to_headers
            .iter()
            .filter_map(|c| Some((c.claim.as_str().into(), header_name(&c.header)?)))
            .collect(),
        forward: spec.forward.unwrap_or(true),
        skew: spec.clock_skew.as_deref().and_then(|text| parse_duration(text).ok()).unwrap_or(SKEW),
    }
}

/// What is no name was refused with its document.
fn header_name(text: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(text.as_bytes()).ok()
}

fn token_source(spec: &TokenSourceSpec) -> TokenSource {
    match (spec.header.as_deref().and_then(header_name), &spec.cookie, &spec.query) {
        (Some(name), _, _) => TokenSource::Header(name),
        (None, Some(name), _) => TokenSource::Cookie(name.as_str().into()),
        (None, None, Some(name)) => TokenSource::Query(name.as_str().into()),
        (None, None, None) => TokenSource::Bearer,
    }
}

fn key_source(resources: &ResourceSet, namespace: &str, spec: &JwksSpec) -> Result<KeySource, Problem> {
    let refresh = spec.refresh.as_deref().and_then(|text| parse_duration(text).ok()).unwrap_or(REFRESH);
    if let Some(from) = spec.file.as_deref().or(spec.url.as_deref()) {
        return Ok(KeySource::Fetched { from: from.into(), refresh });
    }
    let invalid = |message: String| Problem::new("InvalidJwks", message);
    let reference = spec.config_map.as_ref().ok_or_else(|| invalid("jwks names no source".into()))?;
    let key = ObjectKey::new(namespace, &reference.name);
    let entry = reference.key.as_deref().unwrap_or("jwks.json");
    let map = resources.config_maps.get(&key);
    let map = map.ok_or_else(|| Problem::new("JwksNotFound", format!("there is no ConfigMap {key}")))?;
    let text = map.spec.data.get(entry);
    let text =
        text.ok_or_else(|| Problem::new("JwksNotFound", format!("ConfigMap {key} has no key {entry:?}")))?;
    let set = KeySet::parse(text.as_bytes());
    set.map(|set| KeySource::Known(Arc::new(set)))
        .map_err(|error| invalid(format!("ConfigMap {key}: {error}")))
}
