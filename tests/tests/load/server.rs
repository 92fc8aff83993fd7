//! A server whose health, speed and luck a test decides on.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{net::TcpListener, sync::Semaphore};

use crate::world::App;

/// Where health is asked for: by HTTP, and by gRPC.
pub const HEALTH: &str = "/healthz";
const GRPC_HEALTH: &str = "/grpc.health.v1.Health/Check";

/// What a server does by now. Answers with its name.
pub struct Server {
    pub app: App,
    inner: Arc<Inner>,
}

struct Inner {
    name: &'static str,
    /// 1: it says that it is well.
    well: AtomicU32,
    /// Every so manyth request fails; 0: none.
    fails: AtomicU32,
    /// Milliseconds that a request takes.
    takes: AtomicU64,
    /// Requests that it works on at a time.
    width: Semaphore,
    requests: AtomicU32,
    most: AtomicU32,
    in_hand: AtomicU32,
}

impl Server {
    pub async fn new(name: &'static str) -> Self {
        Self::of_width(name, Semaphore::MAX_PERMITS).await
    }

    /// Works on so many requests at a time; the others wait.
    pub async fn of_width(name: &'static str, width: usize) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            name,
            well: 1.into(),
            fails: 0.into(),
            takes: 0.into(),
            width: Semaphore::new(width),
            requests: 0.into(),
            most: 0.into(),
            in_hand: 0.into(),
        });
        let serving = Arc::clone(&inner);
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let inner = Arc::clone(&serving);
                let service = service_fn(move |request| Arc::clone(&inner).answer(request));
                tokio::spawn(async move {
                    auto::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(tcp), service)
                        .await
                        .ok()
                });
            }
        });
        Self { app: App::at(address), inner }
    }

    /// What it says of its health.
    pub fn is_well(&self, well: bool) {
        self.inner.well.store(well.into(), Relaxed);
    }

    /// Every so manyth request is answered 500; 0: none.
    pub fn fails_every(&self, count: u32) {
        self.inner.fails.store(count, Relaxed);
    }

    /// A request takes so long.
    pub fn takes(&self, time: Duration) {
        self.inner.takes.store(u64::try_from(time.as_millis()).unwrap(), Relaxed);
    }

    /// Requests so far, without those for its health.
    pub fn requests(&self) -> u32 {
        self.inner.requests.load(Relaxed)
    }

    /// The most requests at a time since it was last asked, with those that waited.
    pub fn most(&self) -> u32 {
        self.inner.most.swap(0, Relaxed)
    }
}

/// A place in the queue, left also by those who go away.
struct InHand(Arc<Inner>);

impl Drop for InHand {
    fn drop(&mut self) {
        self.0.in_hand.fetch_sub(1, Relaxed);
    }
}

type Body = BoxBody<Bytes, Infallible>;

impl Inner {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
        let well = self.well.load(Relaxed) == 1;
        Ok(match request.uri().path() {
            HEALTH => text(if well { 200 } else { 500 }, self.name),
            GRPC_HEALTH => grpc(if well { 1 } else { 2 }),
            _ => {
                let (status, name) = self.work().await;
                text(status, name)
            }
        })
    }

    async fn work(self: Arc<Self>) -> (u16, &'static str) {
        let number = self.requests.fetch_add(1, Relaxed) + 1;
        self.most.fetch_max(self.in_hand.fetch_add(1, Relaxed) + 1, Relaxed);
        let _place = InHand(Arc::clone(&self));
        let _working = self.width.acquire().await.unwrap();
        tokio::time::sleep(Duration::from_millis(self.takes.load(Relaxed))).await;
        let fails = self.fails.load(Relaxed);
        (if fails > 0 && number.is_multiple_of(fails) { 500 } else { 200 }, self.name)
    }
}

fn text(status: u16, text: &'static str) -> Response<Body> {
    Response::builder().status(status).body(Full::from(text).boxed()).unwrap()
}

/// A message with this status as its only field.
fn grpc(status: u8) -> Response<Body> {
    let body = BytesMut::from(&[0, 0, 0, 0, 2, 8, status][..]).freeze();
    let trailers =
        HeaderMap::from_iter([(http::HeaderName::from_static("grpc-status"), HeaderValue::from_static("0"))]);
    let body = Full::from(body).with_trailers(async move { Some(Ok(trailers)) });
    Response::builder().header("content-type", "application/grpc").body(body.boxed()).unwrap()
}
