//! Asking a responder, over plain HTTP as RFC 6960 appendix A has it: what it says is signed.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;

use super::MAX_RESPONSE;
use crate::outgoing;

/// From the look-up of the name to the end of the answer.
const MOST_TIME: Duration = Duration::from_secs(10);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// Not a URL that responders have.
    #[error("{0} is no http URL")]
    Url(String),
    /// It took longer than 10 s.
    #[error("the OCSP responder {0} has not answered in {MOST_TIME:?}")]
    Late(String),
    /// No connection, or a broken one, or an answer longer than [`MAX_RESPONSE`].
    #[error("the OCSP responder {0}: {1}")]
    Failed(String, String),
    /// Another status than 200. It is not followed elsewhere: redirects are answers like any other.
    #[error("the OCSP responder {0} answers {1}")]
    Status(String, StatusCode),
}

/// What the responder at this URL answers to a request. Not verified. Bounded in time and size.
pub async fn fetch(url: &str, request: Vec<u8>) -> Result<Vec<u8>, FetchError> {
    let uri: Uri = url.parse().map_err(|_| FetchError::Url(url.to_owned()))?;
    let host = uri.host().filter(|_| uri.scheme_str() == Some("http"));
    let host = host.ok_or_else(|| FetchError::Url(url.to_owned()))?;
    let place = format!("{host}:{}", uri.port_u16().unwrap_or(80));
    let exchange = tokio::time::timeout(MOST_TIME, exchange(&uri, host, request));
    match exchange.await {
        Err(_) => Err(FetchError::Late(place)),
        Ok(Err(error)) => Err(FetchError::Failed(place, error.to_string())),
        Ok(Ok((StatusCode::OK, answer))) => Ok(answer.into()),
        Ok(Ok((status, _))) => Err(FetchError::Status(place, status)),
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn exchange(uri: &Uri, host: &str, request: Vec<u8>) -> Result<(StatusCode, Bytes), Failure> {
    let authority = uri.authority().ok_or("a URL without a host")?.as_str();
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let request = Request::post(target)
        .header(header::HOST, authority.rsplit('@').next().unwrap_or(authority))
        .header(header::CONTENT_TYPE, "application/ocsp-request")
        .header(header::ACCEPT, "application/ocsp-response")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(request)))?;
    let tcp = outgoing::connect_host(host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(80)).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(tcp)).await?;
    let driver = tokio::spawn(connection);
    let answer = async {
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_RESPONSE).collect().await?.to_bytes();
        Ok::<_, Failure>((parts.status, body))
    };
    let answer = answer.await;
    driver.abort();
    answer
}
