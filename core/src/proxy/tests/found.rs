//! Ports of which nobody says what is spoken.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::{clients::*, harness::*};
use crate::{
    decide::Backend,
    model::AppProtocol,
    proxy::{Entry, Serving},
};

fn entry(http2: bool) -> Entry {
    Entry::Outbound { service: service("app"), port: 80, http2, host: None }
}

fn found(proxy: &Proxy) -> Serving {
    proxy.listen(proxy.engine.found(entry))
}

fn to_app() -> Setup {
    let (service, labels) = (service("app"), Arc::default());
    Setup {
        tcp: Some(Backend::Service { service, port: 80, labels, protocol: AppProtocol::Tcp }),
        ..Setup::default()
    }
}

/// A server that greets whoever connects, and says again what it hears; and how often it has greeted.
async fn greeting(greeting: &'static [u8]) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, greeted) = (listener.local_addr().unwrap(), Arc::<AtomicUsize>::default());
    let count = greeted.clone();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            let count = count.clone();
            tokio::spawn(async move {
                tcp.write_all(greeting).await?;
                count.fetch_add(1, SeqCst);
                let (mut read, mut write) = tcp.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    (address, greeted)
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard_at_once() {
    let (server, _) = greeting(b"220 hello\r\n").await;
    let proxy = to_app().forwards(forward()).with([plain(server)]);
    let found = found(&proxy);
    let mut fastest = Duration::MAX;
    for _ in 0..20 {
        let begun = Instant::now();
        let mut client = TcpStream::connect(found.address()).await.unwrap();
        let mut said = [0; 11];
        soon("a greeting", client.read_exact(&mut said)).await.unwrap();
        fastest = fastest.min(begun.elapsed());
        assert_eq!(&said, b"220 hello\r\n");
        client.write_all(b"EHLO x\r\n").await.unwrap();
        let mut heard = [0; 8];
        soon("an answer", client.read_exact(&mut heard)).await.unwrap();
        assert_eq!(&heard, b"EHLO x\r\n");
    }
    assert!(fastest < Duration::from_millis(20), "{fastest:?}");
}

#[tokio::test]
async fn a_client_that_speaks_late_is_served_as_what_it_speaks() {
    let app = App::named("app").await;
    let proxy = to_app().forwards(forward()).with([plain(app.address)]);
    let found = found(&proxy);
    assert_eq!(status(&get(found.address(), "").await), 200);
    assert_eq!(app.connections(), 1, "one that speaks at once costs nobody a connection");
    let mut late = TcpStream::connect(found.address()).await.unwrap();
    until("the server is waited for", || app.connections() == 2).await;
    late.write_all(b"GET /late HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("an answer", late.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    assert_eq!(proxy.logged().await.path, "/late");
    // Nobody is told of the tunnel that was not needed.
    assert!(proxy.log.tunnels.lock().unwrap().is_empty());

    let late = TcpStream::connect(found.address()).await.unwrap();
    until("the server is waited for", || app.connections() == 3).await;
    let mut client = http2(late).await;
    assert_eq!(http2_get(&mut client, "http://x/late-http2").await, (200, "app".into()));
}

#[tokio::test]
async fn a_server_of_http2_that_does_not_wait_for_its_client_leaves_it_to_say_what_is_spoken() {
    let app = App::named("app").await;
    // SETTINGS, and as much of another frame.
    let (server, greeted) = greeting(b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x08").await;
    let tcp = Backend::Address { address: server, protocol: AppProtocol::Tcp };
    let proxy = Setup { tcp: Some(tcp), ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let found = found(&proxy);
    let late = TcpStream::connect(found.address()).await.unwrap();
    until("the server has spoken", || greeted.load(SeqCst) == 1).await;
    assert_eq!(http2_get(&mut http2(late).await, "http://x/late").await, (200, "app".into()));
    assert!(proxy.log.tunnels.lock().unwrap().is_empty());
}

#[tokio::test]
async fn a_server_that_hangs_up_on_raw_bytes_does_not_end_what_may_become_a_request() {
    let app = App::named("app").await;
    // As a sidecar does whose policies allow paths alone.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tcp = Backend::Address { address: listener.local_addr().unwrap(), protocol: AppProtocol::Tcp };
    let proxy = Setup { tcp: Some(tcp), ..Setup::default() }.forwards(forward()).with([plain(app.address)]);
    let found = found(&proxy);
    let mut late = TcpStream::connect(found.address()).await.unwrap();
    drop(soon("a connection", listener.accept()).await.unwrap());
    late.write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    soon("an answer", late.read_to_string(&mut answer)).await.unwrap();
    assert_eq!(status(&answer), 200, "{answer}");
    // Who stays silent learns of it.
    let mut silent = TcpStream::connect(found.address()).await.unwrap();
    drop(soon("a connection", listener.accept()).await.unwrap());
    assert_eq!(soon("its end", silent.read(&mut [0])).await.unwrap(), 0);
}

#[tokio::test]
async fn who_speaks_otherwise_gets_a_tunnel_also_late() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = to_app().forwards(forward()).with([plain(listener.local_addr().unwrap())]);
    let found = found(&proxy);
    for late in [false, true] {
        let mut client = TcpStream::connect(found.address()).await.unwrap();
        let mut accepted = None;
        if late {
            accepted = Some(soon("a connection", listener.accept()).await.unwrap().0);
        }
        client.write_all(b"PING\r\n").await.unwrap();
        client.shutdown().await.unwrap();
        let mut server = match accepted {
            Some(accepted) => accepted,
            None => soon("a connection", listener.accept()).await.unwrap().0,
        };
        let mut heard = String::new();
        soon("what the client says", server.read_to_string(&mut heard)).await.unwrap();
        assert_eq!(heard, "PING\r\n");
        drop(server);
        let ended = usize::from(late) + 1;
        until("it is logged", || proxy.log.tunnels.lock().unwrap().len() == ended).await;
    }
    assert_eq!(proxy.log.tunnels.lock().unwrap()[1], (Some((6, 0)), None));
}

#[tokio::test]
async fn without_a_server_a_client_is_told_why_and_one_that_is_silent_is_refused() {
    let proxy = to_app().forwards(forward()).with([plain(nobody().await)]);
    let found = found(&proxy);
    assert_eq!(status(&get(found.address(), "").await), 503);
    let mut silent = TcpStream::connect(found.address()).await.unwrap();
    let read = soon("its end", silent.read(&mut [0])).await;
    assert!(read.is_err(), "reset: {read:?}");
    assert_eq!(*proxy.log.tunnels.lock().unwrap(), [(None, Some("connect_failed"))]);
}
