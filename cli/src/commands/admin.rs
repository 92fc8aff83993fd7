//! Asks an admin listener of a process.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::Request;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_BODY: usize = 64 << 20;

const WORK: Duration = Duration::from_secs(60);

/// `GET path`: status and body.
pub async fn get(address: SocketAddr, path: &str) -> Result<(u16, String), String> {
    within(TIMEOUT, address, Request::get(path).body(Full::default())).await
}

/// `POST path` with something to work on: status and body.
pub async fn post(address: SocketAddr, path: &str, text: String) -> Result<(u16, String), String> {
    within(WORK, address, Request::post(path).body(Full::from(text))).await
}

type Made = http::Result<Request<Full<Bytes>>>;

async fn within(limit: Duration, address: SocketAddr, request: Made) -> Result<(u16, String), String> {
    match tokio::time::timeout(limit, attempt(address, request)).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("no answer from {address} within {limit:?}")),
    }
}

async fn attempt(address: SocketAddr, request: Made) -> Result<(u16, String), String> {
    let text = |e: &dyn std::fmt::Display| format!("{address}: {e}");
    let stream = TcpStream::connect(address).await.map_err(|e| text(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| text(&e))?;
    tokio::spawn(connection);
    let mut request = request.map_err(|e| text(&e))?;
    let host = HeaderValue::try_from(address.to_string()).map_err(|e| text(&e))?;
    request.headers_mut().insert(header::HOST, host);
    let response = sender.send_request(request).await.map_err(|e| text(&e))?;
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MAX_BODY).collect().await.map_err(|e| text(&e))?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}

/// The sum of a metric over all its label sets; 0 where it has none.
pub async fn metric(address: SocketAddr, name: &str) -> Result<f64, String> {
    let (status, body) = get(address, "/metrics").await?;
    if status != 200 {
        return Err(format!("{address}/metrics answered {status}"));
    }
    Ok(sum(&body, name))
}

fn sum(text: &str, name: &str) -> f64 {
    let samples = text.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let value = match rest.strip_prefix('{') {
            Some(labels) => labels.rsplit_once("} ")?.1,
            None => rest.strip_prefix(' ')?,
        };
        value.split(' ').next()?.parse::<f64>().ok()
    });
    samples.sum()
}

#[cfg(test)]
mod tests {
    use super::sum;

    #[test]
    fn sums_one_metric_and_no_other() {
        let text = "# TYPE a counter\na_total{x=\"1\"} 2\na_total{x=\"} \"} 3\na_total_b 9\nb 7\n";
        assert_eq!(sum(text, "a_total"), 5.0);
        assert_eq!(sum(text, "b"), 7.0);
        assert_eq!(sum(text, "c"), 0.0);
    }
}
