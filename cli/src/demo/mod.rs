//! `tombolo demo-service`: a small HTTP service that says who it is, who called it, and what it called next.
//!
//! It knows nothing of the mesh: it resolves names with the DNS server that it is given, calls them in plain HTTP,
//! and passes on the trace headers that any instrumented application passes on.

mod call;
mod reply;

use std::{collections::BTreeMap, convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};

use call::Caller;
pub use reply::Reply;

use crate::failure::Failure;

/// How many connections are served at once; more wait in the listen queue.
const MAX_CONNECTIONS: usize = 512;

/// Arguments of `tombolo demo-service`.
#[derive(clap::Args, Debug, Clone)]
pub struct DemoArgs {
    /// What the service calls itself.
    #[arg(long)]
    name: String,
    /// Its version.
    #[arg(long, default_value = "v1")]
    version: String,
    /// The cluster it says it runs in.
    #[arg(long, default_value = "")]
    cluster: String,
    /// Where it listens.
    #[arg(long, default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    /// The DNS server it asks; the system's by default.
    #[arg(long)]
    dns: Option<SocketAddr>,
    /// `PATH=URL`: what it calls before it answers PATH. May be given several times, also for one path.
    #[arg(long = "call", value_name = "PATH=URL", value_parser = parse_call)]
    calls: Vec<(String, hyper::Uri)>,
    /// Pass on only `traceparent`, as many applications do, and not `baggage`.
    #[arg(long)]
    forget_baggage: bool,
}

fn parse_call(text: &str) -> Result<(String, hyper::Uri), String> {
    let (path, url) =
        text.split_once('=').ok_or("write PATH=URL, e.g. /=http://checkout.shop.svc.cluster.local/")?;
    let url: hyper::Uri = url.parse().map_err(|e| format!("{url:?} is not a URL: {e}"))?;
    if !path.starts_with('/') || url.host().is_none() {
        return Err("PATH begins with '/', and URL has a host".into());
    }
    Ok((path.into(), url))
}

struct Service {
    args: DemoArgs,
    calls: BTreeMap<String, Vec<hyper::Uri>>,
    caller: Caller,
}

/// Runs until the process is told to end.
pub async fn run(args: DemoArgs) -> Result<(), Failure> {
    let listener = TcpListener::bind(args.listen)
        .await
        .map_err(|e| Failure::new(format!("cannot listen on {}: {e}", args.listen)))?;
    let caller = Caller::new(args.dns)?;
    let mut calls: BTreeMap<String, Vec<hyper::Uri>> = BTreeMap::new();
    for (path, url) in &args.calls {
        calls.entry(path.clone()).or_default().push(url.clone());
    }
    let service = Arc::new(Service { args, calls, caller });
    tokio::select! {
        () = accept(listener, service) => Ok(()),
        _ = tombolo_core::lifecycle::shutdown_signal() => Ok(()),
    }
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else { continue };
        let service = service.clone();
        tokio::spawn(async move {
            let answer = service_fn(|request| {
                let service = service.clone();
                async move { Ok::<_, Infallible>(service.answer(request).await) }
            });
            let _closed = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(300))
                .serve_connection(TokioIo::new(stream), answer)
                .await;
            drop(place);
        });
    }
}

impl Service {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let path = request.uri().path().to_owned();
        let header =
            |name: &str| request.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let mut reply = Reply {
            service: self.args.name.clone(),
            version: self.args.version.clone(),
            cluster: self.args.cluster.clone(),
            caller: header("x-forwarded-client-cert").and_then(|v| reply::caller_uri(&v)),
            baggage: header("baggage"),
            calls: Vec::new(),
        };
        let mut status = StatusCode::OK;
        for url in self.calls.get(&path).into_iter().flatten() {
            let outcome = self.caller.call(url, request.headers(), self.args.forget_baggage).await;
            if !outcome.is_ok() {
                status = outcome.status_for_caller();
            }
            reply.calls.push(outcome);
        }
        let body = serde_json::to_vec_pretty(&reply).unwrap_or_default();
        let mut response = Response::new(Full::new(Bytes::from([body.as_slice(), b"\n"].concat())));
        *response.status_mut() = status;
        response
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        response
    }
}
