//! Tokens.

use std::time::Duration;

use super::{common::Checker, traffic::duration};
use crate::resources::kinds::{JwksSpec, JwtProviderSpec, JwtSpec};

const DAY: Duration = Duration::from_secs(24 * 3600);

pub(super) fn jwt(c: &mut Checker, jwt: &JwtSpec) {
    let count = jwt.providers.len();
    c.at("providers", |c| {
        c.require((1..=16).contains(&count), format!("has {count} entries"), "use 1 to 16")
    });
    c.unique("providers", "provider", jwt.providers.iter().map(|provider| provider.name.as_str()));
    c.unique("providers", "issuer", jwt.providers.iter().map(|provider| provider.issuer.as_str()));
    c.each("providers", &jwt.providers, provider);
}

fn provider(c: &mut Checker, provider: &JwtProviderSpec) {
    c.dns_label("name", &provider.name);
    c.at("issuer", |c| c.require(!provider.issuer.is_empty(), "is empty", "write the tokens' `iss`"));
    c.at_most("audiences", provider.audiences.len(), 32);
    c.at("jwks", |c| jwks(c, &provider.jwks));
    let from = &provider.from;
    let given = [from.header.is_some(), from.cookie.is_some(), from.query.is_some()];
    let count = given.into_iter().filter(|given| *given).count();
    c.at("from", |c| {
        c.require(count <= 1, "has more than one place", "use one of header, cookie, query");
        for (field, name) in [("header", &from.header), ("cookie", &from.cookie)] {
            if let Some(name) = name {
                c.header_name(field, name);
            }
        }
    });
    c.at_most("claimsToHeaders", provider.claims_to_headers.len(), 32);
    c.each("claimsToHeaders", &provider.claims_to_headers, |c, claim| {
        c.at("claim", |c| c.require(!claim.claim.is_empty(), "is empty", "name a claim"));
        c.header_name("header", &claim.header);
        let forbidden = ["host", "connection", "content-length", "transfer-encoding", "upgrade", "te"];
        let fits = forbidden.iter().all(|name| !claim.header.eq_ignore_ascii_case(name));
        c.at("header", |c| c.require(fits, "steers the connection", "choose another"));
    });
    duration(c, "clockSkew", provider.clock_skew.as_deref(), Duration::ZERO, Duration::from_secs(600));
}

fn jwks(c: &mut Checker, jwks: &JwksSpec) {
    let given = [jwks.config_map.is_some(), jwks.file.is_some(), jwks.url.is_some()];
    let count = given.into_iter().filter(|given| *given).count();
    c.require(count == 1, format!("has {count} sources"), "give one of configMap, file, url");
    if let Some(map) = &jwks.config_map {
        c.at("configMap", |c| c.dns_name("name", &map.name));
    }
    if let Some(file) = &jwks.file {
        c.at("file", |c| c.require(file.starts_with('/'), "is not an absolute path", "begin with '/'"));
    }
    if let Some(url) = &jwks.url {
        let uri = url.parse::<http::Uri>().ok();
        let fits =
            uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
        let hint = "write one such as https://issuer.example/.well-known/jwks.json";
        c.at("url", |c| c.require(fits, format!("{url:?} is not a URL"), hint));
    }
    duration(c, "refresh", jwks.refresh.as_deref(), Duration::from_secs(10), DAY);
}
