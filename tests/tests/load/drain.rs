//! A sidecar that is told to end while much of it would go on for ever.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use tokio::{
    io::AsyncReadExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::world::{App, Cluster, get, service, soon};

const LIMIT: Duration = Duration::from_secs(4);

/// An application that takes requests and answers none, and the next request that has come to it.
struct Holding(TcpListener);

impl Holding {
    async fn new() -> Self {
        Self(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap())
    }

    fn app(&self) -> App {
        App::at(self.0.local_addr().unwrap())
    }

    /// Who only looks whether somebody is there says nothing.
    async fn request(&self) -> TcpStream {
        let coming = async {
            loop {
                let (mut tcp, _) = self.0.accept().await.unwrap();
                if matches!(tcp.read(&mut [0; 4096]).await, Ok(1..)) {
                    return tcp;
                }
            }
        };
        soon("a request", coming).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_takes_its_limit_once_whatever_is_left() {
    let east = Cluster::start("east").await;
    east.apply(&[service("shop", "here"), service("shop", "there")].concat()).await;
    let (here, there) = (Holding::new().await, Holding::new().await);
    let limited = |options: &mut tombolo_sidecar::Options| options.drain_limit = LIMIT;
    let labels = |name| [("app", name)];
    let mut ends = east.sidecar_with("shop", "here", "here-1", &labels("here"), &here.app(), limited).await;
    let mut other = east.sidecar("shop", "there", "there-1", &labels("there"), &there.app()).await;
    let to_there = ends.outbound("cluster/shop/there").await;
    let to_here = other.outbound("cluster/shop/here").await;
    // One that comes in, and one that goes out.
    let mut calls = JoinSet::new();
    calls.spawn(async move { get(to_here, "here", "/", &[]).await.map(drop) });
    let _in = here.request().await;
    calls.spawn(async move { get(to_there, "there", "/", &[]).await.map(drop) });
    let _out = there.request().await;

    let begun = Instant::now();
    ends.end().await;
    let took = begun.elapsed();
    assert!(took >= LIMIT, "what runs has its time: {took:?}");
    assert!(took < 2 * LIMIT - Duration::from_millis(500), "each of them had it: {took:?}");
}
