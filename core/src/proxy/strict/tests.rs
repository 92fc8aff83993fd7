//! What is refused, what is not, and a reference to compare with.

use proptest::prelude::*;

use super::*;
use crate::proxy::HttpLimits;

fn scan(bytes: &[u8]) -> Result<Option<Head>, Refused> {
    HeadScan::default().scan(bytes, &HttpLimits::default())
}

fn refusal(text: &str) -> Option<(u16, &'static str)> {
    scan(text.as_bytes()).err().map(|refused| (refused.status, refused.reason))
}

/// A request with these lines between its Host and its end.
fn with(lines: &str) -> String {
    format!("POST /a HTTP/1.1\r\nHost: x.example\r\n{lines}\r\n")
}

#[test]
fn heads_with_one_reading_pass() {
    for (text, body) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n", Body::Length(0)),
        ("\r\nGET / HTTP/1.1\r\nhOsT:x\r\n\r\n", Body::Length(0)),
        ("GET //a//b?c=d|{}\"<>`^\\ HTTP/1.0\r\nHost: \t x:80 \t\r\n\r\n", Body::Length(0)),
        ("OPTIONS * HTTP/1.1\r\nHost: [::1]:8080\r\n\r\n", Body::Length(0)),
        ("GET HTTP://x.example:80/a HTTP/1.1\r\nHost: x.example:80\r\n\r\n", Body::Length(0)),
        ("GET https://x?q HTTP/1.1\r\nHost: x\r\n\r\n", Body::Length(0)),
        ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 007\r\n\r\n", Body::Length(7)),
        ("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\tChunked \r\n\r\n", Body::Chunked),
        (
            "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\nConnection: close, Upgrade\r\n\r\n",
            Body::Tunnel,
        ),
        ("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", Body::Length(0)),
        ("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nContent-Length: 3\r\n\r\n", Body::Length(3)),
        ("GET / HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\n\r\n", Body::Length(0)),
        ("GET / HTTP/1.0\r\nHost: x\r\nUpgrade: websocket\r\n\r\n", Body::Length(0)),
        ("M-SEARCH / HTTP/1.1\r\nHost: under_score.example\r\nX: \r\nY: caf\u{e9}\r\n\r\n", Body::Length(0)),
    ] {
        let head = scan(text.as_bytes()).unwrap().unwrap_or_else(|| panic!("{text:?} is whole"));
        assert_eq!(head.body, body, "{text:?}");
        assert_eq!(head.skip + head.length, text.len());
        assert_eq!(head.skip, usize::from(text.starts_with('\r')) * 2);
    }
}

#[test]
fn whatever_could_be_read_in_two_ways_is_refused() {
    let request = |line: &str| format!("{line}\r\nHost: x\r\n\r\n");
    let cases = [
        // The request line.
        (request("GET /"), 400, "bad_request_line"),
        (request("GET  / HTTP/1.1"), 400, "bad_request_line"),
        (request("GET / HTTP/1.1 "), 400, "bad_request_line"),
        (request("GET / a HTTP/1.1"), 400, "bad_request_line"),
        (request("GET\t/ HTTP/1.1"), 400, "bad_request_line"),
        (request(" GET / HTTP/1.1"), 400, "bad_request_line"),
        (request("GET / http/1.1"), 400, "bad_request_line"),
        (request("GET / HTTP/1.10"), 400, "bad_request_line"),
        (request("GET / HTTP/1"), 400, "bad_request_line"),
        (request("GET / HTTP/ 1.1"), 400, "bad_request_line"),
        (request("G(T / HTTP/1.1"), 400, "bad_request_line"),
        (request("GET /\u{0} HTTP/1.1"), 400, "bad_request_line"),
        (request("GET /a\rb HTTP/1.1"), 400, "bad_request_line"),
        (request("GET /\u{7f} HTTP/1.1"), 400, "bad_request_line"),
        (request("GET /caf\u{e9} HTTP/1.1"), 400, "bad_request_line"),
        (request("GET /#fragment HTTP/1.1"), 400, "bad_request_line"),
        (request(&format!("{} / HTTP/1.1", "M".repeat(33))), 400, "bad_request_line"),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400, "bad_request_line"),
        (request("GET / HTTP/1.2"), 505, "http_version"),
        (request("GET / HTTP/2.0"), 505, "http_version"),
        (request("PRI * HTTP/2.0"), 505, "http_version"),
        (request("TRACE / HTTP/1.1"), 405, "method_refused"),
        (request("CONNECT x:443 HTTP/1.1"), 405, "method_refused"),
        (request("GET * HTTP/1.1"), 400, "bad_target"),
        (request("GET a HTTP/1.1"), 400, "bad_target"),
        (request("GET ?a HTTP/1.1"), 400, "bad_target"),
        (request("GET ftp://x/ HTTP/1.1"), 400, "bad_target"),
        (request("GET http:/x/ HTTP/1.1"), 400, "bad_target"),
        (request("GET http:x HTTP/1.1"), 400, "bad_target"),
        (request("GET http://y/ HTTP/1.1"), 400, "host_mismatch"),
        (request("GET http:// HTTP/1.1"), 400, "host_mismatch"),
        (request("GET http://x@y/ HTTP/1.1"), 400, "host_mismatch"),
        (request("GET http://x\\@y/ HTTP/1.1"), 400, "host_mismatch"),
        (request("GET http://x:80/ HTTP/1.1"), 400, "host_mismatch"),
        // Lines.
        ("GET / HTTP/1.1\nHost: x\r\n\r\n".into(), 400, "bare_line_feed"),
        ("\nGET / HTTP/1.1\r\nHost: x\r\n\r\n".into(), 400, "bare_line_feed"),
        (with("A: 1\nB: 2\r\n"), 400, "bare_line_feed"),
        ("GET / HTTP/1.1\r\nHost: x\n\n".into(), 400, "bare_line_feed"),
        (with("A: 1\r\r\n"), 400, "bad_field_value"),
        (with("A: 1\rB: 2\r\n"), 400, "bad_field_value"),
        (with("A: \u{0}\r\n"), 400, "bad_field_value"),
        (with("A: \u{1b}[31m\r\n"), 400, "bad_field_value"),
        (with("A: \u{7f}\r\n"), 400, "bad_field_value"),
        (with("A: 1\r\n 2\r\n"), 400, "folded_field"),
        (with("A: 1\r\n\t2\r\n"), 400, "folded_field"),
        ("GET / HTTP/1.1\r\n Host: x\r\n\r\n".into(), 400, "folded_field"),
        (with("A : 1\r\n"), 400, "bad_field_name"),
        (with("A\t: 1\r\n"), 400, "bad_field_name"),
        (with(": 1\r\n"), 400, "bad_field_name"),
        (with("A\r\n"), 400, "bad_field_name"),
        (with("A B: 1\r\n"), 400, "bad_field_name"),
        (with("A\u{0}: 1\r\n"), 400, "bad_field_name"),
        (with("\u{e4}: 1\r\n"), 400, "bad_field_name"),
        (with("Content-Length : 1\r\n"), 400, "bad_field_name"),
        (with("(A): 1\r\n"), 400, "bad_field_name"),
        // Host.
        ("GET / HTTP/1.1\r\n\r\n".into(), 400, "no_host"),
        ("GET / HTTP/1.0\r\n\r\n".into(), 400, "no_host"),
        ("GET / HTTP/1.1\r\nHost:\r\n\r\n".into(), 400, "no_host"),
        (with("Host: x.example\r\n"), 400, "several_hosts"),
        ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a,b\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: %61\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a\\b\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a:\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a:65536\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a:8o\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: a:80:80\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: :80\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: [::1\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: [::1]x\r\n\r\n".into(), 400, "bad_host"),
        ("GET / HTTP/1.1\r\nHost: [x]\r\n\r\n".into(), 400, "bad_host"),
        // Where the body ends.
        (with("Content-Length: 1\r\nContent-Length: 2\r\n"), 400, "bad_content_length"),
        (with("Content-Length: 1\r\nContent-Length: 1\r\n"), 400, "bad_content_length"),
        (with("Content-Length: 1, 1\r\n"), 400, "bad_content_length"),
        (with("Content-Length: +1\r\n"), 400, "bad_content_length"),
        (with("Content-Length: -1\r\n"), 400, "bad_content_length"),
        (with("Content-Length: 0x1\r\n"), 400, "bad_content_length"),
        (with("Content-Length: 1 2\r\n"), 400, "bad_content_length"),
        (with("Content-Length: 1.0\r\n"), 400, "bad_content_length"),
        (with("Content-Length:\r\n"), 400, "bad_content_length"),
        (with("Content-Length: 18446744073709551617\r\n"), 400, "bad_content_length"),
        (with("Content-Length: \u{b2}\r\n"), 400, "bad_content_length"),
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400, "length_and_coding"),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n"), 400, "length_and_coding"),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: chunked, identity\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: identity\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: xchunked\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: \"chunked\"\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: chunked;a=b\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: \u{b}chunked\r\n"), 400, "bad_field_value"),
        (with("Transfer-Encoding:\r\n"), 400, "bad_transfer_encoding"),
        (with("Transfer-Encoding: gzip, chunked\r\n"), 501, "transfer_coding"),
        (with("Transfer-Encoding: ,chunked\r\n"), 501, "transfer_coding"),
        ("POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n".into(), 400, "coding_in_http10"),
    ];
    for (text, status, reason) in cases {
        assert_eq!(refusal(&text), Some((status, reason)), "{text:?}");
    }
}

#[test]
fn what_is_too_much_is_refused_before_it_is_whole() {
    let limits = HttpLimits { head_bytes: 300, target_bytes: 100, fields: 3, ..HttpLimits::default() };
    let refusal = |text: &str| {
        let refused = HeadScan::default().scan(text.as_bytes(), &limits).unwrap_err();
        (refused.status, refused.reason)
    };
    let long = "a".repeat(301);
    assert_eq!(refusal(&format!("GET /{long}")), (414, "target_too_long"));
    assert_eq!(refusal(&format!("GET /{} HTTP/1.1\r\n", "a".repeat(100))), (414, "target_too_long"));
    assert_eq!(refusal(&format!("GET / HTTP/1.1\r\nA: {long}")), (431, "head_too_large"));
    assert_eq!(refusal(&format!("GET / HTTP/1.1\r\n{long}")), (431, "head_too_large"));
    assert_eq!(refusal(&format!("GET / HTTP/1.1\r\nHost: x\r\nA: {long}\r\n\r\n")), (431, "head_too_large"));
    assert_eq!(refusal("GET / HTTP/1.1\r\nHost: x\r\nA:\r\nB:\r\nC:\r\n"), (431, "too_many_fields"));
    let fits = format!("GET / HTTP/1.1\r\nHost: x\r\nA: {}\r\n\r\n", "a".repeat(260));
    assert!(fits.len() <= 300);
    assert!(HeadScan::default().scan(fits.as_bytes(), &limits).unwrap().is_some());
}

#[test]
fn what_was_seen_of_a_refused_head_is_known() {
    let text = with("Content-Length: x\r\n");
    let mut scan = HeadScan::default();
    assert!(scan.scan(text.as_bytes(), &HttpLimits::default()).is_err());
    assert_eq!(scan.seen(text.as_bytes()), (&b"POST"[..], &b"/a"[..], &b"x.example"[..]));
}

/// How many bytes of this are of the body, if it is one.
fn chunked(bytes: &[u8], at_a_time: usize) -> Option<usize> {
    let mut chunks = chunks::Chunks::new();
    let mut taken = 0;
    for piece in bytes.chunks(at_a_time) {
        let read = chunks.take(piece).ok()?;
        taken += read;
        if read < piece.len() {
            break;
        }
    }
    chunks.ended().then_some(taken)
}

#[test]
fn chunks_have_one_reading() {
    for body in [
        "0\r\n\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
        "00a\r\n0123456789\r\n000\r\n\r\n",
        "A;name=\"value\";b\r\n0123456789\r\n0;last\r\n\r\n",
        "1\r\n\n\r\n1\r\n\r\r\n0\r\nTrailer: a\r\nOther:\r\n\r\n",
    ] {
        let and_next = format!("{body}GET / HTTP/1.1\r\n");
        for at_a_time in 1..and_next.len() {
            assert_eq!(chunked(and_next.as_bytes(), at_a_time), Some(body.len()), "{body:?} by {at_a_time}");
        }
    }
    for body in [
        "\r\n",
        ";a\r\n",
        " 5\r\nhello\r\n",
        "5 \r\nhello\r\n",
        "5\nhello\n",
        "5\rhello",
        "+5\r\nhello\r\n",
        "-5\r\nhello\r\n",
        "0x5\r\nhello\r\n",
        "5_0\r\n",
        "5;a\nb\r\nhello\r\n",
        "5;\u{0}\r\nhello\r\n",
        "5\r\nhelloo\r\n",
        "5\r\nhello\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhello\r\r\n",
        "ffffffffffffffff\r\n",
        "0\r\n\n",
        "0\r\nbad trailer\r\n\r\n",
        "0\r\n folded: x\r\n\r\n",
        "0\r\na: b\n\r\n",
    ] {
        for at_a_time in 1..=body.len() {
            assert_eq!(chunked(body.as_bytes(), at_a_time), None, "{body:?}");
        }
        let mut chunks = chunks::Chunks::new();
        assert_eq!(chunks.take(body.as_bytes()).unwrap_err().status, 400, "{body:?}");
    }
    let mut chunks = chunks::Chunks::new();
    let flood = "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n".repeat(1000);
    assert!(chunks.take(flood.as_bytes()).is_err(), "extensions are bounded over the whole body");
    let mut chunks = chunks::Chunks::new();
    assert!(chunks.take(format!("0\r\n{}", "a: b\r\n".repeat(10_000)).as_bytes()).is_err());
}

/// The same rules, written for reading and not for speed. `None`: refused, or not whole.
fn reference(text: &str) -> Option<Body> {
    let is_token = |text: &str| {
        !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c))
    };
    let head = text.strip_prefix("\r\n").unwrap_or(text).strip_suffix("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let parts: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, version] = parts[..] else { return None };
    if !is_token(method) || method == "TRACE" || method == "CONNECT" {
        return None;
    }
    if !target.chars().all(|c| c.is_ascii_graphic() && c != '#')
        || !["HTTP/1.0", "HTTP/1.1"].contains(&version)
    {
        return None;
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':')?;
        if !is_token(name) || value.chars().any(|c| c.is_ascii_control() && c != '\t') {
            return None;
        }
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t'])));
    }
    let all = |wanted: &str| -> Vec<&str> {
        fields.iter().filter(|(name, _)| name == wanted).map(|(_, value)| *value).collect()
    };
    let [host] = all("host")[..] else { return None };
    if host.is_empty() || !host.chars().all(|c| c.is_ascii_alphanumeric() || c == '.') {
        return None;
    }
    let path = match target.strip_prefix("http://") {
        Some(rest) => rest.strip_prefix(host).filter(|rest| rest.is_empty() || rest.starts_with('/')),
        None => Some(target).filter(|t| t.starts_with('/') || (*t == "*" && method == "OPTIONS")),
    };
    path?;
    match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], []) => Some(Body::Length(0)),
        ([], [length]) if !length.is_empty() && length.chars().all(|c| c.is_ascii_digit()) => {
            length.parse().ok().map(Body::Length)
        }
        ([coding], []) if coding.eq_ignore_ascii_case("chunked") && version == "HTTP/1.1" => {
            Some(Body::Chunked)
        }
        _ => None,
    }
}

/// Heads that are mostly good, with something odd here and there.
fn heads() -> impl Strategy<Value = String> {
    let one_of = |all: &'static [&'static str]| proptest::sample::select(all);
    let method = one_of(&["GET", "POST", "OPTIONS", "G@T", "TRACE", "", "X-Y"]);
    let target =
        one_of(&["/", "/a?b", "*", "http://x.y/", "http://z/", "a", "", "/#", "/\u{1}", "http://x.y"]);
    let version = one_of(&["HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/1.2", "http/1.1"]);
    let name = one_of(&["Host", "host", "Content-Length", "Transfer-Encoding", "A", "A ", "", "X\t", "B-c"]);
    let value = one_of(&[
        " x.y",
        "x.y",
        " 5",
        "5,5",
        " chunked",
        " Chunked\t",
        " gzip, chunked",
        "",
        "\u{0}",
        " \r",
        "é",
    ]);
    let end =
        one_of(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", "\r", "\r\n ", "\r\n\r\n"]);
    let field = (name, value, end).prop_map(|(name, value, end)| format!("{name}:{value}{end}"));
    let usual = one_of(&["Host: x.y\r\n", "Host: x.y\r\n", "", "Host: x.y\r\nHost: x.y\r\n"]);
    (one_of(&["", "", "", "\r\n"]), method, target, version, usual, proptest::collection::vec(field, 0..3))
        .prop_map(|(before, method, target, version, usual, fields)| {
            format!("{before}{method} {target} {version}\r\n{usual}{}\r\n", fields.concat())
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Whatever passes here reads the same for the reference, up to the end of its head; and nothing else is refused.
    #[test]
    fn the_reference_reads_the_same(text in heads(), split in 0_usize..200) {
        let whole = scan(text.as_bytes());
        let mut pieces = HeadScan::default();
        let split = split.min(text.len());
        let first = pieces.scan(&text.as_bytes()[..split], &HttpLimits::default());
        let in_pieces = match first {
            Ok(None) => pieces.scan(text.as_bytes(), &HttpLimits::default()),
            done => done,
        };
        prop_assert_eq!(&in_pieces, &whole, "in pieces as in one");
        // The head ends at its first empty line; what follows is not its business.
        let begin = if text.starts_with("\r\n") { 2 } else { 0 };
        let end = text[begin..].find("\r\n\r\n").map_or(text.len(), |at| begin + at + 4);
        match whole {
            Ok(Some(head)) => {
                prop_assert_eq!(head.skip + head.length, end);
                prop_assert_eq!(reference(&text[..end]), Some(head.body));
            }
            Ok(None) => prop_assert!(false, "there is an end"),
            Err(_) => prop_assert_eq!(reference(&text[..end]), None),
        }
    }

    /// No bytes at all panic, and what passes has no byte that does not belong.
    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200), at_a_time in 1_usize..20) {
        let _ = scan(&bytes);
        let framed = [&b"POST / HTTP/1.1\r\nHost: x\r\n"[..], &bytes].concat();
        if let Ok(Some(head)) = scan(&framed) {
            let text = &framed[head.skip..head.skip + head.length];
            prop_assert!(text.iter().all(|b| *b >= b' ' && *b != 0x7f || matches!(b, b'\t' | b'\r' | b'\n')));
        }
        prop_assert_eq!(chunked(&bytes, at_a_time), chunked(&bytes, usize::MAX));
    }

    /// A body of chunks is watched to its very end, however it comes in.
    #[test]
    fn any_chunks(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..40), 0..5), at in 1_usize..30) {
        let mut body = Vec::new();
        for piece in &pieces {
            body.extend(format!("{:x}\r\n", piece.len()).bytes());
            body.extend(piece);
            body.extend(b"\r\n");
        }
        body.extend(b"0\r\n\r\n");
        let length = body.len();
        body.extend(b"GET");
        prop_assert_eq!(chunked(&body, at), Some(length));
    }
}
