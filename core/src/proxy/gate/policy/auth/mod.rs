//! External authorization: a server is asked whether a request may go on.

mod client;
mod grpc;
mod http;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use bytes::{Bytes, BytesMut};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::Refusal;
use crate::{
    decide::{AuthProtocol, ExternalAuth},
    proxy::{
        ask::Error,
        gate::{Gate, context::Context, failure::Failure, head},
    },
};
pub(super) use client::Client;
use client::Ways;

/// A body that is to be sent along must be there by then.
const BODY: Duration = Duration::from_secs(30);

/// What the server is told of a request.
struct Question<'a> {
    method: &'a Method,
    scheme: &'a str,
    /// With its port.
    authority: &'a str,
    path_and_query: &'a str,
    protocol: &'static str,
    headers: &'a HeaderMap,
    body: Bytes,
    client: SocketAddr,
    local: SocketAddr,
    /// The verified identity of the caller.
    principal: Option<String>,
    sni: Option<&'a str>,
}

/// What it says.
enum Verdict {
    Allow(Changes),
    Deny(Denial),
}

/// Changes to a request that goes on.
#[derive(Debug, Default)]
struct Changes {
    request: Vec<Change>,
    remove: Vec<HeaderName>,
    response: Vec<Change>,
    query_set: Vec<(String, String)>,
    query_remove: Vec<String>,
}

/// A change of one header field.
#[derive(Debug, Clone)]
pub(super) struct Change {
    action: Action,
    pub name: HeaderName,
    pub value: HeaderValue,
}

/// How a field is changed (`envoy.config.core.v3.HeaderValueOption`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Append,
    AddIfAbsent,
    Overwrite,
    OverwriteIfExists,
}

/// The answer to a request that does not go on.
struct Denial {
    status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Gate {
    /// Asks. A refusal where the server denies, or cannot be asked.
    pub(super) async fn authorize(
        &self,
        session: &mut Session,
        context: &mut Context,
        auth: &ExternalAuth,
    ) -> pingora_error::Result<Option<Refusal>> {
        let Some(backend) = &auth.backend else {
            return Ok(Some(Refusal::plain(StatusCode::INTERNAL_SERVER_ERROR, "auth_not_found")));
        };
        let body = match read_body(session, auth.body_most).await? {
            Some(body) => body,
            None => return Ok(Some(Refusal::plain(StatusCode::PAYLOAD_TOO_LARGE, "auth_body_too_large"))),
        };
        let left = context.deadline.map(|end| end.saturating_duration_since(Instant::now()));
        let timeout = left.map_or(auth.timeout, |left| left.min(auth.timeout));
        let asking = async {
            let question = question(session.req_header(), context, body).ok_or("nothing to ask about")?;
            // The server may be a backend with a BackendTLSPolicy of its own.
            let certificate =
                context.decision.as_ref().map(|d| d.tls.certificate.clone()).unwrap_or_default();
            let tls = self.snapshot.load().config.tls_of(backend, &certificate);
            let tls = &tls.map_err(|_| "a TLS policy that cannot be carried out")?;
            let ways = Ways { picker: &*self.picker, upstream: &self.upstream, tls };
            let client = &self.policies.client;
            match &auth.protocol {
                AuthProtocol::Grpc { headers } => {
                    let request = grpc::question(&question, headers, timeout)?;
                    grpc::verdict(client.send(ways, backend, &request).await?)
                }
                AuthProtocol::Http { prefix, headers, response_headers } => {
                    let request = http::question(&question, prefix, headers)?;
                    let answer = client.send(ways, backend, &request).await?;
                    if auth.fail_open && answer.head.status.is_server_error() {
                        return Err(Error::from("the server has failed"));
                    }
                    Ok(http::verdict(answer, response_headers))
                }
            }
        };
        let verdict = tokio::time::timeout(timeout, asking).await.unwrap_or_else(|_| Err("too slow".into()));
        match verdict {
            Ok(Verdict::Allow(changes)) => {
                changes.apply(session.req_header_mut())?;
                context.policy.response.extend(changes.response);
                Ok(None)
            }
            Ok(Verdict::Deny(denial)) => {
                Ok(Some(Refusal::of(denial.status, "auth_denied", denial.headers, denial.body)))
            }
            Err(error) => {
                tracing::debug!(%error, "an authorization server cannot be asked");
                let refusal = Refusal::plain(StatusCode::SERVICE_UNAVAILABLE, "auth_unavailable");
                Ok((!auth.fail_open).then_some(refusal))
            }
        }
    }
}

/// Reads the body, if it is to be sent along; the engine keeps it for the backend. None: it is too long.
async fn read_body(session: &mut Session, most: usize) -> pingora_error::Result<Option<Bytes>> {
    if most == 0 || session.is_body_empty() {
        return Ok(Some(Bytes::new()));
    }
    let length = super::content_length(session);
    if length.is_some_and(|length| usize::try_from(length).is_ok_and(|length| length > most)) {
        session.set_keepalive(None);
        return Ok(None);
    }
    session.enable_retry_buffering();
    if session.req_header().headers.contains_key(header::EXPECT) {
        session.write_continue_response().await?;
        session.req_header_mut().remove_header(&header::EXPECT);
    }
    let mut body = BytesMut::new();
    let reading = async {
        while let Some(part) = session.read_request_body().await? {
            if body.len() + part.len() > most {
                session.set_keepalive(None);
                return Ok(None);
            }
            body.extend_from_slice(&part);
        }
        Ok(Some(body.freeze()))
    };
    tokio::time::timeout(BODY, reading)
        .await
        .unwrap_or_else(|_| Err(Failure::new(408, "client_too_slow").error()))
}

fn question<'a>(request: &'a RequestHeader, context: &'a Context, body: Bytes) -> Option<Question<'a>> {
    let arrival = context.arrival.as_deref()?;
    Some(Question {
        method: &request.method,
        scheme: if arrival.tls { "https" } else { "http" },
        authority: head::authority(request)?,
        path_and_query: request.uri.path_and_query().map_or("/", |target| target.as_str()),
        protocol: match request.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        headers: &request.headers,
        body,
        client: SocketAddr::new(arrival.caller(0).address, arrival.peer.port()),
        local: arrival.local,
        principal: arrival.identity.as_ref().map(ToString::to_string),
        sni: arrival.sni.as_deref(),
    })
}

impl Changes {
    fn apply(&self, request: &mut RequestHeader) -> pingora_error::Result<()> {
        for name in &self.remove {
            request.remove_header(name);
        }
        for change in &self.request {
            let Change { action, name, value } = change;
            let there = request.headers.contains_key(name);
            match action {
                Action::Append => drop(request.append_header(name, value)?),
                Action::AddIfAbsent if there => {}
                Action::OverwriteIfExists if !there => {}
                Action::AddIfAbsent | Action::Overwrite | Action::OverwriteIfExists => {
                    request.insert_header(name, value)?;
                }
            }
        }
        if self.query_set.is_empty() && self.query_remove.is_empty() {
            return Ok(());
        }
        if let Some(uri) = self.with_query(&request.uri) {
            request.set_uri(uri);
        }
        Ok(())
    }

    fn with_query(&self, uri: &Uri) -> Option<Uri> {
        let name = |pair: &str| pair.split('=').next().unwrap_or_default().to_owned();
        let set: Vec<(String, String)> =
            self.query_set.iter().map(|(key, value)| (encode(key), encode(value))).collect();
        let gone = |pair: &str| {
            let name = name(pair);
            self.query_remove.iter().any(|key| encode(key) == name) || set.iter().any(|(key, _)| *key == name)
        };
        let kept = uri.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !gone(pair));
        let query: Vec<String> =
            kept.map(str::to_owned).chain(set.iter().map(|(key, value)| format!("{key}={value}"))).collect();
        let target = match query.as_slice() {
            [] => uri.path().to_owned(),
            query => format!("{}?{}", uri.path(), query.join("&")),
        };
        let mut parts = uri.clone().into_parts();
        parts.path_and_query = Some(target.parse().ok()?);
        Uri::from_parts(parts).ok()
    }
}

impl Change {
    /// Changes a response.
    pub fn respond(self, response: &mut pingora_http::ResponseHeader) -> pingora_error::Result<()> {
        let there = response.headers.contains_key(&self.name);
        match self.action {
            Action::Append => drop(response.append_header(self.name, self.value)?),
            Action::AddIfAbsent if there => {}
            Action::OverwriteIfExists if !there => {}
            Action::AddIfAbsent | Action::Overwrite | Action::OverwriteIfExists => {
                response.insert_header(self.name, self.value)?;
            }
        }
        Ok(())
    }
}

/// Percent-encodes all but unreserved letters (RFC 3986 section 2.3).
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// Fields of one connection or message (RFC 9110 section 7.6.1), which are nobody's to pass on; also Host, which routes.
fn belongs_to_connection(name: &HeaderName) -> bool {
    [
        header::CONNECTION,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        header::TE,
        header::TRAILER,
        header::HOST,
        header::EXPECT,
        header::PROXY_AUTHENTICATE,
        header::PROXY_AUTHORIZATION,
    ]
    .contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}
