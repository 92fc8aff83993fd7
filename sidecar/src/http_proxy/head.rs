//! What is asked of a proxy (RFC 9112 section 3.2), and the request as it is passed on. Pure.

/// A request to a proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    /// Lower case, without brackets and a last dot.
    pub host: String,
    pub port: u16,
    pub form: Form,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Form {
    /// A tunnel (`CONNECT host:port`).
    Tunnel,
    /// One request (`GET http://host/path`): its head as the server behind gets it.
    Request(Vec<u8>),
}

/// Fields that are between a client and its proxy, or that the proxy says itself. A connection carries one request: the next
/// one may be for another server.
const DROPPED: [&str; 8] = [
    "connection",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "upgrade",
];

/// Reads a whole head, with the empty line at its end. The error says what is wrong with it.
pub(super) fn parse(head: &[u8]) -> Result<Asked, &'static str> {
    let head = head.strip_suffix(b"\r\n\r\n").ok_or("the head has no end")?;
    let text = std::str::from_utf8(head).map_err(|_| "the head is no text")?;
    let mut lines = text.split("\r\n");
    let mut words = lines.next().unwrap_or_default().split(' ');
    let (Some(method), Some(target), Some(version @ ("HTTP/1.1" | "HTTP/1.0")), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err("the first line is no request of HTTP/1");
    };
    if method == "CONNECT" {
        let (host, port) = authority(target)?;
        return Ok(Asked { host, port: port.ok_or("CONNECT takes HOST:PORT")?, form: Form::Tunnel });
    }
    let rest =
        strip_scheme(target).ok_or("this is a proxy: ask for http://HOST/..., or CONNECT HOST:PORT")?;
    let (named, path) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = authority(named)?;
    // `http://host?query` has no path, and a request needs one.
    let slash = if path.starts_with('/') { "" } else { "/" };
    let mut passed = format!("{method} {slash}{path} {version}\r\nhost: {named}\r\nconnection: close\r\n");
    let fields: Vec<(&str, &str)> = lines.map(field).collect::<Result<_, _>>()?;
    let named_by_connection = |name: &str| {
        let connection = fields.iter().filter(|(name, _)| name.eq_ignore_ascii_case("connection"));
        connection.flat_map(|(_, value)| value.split(',')).any(|word| word.trim().eq_ignore_ascii_case(name))
    };
    for (name, value) in &fields {
        let dropped = DROPPED.iter().any(|dropped| name.eq_ignore_ascii_case(dropped));
        if !dropped && !named_by_connection(name) {
            passed.extend([name, ":", value, "\r\n"]);
        }
    }
    passed.push_str("\r\n");
    Ok(Asked { host, port: port.unwrap_or(80), form: Form::Request(passed.into_bytes()) })
}

fn strip_scheme(target: &str) -> Option<&str> {
    let (scheme, rest) = target.split_at_checked(7)?;
    scheme.eq_ignore_ascii_case("http://").then_some(rest)
}

/// Name and value as it stands. Whatever else is wrong with them, those who read the request find out.
fn field(line: &str) -> Result<(&str, &str), &'static str> {
    let (name, value) = line.split_once(':').ok_or("a line of the head is no field")?;
    let is_token = !name.is_empty() && name.bytes().all(|b| b.is_ascii_graphic());
    match is_token && !value.contains(['\r', '\n', '\0']) {
        true => Ok((name, value)),
        false => Err("a line of the head is no field"),
    }
}

/// `HOST[:PORT]`, an IPv6 address being in brackets.
fn authority(text: &str) -> Result<(String, Option<u16>), &'static str> {
    const WRONG: &str = "that is not HOST:PORT";
    let (host, rest) = match text.strip_prefix('[') {
        Some(text) => text.split_once(']').ok_or(WRONG)?,
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port = match rest.strip_prefix(':') {
        Some(port) if port.bytes().all(|b| b.is_ascii_digit()) => {
            Some(port.parse().ok().filter(|port| *port > 0).ok_or(WRONG)?)
        }
        None if rest.is_empty() => None,
        _ => return Err(WRONG),
    };
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let is_host = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    match !host.is_empty() && host.len() <= 253 && host.bytes().all(is_host) {
        true => Ok((host, port)),
        false => Err(WRONG),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn passed(head: &str) -> (String, u16, String) {
        let asked = parse(head.as_bytes()).unwrap();
        let Form::Request(passed) = asked.form else { panic!("{head:?}") };
        (asked.host, asked.port, String::from_utf8(passed).unwrap())
    }

    #[test]
    fn an_absolute_target_becomes_a_path() {
        let (host, port, head) = passed(
            "GET http://Checkout.shop:8080/buy?x=1 HTTP/1.1\r\nHost: other\r\nAccept: a\r\nProxy-Connection: keep-alive\r\n\
             Proxy-Authorization: Basic x\r\nConnection: keep-alive, X-Hop\r\nx-hop: 1\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!((host.as_str(), port), ("checkout.shop", 8080));
        assert_eq!(
            head,
            "GET /buy?x=1 HTTP/1.1\r\nhost: Checkout.shop:8080\r\nconnection: close\r\nAccept: a\r\n\r\n"
        );
        for (target, host, port, line) in [
            ("http://a", "a", 80, "GET / HTTP/1.1"),
            ("HTTP://a.?q", "a", 80, "GET /?q HTTP/1.1"),
            ("http://[fd00::1]:81/", "fd00::1", 81, "GET / HTTP/1.1"),
        ] {
            let (found, at, head) = passed(&format!("GET {target} HTTP/1.1\r\n\r\n"));
            assert_eq!((found.as_str(), at, head.lines().next().unwrap()), (host, port, line), "{target}");
        }
    }

    #[test]
    fn connect_names_host_and_port() {
        for (target, host, port) in
            [("a.b:443", "a.b", 443), ("[::1]:80", "::1", 80), ("10.0.0.1:1", "10.0.0.1", 1)]
        {
            let asked = parse(format!("CONNECT {target} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).unwrap();
            assert_eq!(asked, Asked { host: host.into(), port, form: Form::Tunnel });
        }
    }

    #[test]
    fn what_is_no_request_to_a_proxy_is_refused() {
        for bad in [
            "GET / HTTP/1.1\r\n\r\n",
            "GET https://a/ HTTP/1.1\r\n\r\n",
            "GET http://u@a/ HTTP/1.1\r\n\r\n",
            "GET http:///x HTTP/1.1\r\n\r\n",
            "GET http://a:0/ HTTP/1.1\r\n\r\n",
            "GET http://a:99999/ HTTP/1.1\r\n\r\n",
            "GET http://a:+1/ HTTP/1.1\r\n\r\n",
            "GET  http://a/ HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/2.0\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n folded\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nbad name: x\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\nx: a\nhost: b\r\n\r\n",
            "CONNECT a HTTP/1.1\r\n\r\n",
            "CONNECT http://a/ HTTP/1.1\r\n\r\n",
            "CONNECT [::1 HTTP/1.1\r\n\r\n",
            "GET http://a/ HTTP/1.1\r\n",
            "\r\n\r\n",
        ] {
            assert!(parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
