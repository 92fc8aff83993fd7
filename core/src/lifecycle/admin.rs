//! The admin listener: /live, /ready, /metrics, and what a kind of process adds.

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
};

use super::Readiness;
use crate::telemetry::Telemetry;

/// Connections at a time; one more is closed at once.
const CONNECTIONS: usize = 64;
/// A request's head must be whole after this long.
const HEAD: Duration = Duration::from_secs(5);
/// A body too.
const BODY: Duration = Duration::from_secs(10);
/// Bytes of a body; a larger one is refused. JSON of the largest text that is read as documents, and some room.
const MAX_BODY: usize = 2 * crate::resources::MAX_SOURCE_BYTES;

/// A page: status, content type, body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Status.
    pub status: StatusCode,
    /// Content type.
    pub content_type: &'static str,
    /// Body.
    pub body: String,
}

impl Page {
    /// 200 with text.
    pub fn text(body: impl Into<String>) -> Self {
        Self { status: StatusCode::OK, content_type: "text/plain; charset=utf-8", body: body.into() }
    }

    /// 200 with JSON.
    pub fn json(value: &impl serde::Serialize) -> Self {
        let body = serde_json::to_string_pretty(value).unwrap_or_default();
        Self { status: StatusCode::OK, content_type: "application/json", body: body + "\n" }
    }

    /// Any status with a line of text.
    pub fn error(status: StatusCode, message: impl fmt::Display) -> Self {
        Self { status, content_type: "text/plain; charset=utf-8", body: format!("{message}\n") }
    }
}

/// Pages of one kind of process.
pub trait Pages: Send + Sync + 'static {
    /// The page at this path with this query; none where there is none.
    fn page(&self, path: &str, query: Option<&str>) -> Option<Page>;

    /// What is answered to a text that is sent to this path; none where nothing takes one. Changes nothing of the process. May
    /// block: only one is at work at a time.
    fn asked(&self, path: &str, text: &str) -> Option<Page> {
        let _ = (path, text);
        None
    }
}

/// What the listener shows.
#[derive(Clone)]
pub struct Admin {
    /// For /ready.
    pub readiness: Readiness,
    /// For /metrics.
    pub telemetry: Arc<Telemetry>,
    /// Everything else.
    pub pages: Arc<dyn Pages>,
}

/// Binds and serves until `stop` turns true. Returns the bound address. Meant for loopback: nothing here is secret, and
/// nothing is protected.
pub async fn serve(address: SocketAddr, admin: Admin, stop: watch::Receiver<bool>) -> io::Result<SocketAddr> {
    serve_on(TcpListener::bind(address).await?, admin, stop)
}

/// The same on a socket that listens already.
pub fn serve_on(
    listener: TcpListener,
    admin: Admin,
    mut stop: watch::Receiver<bool>,
) -> io::Result<SocketAddr> {
    let bound = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let desk = Arc::new(Semaphore::new(1));
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            let Ok((stream, _)) = accepted else { continue };
            let Ok(place) = places.clone().try_acquire_owned() else { continue };
            let (admin, desk) = (admin.clone(), Arc::clone(&desk));
            tokio::spawn(async move {
                let answer =
                    service_fn(async |request| Ok::<_, Infallible>(admin.answer(request, &desk).await));
                // How a connection ends is of no interest here.
                let _ended = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD)
                    .max_buf_size(64 * 1024)
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
                drop(place);
            });
        }
    });
    Ok(bound)
}

impl Admin {
    async fn answer(&self, request: Request<Incoming>, desk: &Semaphore) -> Response<Full<Bytes>> {
        let page = match *request.method() {
            Method::GET | Method::HEAD => self.page(request.uri().path(), request.uri().query()),
            Method::POST => self.take(request, desk).await,
            _ => no_such_method(),
        };
        let mut response = Response::new(Full::new(Bytes::from(page.body)));
        *response.status_mut() = page.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(page.content_type));
        response
    }

    async fn take(&self, request: Request<Incoming>, desk: &Semaphore) -> Page {
        let path = request.uri().path().to_owned();
        let read = Limited::new(request.into_body(), MAX_BODY).collect();
        let Ok(Ok(body)) = tokio::time::timeout(BODY, read).await else {
            let message = format!("the text takes more than {MAX_BODY} bytes, or {BODY:?}");
            return Page::error(StatusCode::PAYLOAD_TOO_LARGE, message);
        };
        let Ok(text) = String::from_utf8(body.to_bytes().into()) else {
            return Page::error(StatusCode::BAD_REQUEST, "it is not UTF-8");
        };
        let Ok(_place) = desk.try_acquire() else {
            return Page::error(StatusCode::SERVICE_UNAVAILABLE, "another one is being worked on; ask again");
        };
        let pages = Arc::clone(&self.pages);
        match tokio::task::spawn_blocking(move || pages.asked(&path, &text)).await {
            Ok(page) => page.unwrap_or_else(no_such_method),
            Err(error) => Page::error(StatusCode::INTERNAL_SERVER_ERROR, error),
        }
    }

    /// 200 if nothing is missing; a line for each thing that does not go well, in any case.
    fn ready(&self) -> Page {
        let (status, mut lines) = match self.readiness.missing().as_slice() {
            [] => (StatusCode::OK, vec!["ready".to_owned()]),
            missing => {
                (StatusCode::SERVICE_UNAVAILABLE, vec![format!("waiting for: {}", missing.join(", "))])
            }
        };
        lines.extend(self.readiness.troubles().iter().map(|trouble| format!("degraded: {trouble}")));
        Page { status, ..Page::text(lines.join("\n") + "\n") }
    }

    fn page(&self, path: &str, query: Option<&str>) -> Page {
        match path {
            "/live" => Page::text("live\n"),
            "/ready" => self.ready(),
            "/metrics" => Page {
                status: StatusCode::OK,
                content_type: "application/openmetrics-text; version=1.0.0; charset=utf-8",
                body: self.telemetry.encode(),
            },
            _ => self.pages.page(path, query).unwrap_or_else(|| {
                Page::error(StatusCode::NOT_FOUND, "there are /live /ready /metrics /config /explain")
            }),
        }
    }
}

fn no_such_method() -> Page {
    Page::error(StatusCode::METHOD_NOT_ALLOWED, "only GET")
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admin").field("readiness", &self.readiness).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http_body_util::{BodyExt, Empty};

    use super::*;
    use crate::telemetry::{AccessLog, Telemetry};

    struct Config;

    impl Pages for Config {
        fn page(&self, path: &str, query: Option<&str>) -> Option<Page> {
            (path == "/config").then(|| Page::json(&serde_json::json!({ "query": query })))
        }
    }

    async fn get(address: SocketAddr, method: Method, path: &str) -> (u16, String) {
        let stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request =
            Request::builder().method(method).uri(path).header("host", "x").body(Empty::<Bytes>::new());
        let response = sender.send_request(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn serves_its_pages_and_refuses_the_rest() {
        let readiness = Readiness::default();
        let task = readiness.task("first snapshot");
        let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
        telemetry.bad_input("dns");
        let (_stop, stopped) = watch::channel(false);
        let admin = Admin { readiness: readiness.clone(), telemetry, pages: Arc::new(Config) };
        let address = serve(([127, 0, 0, 1], 0).into(), admin, stopped).await.unwrap();
        assert_eq!(get(address, Method::GET, "/live").await.0, 200);
        let ready = async || get(address, Method::GET, "/ready").await;
        assert_eq!(ready().await, (503, "waiting for: first snapshot\n".into()));
        readiness.degraded("disk", Some("full".into()));
        assert_eq!(ready().await, (503, "waiting for: first snapshot\ndegraded: full\n".into()));
        task.done();
        assert_eq!(ready().await, (200, "ready\ndegraded: full\n".into()));
        readiness.degraded("disk", None);
        assert_eq!(ready().await, (200, "ready\n".into()));
        let (_, metrics) = get(address, Method::GET, "/metrics").await;
        assert!(metrics.contains("tombolo_bad_input_total{kind=\"dns\"} 1"), "{metrics}");
        assert!(get(address, Method::GET, "/config?a=b").await.1.contains("a=b"));
        assert_eq!(get(address, Method::GET, "/nothing").await.0, 404);
        assert_eq!(get(address, Method::POST, "/live").await.0, 405);
    }
}
