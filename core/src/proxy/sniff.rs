//! What is spoken on a connection of which nobody says it: by what the client begins with.

use std::{io, sync::Arc, time::Duration};

use bytes::BytesMut;
use rustls::server::Acceptor;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    time::{Instant, timeout_at},
};

/// From its first byte on, a client's beginning has to be whole within this time; then it is taken as it is.
const WHOLE: Duration = Duration::from_secs(1);
/// The longest beginning that is looked at: a ClientHello, or a request's first line.
const LONGEST: usize = 16 * 1024;
/// The first bytes of HTTP/2 (RFC 9113 section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first byte of a TLS record that holds a handshake message (RFC 8446 section 5.1).
const TLS_HANDSHAKE_RECORD: u8 = 22;

/// What a client begins with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    /// A request of HTTP/1.
    Http1,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// TLS, to this server name.
    Tls(Option<Arc<str>>),
    /// Something else.
    Other,
    /// Nothing: it waits for the server to speak first.
    Silent,
}

/// Waits for what the client begins with, `patience` for its first byte. What was read is in `ahead`, to be read again, also
/// where this is dropped before its end. Fails where the client is gone.
pub async fn sniff(tcp: &mut TcpStream, ahead: &mut BytesMut, patience: Duration) -> io::Result<Opening> {
    Ok(read_until(tcp, ahead, patience, classify).await?.unwrap_or(Opening::Silent))
}

/// As [`sniff`], but only whether it is TLS: of what begins otherwise, no more is waited for than the first byte.
pub async fn sniff_tls(tcp: &mut TcpStream, ahead: &mut BytesMut, patience: Duration) -> io::Result<Opening> {
    let tells = |bytes: &[u8], last| match *bytes.first()? {
        TLS_HANDSHAKE_RECORD => hello(bytes, last),
        _ => Some(Opening::Other),
    };
    Ok(read_until(tcp, ahead, patience, tells).await?.unwrap_or(Opening::Silent))
}

/// Reads until it is told from the bytes what they are; none: there are none.
async fn read_until(
    tcp: &mut TcpStream,
    ahead: &mut BytesMut,
    patience: Duration,
    tells: impl Fn(&[u8], bool) -> Option<Opening>,
) -> io::Result<Option<Opening>> {
    let mut until = Instant::now() + patience;
    loop {
        if let Some(opening) = tells(ahead, ahead.len() >= LONGEST) {
            return Ok(Some(opening));
        }
        let is_first = ahead.is_empty();
        match timeout_at(until, tcp.read_buf(ahead)).await {
            Ok(Ok(1..)) if is_first => until = Instant::now() + WHOLE,
            Ok(Ok(1..)) => {}
            Ok(Err(error)) => return Err(error),
            // A client that has nothing to say may still want to hear.
            Ok(Ok(0)) | Err(_) => return Ok(tells(ahead, true)),
        }
    }
}

/// What these first bytes are; none: more are needed. `last`: there will be no more.
fn classify(bytes: &[u8], last: bool) -> Option<Opening> {
    let first = *bytes.first()?;
    if first == TLS_HANDSHAKE_RECORD {
        return hello(bytes, last);
    }
    let seen = bytes.len().min(H2_PREFACE.len());
    if bytes.get(..seen) == H2_PREFACE.get(..seen) && (seen == H2_PREFACE.len() || !last) {
        return (seen == H2_PREFACE.len()).then_some(Opening::Http2);
    }
    request_line(bytes, last)
}

fn hello(bytes: &[u8], last: bool) -> Option<Opening> {
    let (mut rest, mut parser) = (bytes, Acceptor::default());
    while !rest.is_empty() {
        let Ok(1..) = parser.read_tls(&mut rest) else { break };
        match parser.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(|name| name.to_ascii_lowercase().into());
                return Some(Opening::Tls(name));
            }
            Ok(None) => {}
            Err(_) => return Some(Opening::Other),
        }
    }
    last.then_some(Opening::Tls(None))
}

/// Other protocols have lines that begin as a request does (`PING`, `get key`): only the end of the line tells.
fn request_line(bytes: &[u8], last: bool) -> Option<Opening> {
    let line = bytes.iter().position(|b| *b == b'\n').and_then(|end| bytes.get(..end));
    let method_end = bytes.iter().position(|b| !b.is_ascii_uppercase()).unwrap_or(bytes.len());
    let begins = method_end <= 20 && matches!(bytes.get(method_end), None | Some(b' ')) && method_end > 0;
    match line {
        _ if !begins => Some(Opening::Other),
        Some(line) => {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let version = line.len().checked_sub(8).and_then(|at| line.get(at..));
            let is_http = version.is_some_and(|version| version.starts_with(b"HTTP/1."));
            Some(if is_http { Opening::Http1 } else { Opening::Other })
        }
        None => last.then_some(Opening::Other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::{io::AsyncWriteExt, net::TcpListener};

    use super::*;

    /// A ClientHello, as rustls writes it.
    fn client_hello(name: &str) -> Vec<u8> {
        let config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_first_bytes_tell() {
        let hello = client_hello("Ledger.example");
        let tls = Opening::Tls(Some("ledger.example".into()));
        let long = [b"GET /".as_slice(), &[b'a'; LONGEST]].concat();
        let table: [(&[u8], bool, Option<Opening>); 19] = [
            (b"", false, None),
            (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", false, Some(Opening::Http1)),
            (b"PROPFIND /x HTTP/1.0\n", false, Some(Opening::Http1)),
            (b"GET / HT", false, None),
            (b"GE", false, None),
            (b"GET / HT", true, Some(Opening::Other)),
            (H2_PREFACE, false, Some(Opening::Http2)),
            (b"PRI * HTTP/2.0\r\n", false, None),
            (b"PRI * HTTP/2.0\r\n", true, Some(Opening::Other)),
            (b"P", false, None),
            (b"PING\r\n", false, Some(Opening::Other)),
            (b"*1\r\n$4\r\nPING\r\n", false, Some(Opening::Other)),
            (b"get key\r\n", false, Some(Opening::Other)),
            (b"SET a HTTP/1.1", false, None),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", false, Some(Opening::Other)),
            (&hello, false, Some(tls)),
            (&hello[..20], false, None),
            (&hello[..20], true, Some(Opening::Tls(None))),
            (&long, true, Some(Opening::Other)),
        ];
        for (bytes, last, opening) in table {
            assert_eq!(
                classify(bytes, last),
                opening,
                "{:?}",
                String::from_utf8_lossy(&bytes[..bytes.len().min(40)])
            );
        }
        assert_eq!(classify(b"\x16\x03\x01\x00\x05hello", false), Some(Opening::Other), "no ClientHello");
    }

    #[tokio::test]
    async fn whoever_says_nothing_waits_for_the_server() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        let mut bytes = BytesMut::new();
        let opening = sniff(&mut accepted, &mut bytes, Duration::from_millis(20)).await.unwrap();
        assert_eq!((opening, bytes.len()), (Opening::Silent, 0));
        client.write_all(b"GET / ").await.unwrap();
        let rest = async {
            client.write_all(b"HTTP/1.1\r\n").await.unwrap();
        };
        let (sniffed, ()) = tokio::join!(sniff(&mut accepted, &mut bytes, Duration::from_secs(20)), rest);
        assert_eq!((sniffed.unwrap(), &*bytes), (Opening::Http1, b"GET / HTTP/1.1\r\n".as_slice()));
    }

    #[tokio::test]
    async fn a_server_name_is_looked_for_in_tls_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let long = Duration::from_secs(20);
        let begins = async |bytes: &[u8]| {
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            client.write_all(bytes).await.unwrap();
            let mut ahead = BytesMut::new();
            let opening = sniff_tls(&mut accepted, &mut ahead, long).await.unwrap();
            assert_eq!(&*ahead, bytes);
            opening
        };
        // Half a line, which has to go on at once: whoever hears it may be the one to speak next.
        assert_eq!(begins(b"HEL").await, Opening::Other);
        assert_eq!(
            begins(&client_hello("Ledger.example")).await,
            Opening::Tls(Some("ledger.example".into()))
        );
    }
}
