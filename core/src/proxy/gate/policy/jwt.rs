//! Tokens that requests carry: found, verified, turned into headers.

use std::time::{SystemTime, UNIX_EPOCH};

use http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::Refusal;
use crate::{
    decide::{Jwt, JwtProvider, TokenSource, cookies},
    jwt::{Claims, Expected, Token, TokenError},
    proxy::gate::{Gate, context::Context},
};

impl Gate {
    /// Verifies the request's token. A refusal where there is none, or none that is believed.
    pub(super) async fn check_token(
        &self,
        session: &mut Session,
        context: &mut Context,
        jwt: &Jwt,
    ) -> Result<Option<Refusal>> {
        let request = session.req_header_mut();
        // What only a token may say is not believed from the client.
        for (_, name) in jwt.providers.iter().flat_map(|provider| &provider.claims) {
            request.remove_header(name);
        }
        let found = match find(jwt, &request.headers, &request.uri) {
            Ok(Some(found)) => found,
            Ok(None) if jwt.allow_missing => return Ok(None),
            Ok(None) => return Ok(Some(challenge("Bearer".into(), "jwt_missing"))),
            Err(error) => return Ok(Some(invalid(error))),
        };
        let (provider, text) = found;
        let token = match Token::parse(&text) {
            Ok(token) => token,
            Err(error) => return Ok(Some(invalid(error))),
        };
        let keys = self.policies.key_sets.keys(&provider.keys, |set| token.is_newer_than(set)).await;
        let Some(keys) = keys else {
            return Ok(Some(Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, "jwks_unavailable")));
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let expected = Expected {
            issuer: &provider.issuer,
            audiences: &provider.audiences,
            skew: provider.skew,
            now: i64::try_from(now).unwrap_or(i64::MAX),
        };
        match token.verify(&keys, &expected) {
            Ok(claims) => {
                tell(session.req_header_mut(), provider, &claims)?;
                context.policy.claims = Some(claims);
                context.policy.used_token = (!provider.forward).then(|| provider.from.clone());
                Ok(None)
            }
            Err(error) => Ok(Some(invalid(error))),
        }
    }
}

/// The provider whose token the request carries, and the token.
fn find<'a>(
    jwt: &'a Jwt,
    headers: &HeaderMap,
    uri: &Uri,
) -> std::result::Result<Option<(&'a JwtProvider, String)>, TokenError> {
    let mut refused = None;
    for provider in &jwt.providers {
        let Some(text) = token(&provider.from, headers, uri)? else { continue };
        match Token::parse(&text) {
            Ok(token) if token.claimed_issuer() == Some(&*provider.issuer) => {
                return Ok(Some((provider, text)));
            }
            Ok(_) => refused = Some(TokenError::Issuer),
            Err(error) => refused = Some(error),
        }
    }
    refused.map_or(Ok(None), Err)
}

/// The token at a place. Two at one place are refused, as others might read the other one.
fn token(
    from: &TokenSource,
    headers: &HeaderMap,
    uri: &Uri,
) -> std::result::Result<Option<String>, TokenError> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).map_err(|_| TokenError::Malformed);
    let field = |name: &header::HeaderName| single(headers.get_all(name).iter().map(HeaderValue::as_bytes));
    match from {
        TokenSource::Bearer => {
            let Some(value) = field(&header::AUTHORIZATION)? else { return Ok(None) };
            let (scheme, token) = value.split_at_checked(7).unwrap_or((value, &[]));
            scheme.eq_ignore_ascii_case(b"bearer ").then(|| text(token.trim_ascii())).transpose()
        }
        TokenSource::Header(name) => field(name)?.map(text).transpose(),
        TokenSource::Cookie(name) => {
            let named = cookies(headers).filter(|(key, _)| *key == name.as_bytes());
            single(named.map(|(_, value)| value))?.map(text).transpose()
        }
        TokenSource::Query(name) => {
            let pairs = uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
            let named = pairs.filter(|(key, _)| **key == **name);
            single(named.map(|(_, value)| value.as_bytes()))?.map(text).transpose()
        }
    }
}

/// The only one, if there is one.
fn single<'a>(
    mut values: impl Iterator<Item = &'a [u8]>,
) -> std::result::Result<Option<&'a [u8]>, TokenError> {
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => Err(TokenError::Malformed),
    }
}

/// Passes claims on as headers.
fn tell(request: &mut RequestHeader, provider: &JwtProvider, claims: &Claims) -> Result<()> {
    for (claim, name) in &provider.claims {
        // A text that cannot stand in a header is not passed on.
        if let Some(value) = claims.text(claim).and_then(|text| HeaderValue::try_from(text).ok()) {
            request.insert_header(name, value)?;
        }
    }
    Ok(())
}

/// Takes a token away that the backend must not see.
pub(super) fn strip(request: &mut RequestHeader, from: &TokenSource) -> Result<()> {
    match from {
        TokenSource::Bearer => drop(request.remove_header(&header::AUTHORIZATION)),
        TokenSource::Header(name) => drop(request.remove_header(name)),
        TokenSource::Cookie(name) => {
            let others: Vec<Vec<u8>> = cookies(&request.headers)
                .filter(|(key, _)| *key != name.as_bytes())
                .map(|(key, value)| [key, b"=", value].concat())
                .collect();
            request.remove_header(&header::COOKIE);
            if let Ok(rest) = HeaderValue::from_bytes(&others.join(&b"; "[..]))
                && !rest.is_empty()
            {
                request.insert_header(header::COOKIE, rest)?;
            }
        }
        TokenSource::Query(name) => {
            let pairs = request.uri.query().unwrap_or_default().split('&');
            let others: Vec<&str> = pairs.filter(|pair| pair.split('=').next() != Some(&**name)).collect();
            let target = match others.as_slice() {
                [] => request.uri.path().to_owned(),
                others => format!("{}?{}", request.uri.path(), others.join("&")),
            };
            let mut parts = request.uri.clone().into_parts();
            parts.path_and_query = target.parse().ok();
            // What was a URI is one without a parameter, too.
            if let Ok(uri) = Uri::from_parts(parts) {
                request.set_uri(uri);
            }
        }
    }
    Ok(())
}

/// RFC 6750 section 3.
fn invalid(error: TokenError) -> Refusal {
    challenge(format!("Bearer error=\"invalid_token\", error_description=\"{error}\""), "jwt_invalid")
}

fn challenge(value: String, reason: &'static str) -> Refusal {
    let field = HeaderValue::try_from(value).ok().map(|value| (header::WWW_AUTHENTICATE, value));
    Refusal { headers: field.into_iter().collect(), ..Refusal::plain(StatusCode::UNAUTHORIZED, reason) }
}
