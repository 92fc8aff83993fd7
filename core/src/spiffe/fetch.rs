//! Asking an endpoint for its bundle: one request, nothing followed, everything bounded.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, pki_types::ServerName};
use tokio_rustls::TlsConnector;

use super::MAX_DOCUMENT;
use crate::outgoing;

/// From the look-up of the name to the end of the answer.
const MOST_TIME: Duration = Duration::from_secs(10);

/// Characters of a URL. A longer one is refused.
const MAX_URL: usize = 2048;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No connection, or none that verifies.
    #[error("{place}: {reason}")]
    Connection {
        /// Host and port.
        place: String,
        /// What went wrong there.
        reason: String,
    },
    /// Another answer than 200. Redirects are not followed (SPIFFE Federation, section 5.1.3 lets clients refuse them).
    #[error("the endpoint answers {0}, not 200; redirects are not followed")]
    Status(StatusCode),
    /// The answer is cut off, or longer than a bundle may be.
    #[error("the answer cannot be read, or has more than {MAX_DOCUMENT} bytes: {0}")]
    Body(String),
    /// It takes too long.
    #[error("no answer within {} s", MOST_TIME.as_secs())]
    Late,
}

/// The URL of an endpoint: `https`, a host, no user and no fragment. The error says what is wrong with it.
pub fn parse_url(text: &str) -> Result<Uri, String> {
    if text.len() > MAX_URL {
        return Err(format!("longer than {MAX_URL} bytes"));
    }
    let uri: Uri = text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())?;
    if uri.scheme_str() != Some("https") {
        return Err("is not an https URL".into());
    }
    if uri.host().is_none_or(str::is_empty) || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
        return Err("needs a host, and no user".into());
    }
    if text.contains('#') {
        return Err("has a fragment".into());
    }
    Ok(uri)
}

/// The body that an endpoint answers with 200. `tls` says who has to answer; the URL's host is asked for by SNI.
pub async fn fetch(url: &Uri, tls: Arc<ClientConfig>) -> Result<Bytes, FetchError> {
    tokio::time::timeout(MOST_TIME, exchange(url, tls)).await.map_err(|_| FetchError::Late)?
}

async fn exchange(url: &Uri, tls: Arc<ClientConfig>) -> Result<Bytes, FetchError> {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    let port = url.port_u16().unwrap_or(443);
    let failed = |reason: String| FetchError::Connection { place: format!("{host}:{port}"), reason };
    let tcp = outgoing::connect_host(host, port).await.map_err(|error| failed(error.to_string()))?;
    let name = ServerName::try_from(host.to_owned()).map_err(|error| failed(error.to_string()))?;
    let stream = TlsConnector::from(tls).connect(name, tcp).await;
    let stream = stream.map_err(|error| failed(format!("TLS: {error}")))?;
    let handshake = http1::Builder::new().max_buf_size(64 * 1024).handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = handshake.map_err(|error| failed(error.to_string()))?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let path = url.path_and_query().map_or("/", |path| path.as_str());
        let authority = url.authority().map_or(host, |authority| authority.as_str());
        let request =
            Request::get(path).header(header::HOST, authority).header(header::ACCEPT, "application/json");
        let request = request.body(Empty::<Bytes>::new()).map_err(|error| failed(error.to_string()))?;
        let answer = sender.send_request(request).await.map_err(|error| failed(error.to_string()))?;
        if answer.status() != StatusCode::OK {
            return Err(FetchError::Status(answer.status()));
        }
        let body = Limited::new(answer.into_body(), MAX_DOCUMENT).collect().await;
        body.map(|body| body.to_bytes()).map_err(|error| FetchError::Body(error.to_string()))
    };
    let answer = answer.await;
    driver.abort();
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_https_urls_without_surprises_are_asked() {
        for text in ["https://spire.example:8443/bundle", "https://[::1]:8443", "https://spire.example/a?b=c"]
        {
            assert!(parse_url(text).is_ok(), "{text}");
        }
        for text in [
            "http://spire.example/",
            "spire.example",
            "https://u@spire.example/",
            "https://",
            "https://a/#b",
            "",
        ] {
            assert!(parse_url(text).is_err(), "{text}");
        }
    }
}
