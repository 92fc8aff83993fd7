//! Fields that are of one connection only, and so are passed on by nobody (RFC 9110 section 7.6.1).

use http::{HeaderMap, HeaderName, Version, header};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::{failure::Failure, present::Present};
use crate::proxy::strict::is_tunnel;

/// A Connection field may name this many others; past it 400.
const NAMED: usize = 32;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// Takes them out of a request. Of an upgrade, only one to WebSocket is left.
///
/// # Errors
/// 400 where Connection names what says where a request goes or ends, or is no list of names.
pub(super) fn clean_request(request: &mut RequestHeader) -> Result<(), Failure> {
    let upgrade = wants_websocket(request);
    for name in named(&request.headers)? {
        request.remove_header(&name);
    }
    for name in [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, HTTP2_SETTINGS] {
        request.remove_header(&name);
    }
    if upgrade {
        let set = request.insert_header(header::CONNECTION, "Upgrade");
        let set = set.and_then(|()| request.insert_header(header::UPGRADE, "websocket"));
        set.map_err(|_| Failure::new(500, "internal"))?;
    } else {
        request.remove_header(&header::UPGRADE);
    }
    if let Some(te) = request.headers.get(header::TE) {
        // RFC 9110 section 10.1.4: an intermediary that keeps trailers may say so, and that is all.
        let trailers = list(te.as_bytes()).any(|coding| coding.eq_ignore_ascii_case(b"trailers"));
        request.remove_header(&header::TE);
        if trailers {
            request.insert_header(header::TE, "trailers").map_err(|_| Failure::new(500, "internal"))?;
        }
    }
    Ok(())
}

/// Takes them out of a response, unless it switches protocols. What its Connection names wrongly is left alone.
pub(super) fn clean_response(response: &mut ResponseHeader) {
    if response.status == http::StatusCode::SWITCHING_PROTOCOLS
        || !Present::of(&response.headers).of_one_connection
    {
        return;
    }
    for name in named(&response.headers).unwrap_or_default() {
        response.remove_header(&name);
    }
    for name in [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::UPGRADE, HTTP2_SETTINGS] {
        response.remove_header(&name);
    }
}

/// HTTP/1.1, no body, one Upgrade field that says `websocket`, and a Connection field that says it is meant.
fn wants_websocket(request: &RequestHeader) -> bool {
    let headers = &request.headers;
    let mut upgrades = headers.get_all(header::UPGRADE).iter();
    let one = matches!((upgrades.next(), upgrades.next()), (Some(one), None) if is_tunnel(one.as_bytes()));
    one && request.version == Version::HTTP_11
        && options(headers).any(|option| option.eq_ignore_ascii_case(b"upgrade"))
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && headers
            .get(header::CONTENT_LENGTH)
            .is_none_or(|length| length.as_bytes().iter().all(|b| *b == b'0'))
}

/// The fields that Connection names.
fn named(headers: &HeaderMap) -> Result<Vec<HeaderName>, Failure> {
    const BAD: Failure = Failure::new(400, "bad_connection_field");
    let mut names = Vec::new();
    for option in options(headers) {
        // By far the most frequent; neither is the name of a field that matters.
        if option.eq_ignore_ascii_case(b"close") || option.eq_ignore_ascii_case(b"upgrade") {
            continue;
        }
        let name = HeaderName::from_bytes(option).map_err(|_| BAD)?;
        let essential = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING].contains(&name);
        if essential || names.len() == NAMED {
            return Err(BAD);
        }
        names.push(name);
    }
    Ok(names)
}

fn options(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    headers.get_all(header::CONNECTION).iter().flat_map(|value| list(value.as_bytes()))
}

fn list(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|b| *b == b',').map(<[u8]>::trim_ascii).filter(|item| !item.is_empty())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn request(fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("GET", b"/", None).unwrap();
        request.set_version(Version::HTTP_11);
        for (name, value) in fields {
            request.append_header(*name, value.to_string()).unwrap();
        }
        request
    }

    fn cleaned(fields: &[(&'static str, &str)]) -> Vec<String> {
        let mut request = request(fields);
        clean_request(&mut request).unwrap();
        let text =
            |(name, value): (&HeaderName, &http::HeaderValue)| format!("{name}: {}", value.to_str().unwrap());
        let mut all: Vec<String> = request.headers.iter().map(text).collect();
        all.sort();
        all
    }

    #[test]
    fn what_connection_names_is_dropped() {
        let fields = [
            ("connection", "close, X-Secret"),
            ("connection", "keep-alive"),
            ("x-secret", "1"),
            ("x-b", "2"),
        ];
        assert_eq!(cleaned(&fields), ["x-b: 2"]);
        assert_eq!(
            cleaned(&[("keep-alive", "5"), ("proxy-connection", "x"), ("http2-settings", "AA")]),
            [""; 0]
        );
        assert_eq!(cleaned(&[("te", "gzip, Trailers;q=1")]), [""; 0]);
        assert_eq!(cleaned(&[("te", "gzip, trailers")]), ["te: trailers"]);
    }

    #[test]
    fn what_makes_a_request_cannot_be_dropped() {
        let many = vec!["x"; 40].join(",");
        for options in
            ["Host", "close, content-length", "Transfer-Encoding", "a b", "\"x\"", ":authority", &many]
        {
            let refused = clean_request(&mut request(&[("host", "x"), ("connection", options)])).unwrap_err();
            assert_eq!((refused.status, refused.reason), (400, "bad_connection_field"), "{options}");
        }
    }

    #[test]
    fn only_a_true_upgrade_to_websocket_is_left() {
        let kept = ["connection: Upgrade", "upgrade: websocket"];
        assert_eq!(cleaned(&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")]), kept);
        for tricks in [
            &[("upgrade", "websocket")][..],
            &[("connection", "upgrade"), ("upgrade", "h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket, h2c")],
            &[("connection", "upgrade"), ("upgrade", "websocket"), ("upgrade", "h2c")],
            &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMA")],
        ] {
            assert_eq!(cleaned(tricks), [""; 0], "{tricks:?}");
        }
        let body = [("connection", "upgrade"), ("upgrade", "websocket"), ("content-length", "5")];
        assert_eq!(cleaned(&body), ["content-length: 5"]);
    }

    #[test]
    fn responses_are_cleaned_unless_they_switch_protocols() {
        let mut response = ResponseHeader::build(200, None).unwrap();
        for (name, value) in
            [("connection", "x-a, content-length"), ("x-a", "1"), ("keep-alive", "5"), ("upgrade", "h2c")]
        {
            response.append_header(name, value).unwrap();
        }
        clean_response(&mut response);
        assert_eq!(response.headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-a"]);
        let mut switching = ResponseHeader::build(101, None).unwrap();
        switching.append_header("connection", "upgrade").unwrap();
        clean_response(&mut switching);
        assert_eq!(switching.headers.len(), 1);
    }
}
