//! The HTTP client that orders are made with: one connection a request, its own roots, everything bounded.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::{
    ClientConfig,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};
use tokio_rustls::TlsConnector;

use crate::{
    decide::{BackendTls, BackendTrust},
    outgoing,
    tls::backend_client,
};

/// Bytes of an answer; a longer one is an error.
const MOST_BYTES: usize = 1 << 20;
/// From the look-up of the name to the end of the answer.
const MOST_TIME: Duration = Duration::from_secs(30);

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long the authority wanted to be left alone in its last answer that was an error.
#[derive(Debug, Clone, Default)]
pub(super) struct RetryAfter(Arc<Mutex<Option<Duration>>>);

impl RetryAfter {
    pub(super) fn get(&self) -> Option<Duration> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, status: StatusCode, headers: &HeaderMap) {
        let told = status.is_client_error() || status.is_server_error();
        let value = headers.get(header::RETRY_AFTER).filter(|_| told).and_then(|v| v.to_str().ok());
        let parsed = value.and_then(parse_retry_after);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = parsed;
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn parse_retry_after(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = time::OffsetDateTime::parse(
        &text.trim().replace("GMT", "+0000"),
        &time::format_description::well_known::Rfc2822,
    );
    let until = date.ok()? - time::OffsetDateTime::now_utc();
    Some(until.try_into().unwrap_or(Duration::ZERO))
}

/// An HTTP/1.1 client over TLS.
#[derive(Clone)]
pub(super) struct Client {
    tls: Arc<ClientConfig>,
    retry_after: RetryAfter,
}

impl Client {
    /// `roots_pem`: those that are trusted; none: the system's.
    pub(super) fn new(roots_pem: Option<&str>, retry_after: RetryAfter) -> Result<Self, String> {
        let trust = match roots_pem {
            None => BackendTrust::System,
            Some(pem) => {
                let roots: Vec<Arc<[u8]>> = CertificateDer::pem_slice_iter(pem.as_bytes())
                    .filter_map(Result::ok)
                    .map(|root| Arc::from(root.as_ref()))
                    .collect();
                BackendTrust::Roots(roots.into())
            }
        };
        let policy = BackendTls { trust, hostname: "".into(), names: [].into() };
        let tls = backend_client(&policy, None, &["http/1.1"])
            .map_err(|error| format!("the roots of the directory: {error}"))?;
        Ok(Self { tls: Arc::new(tls), retry_after })
    }

    async fn exchange(self, request: Request<BodyWrapper<Bytes>>) -> Result<BytesResponse, Failure> {
        let (mut parts, body) = request.into_parts();
        let (host, port) = place(&parts.uri)?;
        let bytes = body.collect().await?.to_bytes();
        let authority = parts.uri.authority().ok_or("a URL without a host")?;
        parts.headers.insert(header::HOST, authority.as_str().parse()?);
        parts.uri = parts.uri.path_and_query().map_or("/", |path| path.as_str()).parse()?;
        let tcp = outgoing::connect_host(&host, port).await;
        let tcp = tcp.map_err(|error| format!("cannot connect to {host}:{port}: {error}"))?;
        let name = ServerName::try_from(host.clone())?;
        let tls = TlsConnector::from(self.tls).connect(name, tcp).await;
        let tls = tls.map_err(|error| format!("TLS with {host}:{port}: {error}"))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let driver = tokio::spawn(connection);
        let answer = async {
            let request = Request::from_parts(parts, Full::new(bytes));
            let (parts, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, MOST_BYTES).collect().await?.to_bytes();
            Ok::<_, Failure>(Response::from_parts(parts, Full::new(body)))
        };
        let answer = answer.await;
        driver.abort();
        let answer = answer?;
        self.retry_after.note(answer.status(), answer.headers());
        Ok(BytesResponse::from(answer))
    }
}

fn place(uri: &Uri) -> Result<(String, u16), Failure> {
    let host = uri.host().ok_or("a URL without a host")?.trim_matches(['[', ']']);
    if uri.scheme_str() != Some("https") {
        return Err(format!("{uri} is not https").into());
    }
    Ok((host.to_owned(), uri.port_u16().unwrap_or(443)))
}

impl HttpClient for Client {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let exchange = tokio::time::timeout(MOST_TIME, self.clone().exchange(request));
        Box::pin(async move {
            match exchange.await {
                Ok(answer) => answer.map_err(Error::Other),
                Err(_) => Err(Error::Other("the authority has not answered in 30 s".into())),
            }
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        assert_eq!(parse_retry_after("120"), Some(Duration::from_secs(120)));
        assert_eq!(parse_retry_after("Wed, 21 Oct 2015 07:28:00 GMT"), Some(Duration::ZERO));
        let far = parse_retry_after("Fri, 31 Dec 2100 23:59:59 GMT").unwrap();
        assert!(far > Duration::from_secs(365 * 24 * 3600));
        assert_eq!(parse_retry_after("soon"), None);
    }

    #[test]
    fn only_an_error_says_when_to_come_back() {
        let noted = RetryAfter::default();
        let headers = HeaderMap::from_iter([(header::RETRY_AFTER, "7".parse().unwrap())]);
        noted.note(StatusCode::OK, &headers);
        assert_eq!(noted.get(), None);
        noted.note(StatusCode::TOO_MANY_REQUESTS, &headers);
        assert_eq!(noted.get(), Some(Duration::from_secs(7)));
    }

    #[test]
    fn only_https_is_spoken() {
        let place = |uri: &str| place(&uri.parse().unwrap()).ok();
        assert_eq!(place("https://acme.example/x"), Some(("acme.example".into(), 443)));
        assert_eq!(place("https://[::1]:14000/x"), Some(("::1".into(), 14000)));
        assert_eq!(place("http://acme.example/x"), None);
    }
}
