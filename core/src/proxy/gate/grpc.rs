//! Answers made here to gRPC calls: a client of gRPC wants a `grpc-status` instead of an HTTP status.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, StatusCode, header};
use pingora_error::Result;
use pingora_http::ResponseHeader;
use pingora_proxy::Session;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

/// True for a call: its content type is `application/grpc`, with or without what it is encoded in. gRPC-Web is not
/// meant, as its clients read the trailers out of the body.
pub(super) fn is_call(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return false };
    let rest = kind.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The `grpc-status` of headers or trailers.
pub(super) fn status(headers: &HeaderMap) -> Option<u16> {
    headers.get(STATUS)?.to_str().ok()?.parse().ok()
}

/// What a call ended with: as its trailers said, else the head of its answer, which may be all of it.
pub(super) fn ended(session: &Session, trailers: Option<u16>) -> Option<u16> {
    trailers.or_else(|| status(&session.response_written()?.headers))
}

/// An error in the words of gRPC: status 200 and only trailers, which stand where the head does. The headers that came
/// with the error are kept.
pub(super) fn in_words_of_grpc(error: &ResponseHeader) -> Result<(ResponseHeader, Bytes)> {
    let mut head = ResponseHeader::build(StatusCode::OK, Some(error.headers.len() + 3))?;
    for (name, value) in &error.headers {
        if *name != header::CONTENT_LENGTH && *name != header::CONTENT_TYPE {
            head.append_header(name, value)?;
        }
    }
    head.insert_header(header::CONTENT_TYPE, "application/grpc")?;
    head.insert_header(STATUS, code(error.status).to_string())?;
    if let Some(words) = error.status.canonical_reason() {
        head.insert_header(MESSAGE, words)?;
    }
    Ok((head, Bytes::new()))
}

/// The code for an HTTP status (gRPC's `http-grpc-status-mapping`); a try that ran out of time is the deadline's.
fn code(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 | 431 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        413 => 8,
        429 | 500 | 502 | 503 => 14,
        408 | 504 => 4,
        _ => 2,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_known_by_their_content_type() {
        for (kind, call) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;v=1", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            assert_eq!(is_call(&headers), call, "{kind}");
        }
        assert!(!is_call(&HeaderMap::new()));
    }

    #[test]
    fn an_error_becomes_trailers_only_and_keeps_its_headers() {
        let mut error = ResponseHeader::build(404, None).unwrap();
        error.insert_header("content-length", "14").unwrap();
        error.insert_header("content-type", "text/plain").unwrap();
        error.insert_header("retry-after", "3").unwrap();
        let (head, body) = in_words_of_grpc(&error).unwrap();
        assert_eq!((head.status.as_u16(), body.len()), (200, 0));
        let of = |name: &str| head.headers.get(name).and_then(|v| v.to_str().ok());
        assert_eq!((of("grpc-status"), of("grpc-message")), (Some("12"), Some("Not Found")));
        assert_eq!((of("retry-after"), of("content-length")), (Some("3"), None));
        assert_eq!(of("content-type"), Some("application/grpc"));
    }
}
