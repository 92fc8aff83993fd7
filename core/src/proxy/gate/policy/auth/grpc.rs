//! Asking by gRPC: Envoy's `envoy.service.auth.v3.Authorization`.

use std::{
    collections::HashMap,
    net::SocketAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};
use tombolo_proto::auth::{
    self, Address, AttributeContext, CheckRequest, CheckResponse, HeaderValueOption, SocketAddress,
    attribute_context::{self, HttpRequest, Peer, TlsSession},
    check_response::HttpResponse,
    header_value_option::HeaderAppendAction,
};

use super::{Action, Change, Changes, Denial, Question, Verdict, belongs_to_connection};
use crate::proxy::ask::{Answer, Error, grpc_body, grpc_message};

const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// The request to the server.
pub(super) fn question(
    question: &Question<'_>,
    headers: &[HeaderName],
    timeout: Duration,
) -> Result<Request<Bytes>, Error> {
    let message = CheckRequest { attributes: Some(attributes(question, headers)) };
    let millis = timeout.as_millis().clamp(1, 99_999_999);
    Ok(Request::builder()
        .method(Method::POST)
        .uri(format!("http://{}{CHECK}", question.authority))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("grpc-timeout", format!("{millis}m"))
        .body(grpc_body(&message)?)?)
}

fn attributes(question: &Question<'_>, listed: &[HeaderName]) -> AttributeContext {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let mut headers: HashMap<String, String> = HashMap::new();
    for (name, value) in question.headers {
        if listed.is_empty() || listed.contains(name) {
            let known = headers.entry(name.as_str().to_owned()).or_default();
            if !known.is_empty() {
                known.push(',');
            }
            known.push_str(&text(value));
        }
    }
    for (name, value) in [
        (":method", question.method.as_str()),
        (":scheme", question.scheme),
        (":authority", question.authority),
        (":path", question.path_and_query),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let (body, raw_body) = match String::from_utf8(question.body.to_vec()) {
        Ok(text) => (text, Bytes::new()),
        Err(_) => (String::new(), question.body.clone()),
    };
    let id = question.headers.get("x-request-id").map(text).unwrap_or_default();
    let length =
        question.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    let http = HttpRequest {
        id,
        method: question.method.to_string(),
        headers,
        path: question.path_and_query.to_owned(),
        host: question.authority.to_owned(),
        scheme: question.scheme.to_owned(),
        size: length.unwrap_or(-1),
        protocol: question.protocol.to_owned(),
        body,
        raw_body,
        ..Default::default()
    };
    let time = prost_types::Timestamp::from(SystemTime::now());
    AttributeContext {
        source: Some(Peer {
            principal: question.principal.clone().unwrap_or_default(),
            ..peer(question.client)
        }),
        destination: Some(peer(question.local)),
        request: Some(attribute_context::Request { time: Some(time), http: Some(http) }),
        tls_session: question.sni.map(|sni| TlsSession { sni: sni.to_owned() }),
        ..Default::default()
    }
}

fn peer(address: SocketAddr) -> Peer {
    let socket = SocketAddress {
        address: address.ip().to_canonical().to_string(),
        port_specifier: Some(auth::socket_address::PortSpecifier::PortValue(address.port().into())),
        ..Default::default()
    };
    let address = Some(Address { address: Some(auth::address::Address::SocketAddress(socket)) });
    Peer { address, ..Default::default() }
}

/// What the answer says.
pub(super) fn verdict(answer: Answer) -> Result<Verdict, Error> {
    Ok(judge(grpc_message::<CheckResponse>(answer)?))
}

fn judge(response: CheckResponse) -> Verdict {
    // No status is not a permission: only a message that says so is one.
    let permitted = response.status.as_ref().is_some_and(|status| status.code == 0);
    match response.http_response {
        Some(HttpResponse::OkResponse(ok)) if permitted => Verdict::Allow(Changes {
            request: changes(&ok.headers),
            remove: ok.headers_to_remove.iter().filter_map(|name| usable(name)).collect(),
            response: changes(&ok.response_headers_to_add),
            query_set: ok.query_parameters_to_set.into_iter().map(|p| (p.key, p.value)).collect(),
            query_remove: ok.query_parameters_to_remove,
        }),
        None if permitted => Verdict::Allow(Changes::default()),
        Some(HttpResponse::DeniedResponse(denied)) => {
            let code = denied.status.map_or(403, |status| status.code);
            let status = u16::try_from(code).ok().and_then(|code| StatusCode::from_u16(code).ok());
            // A denial is never a success, whatever its status says.
            let status = status.filter(|status| status.as_u16() >= 300).unwrap_or(StatusCode::FORBIDDEN);
            let headers =
                changes(&denied.headers).into_iter().map(|change| (change.name, change.value)).collect();
            Verdict::Deny(Denial { status, headers, body: denied.body.into() })
        }
        Some(HttpResponse::OkResponse(_)) | None => {
            Verdict::Deny(Denial { status: StatusCode::FORBIDDEN, headers: Vec::new(), body: Bytes::new() })
        }
    }
}

fn changes(options: &[HeaderValueOption]) -> Vec<Change> {
    options.iter().filter_map(change).collect()
}

/// A field overwrites one of the same name, unless it says otherwise: else what a client sends would stand beside what the
/// server vouches for.
fn change(option: &HeaderValueOption) -> Option<Change> {
    let header = option.header.as_ref()?;
    let name = usable(&header.key)?;
    let bytes = if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value };
    if bytes.is_empty() && !option.keep_empty_value {
        return None;
    }
    let value = HeaderValue::from_bytes(bytes).ok()?;
    let action = match (option.append, option.append_action()) {
        (Some(true), _) => Action::Append,
        (_, HeaderAppendAction::AddIfAbsent) => Action::AddIfAbsent,
        (_, HeaderAppendAction::OverwriteIfExists) => Action::OverwriteIfExists,
        (_, HeaderAppendAction::OverwriteIfExistsOrAdd | HeaderAppendAction::AppendIfExistsOrAdd) => {
            Action::Overwrite
        }
    };
    Some(Change { action, name, value })
}

fn usable(name: &str) -> Option<HeaderName> {
    HeaderName::from_bytes(name.as_bytes()).ok().filter(|name| !belongs_to_connection(name))
}
