//! Neither direction of an exchange waits for the other.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf},
};

use super::{clients::*, harness::*};

/// More than all buffers on the way hold together.
const LARGE: usize = 24 << 20;
const PART: usize = 32 << 10;

/// Serves connections of HTTP/1.1, one request on each: `answer` has its head behind it.
async fn serving<F: Future<Output = ()> + Send + 'static>(
    answer: impl Fn(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut tcp, _)) = listener.accept().await {
            read_head(&mut tcp).await;
            tokio::spawn(answer(tcp));
        }
    });
    address
}

/// Reads so many bytes and then says that it has.
async fn counted(mut read: OwnedReadHalf, seen: Arc<AtomicUsize>) {
    let mut part = vec![0; PART];
    while let Ok(n @ 1..) = read.read(&mut part).await {
        seen.fetch_add(n, Relaxed);
    }
}

fn upload(length: usize) -> String {
    format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n")
}

/// A client of HTTP/2 with room for so many bytes of each answer.
async fn client_with_room(address: SocketAddr, room: u32) -> h2::client::SendRequest<Bytes> {
    let tcp = TcpStream::connect(address).await.unwrap();
    let builder = h2::client::Builder::new().initial_window_size(room).to_owned();
    let (client, connection) = builder.handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    client.ready().await.unwrap()
}

async fn send(body: &mut h2::SendStream<Bytes>, length: usize) {
    let mut left = length;
    while left > 0 {
        body.reserve_capacity(left.min(PART));
        let room = std::future::poll_fn(|cx| body.poll_capacity(cx)).await.unwrap().unwrap();
        let part = room.min(left);
        body.send_data(Bytes::from(vec![b'x'; part]), part == left).unwrap();
        left -= part;
    }
}

/// An application that answers a request with what it sends, and reads no more for as long as its answer is not taken.
async fn echo_over_http1() -> SocketAddr {
    serving(|mut tcp| async move {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE}\r\n\r\n");
        tcp.write_all(head.as_bytes()).await.unwrap();
        let mut part = vec![0; PART];
        let mut left = LARGE;
        while left > 0 {
            let n = tcp.read(&mut part).await.unwrap();
            tcp.write_all(&part[..n]).await.unwrap();
            left -= n;
        }
    })
    .await
}

async fn echo_over_http2() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(tcp).await.unwrap();
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        let mut out = answer.send_response(Response::new(()), false).unwrap();
                        while let Some(part) = body.data().await {
                            let part = part.unwrap();
                            let length = part.len();
                            send_part(&mut out, part).await;
                            body.flow_control().release_capacity(length).unwrap();
                        }
                        out.send_data(Bytes::new(), true).unwrap();
                    });
                }
            });
        }
    });
    address
}

async fn send_part(out: &mut h2::SendStream<Bytes>, mut part: Bytes) {
    while !part.is_empty() {
        out.reserve_capacity(part.len());
        let room = std::future::poll_fn(|cx| out.poll_capacity(cx)).await.unwrap().unwrap();
        out.send_data(part.split_to(room.min(part.len())), false).unwrap();
    }
}

async fn echoes_over_http1(address: SocketAddr) {
    let tcp = TcpStream::connect(address).await.unwrap();
    let (mut read, mut write) = tcp.into_split();
    let sending = async {
        write.write_all(upload(LARGE).as_bytes()).await.unwrap();
        for _ in 0..LARGE / PART {
            write.write_all(&[b'x'; PART]).await.unwrap();
        }
    };
    let reading = async {
        assert_eq!(status(&read_head(&mut read).await), 200);
        let mut part = vec![0; PART];
        for _ in 0..LARGE / PART {
            read.read_exact(&mut part).await.unwrap();
        }
    };
    soon("an echo over HTTP/1.1", async { tokio::join!(sending, reading) }).await;
}

async fn echoes_over_http2(address: SocketAddr) {
    let mut client = client_with_room(address, 65_535).await;
    let request = Request::post("http://shop.example/").header("content-length", LARGE).body(()).unwrap();
    let (answer, mut body) = client.send_request(request, false).unwrap();
    let reading = async {
        let mut answer = answer.await.unwrap().into_body();
        let mut read = 0;
        while let Some(part) = answer.data().await {
            let length = part.unwrap().len();
            answer.flow_control().release_capacity(length).unwrap();
            read += length;
        }
        assert_eq!(read, LARGE);
    };
    soon("an echo over HTTP/2", async { tokio::join!(send(&mut body, LARGE), reading) }).await;
}

#[tokio::test]
async fn what_is_echoed_as_it_comes_goes_both_ways_at_once() {
    for (decision, app) in [(forward(), echo_over_http1().await), (over_http2(), echo_over_http2().await)] {
        let proxy = Setup::default().forwards(decision).with([plain(app)]);
        let listener = proxy.edge();
        echoes_over_http1(listener.address()).await;
        echoes_over_http2(listener.address()).await;
    }
}

/// An answer without end, of which the client takes nothing, does not hold up its request.
#[tokio::test]
async fn a_request_goes_on_while_its_answer_is_not_taken() {
    let seen = Arc::<AtomicUsize>::default();
    let app = serving({
        let seen = Arc::clone(&seen);
        move |tcp| {
            let seen = Arc::clone(&seen);
            async move {
                let (read, mut write) = tcp.into_split();
                let endless = async {
                    write.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                    while write.write_all(&[b'y'; PART]).await.is_ok() {}
                };
                tokio::join!(counted(read, seen), endless);
            }
        }
    })
    .await;
    let proxy = Setup::default().forwards(forward()).with([plain(app)]);
    let listener = proxy.edge();
    let mut one = TcpStream::connect(listener.address()).await.unwrap();
    one.write_all(upload(LARGE).as_bytes()).await.unwrap();
    for _ in 0..LARGE / PART {
        soon("room", one.write_all(&[b'x'; PART])).await.unwrap();
    }
    until("the application has it all", || seen.load(Relaxed) == LARGE).await;
    let mut client = client_with_room(listener.address(), 65_535).await;
    let request = Request::post("http://shop.example/").header("content-length", LARGE).body(()).unwrap();
    let (_answer, mut body) = client.send_request(request, false).unwrap();
    soon("room", send(&mut body, LARGE)).await;
    until("the application has it all", || seen.load(Relaxed) == 2 * LARGE).await;
}

/// An application that answers without taking the request is heard, and what is still to come is not waited for.
#[tokio::test]
async fn an_answer_comes_through_while_its_request_is_not_taken() {
    let app = serving(|mut tcp| async move {
        tcp.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
        // It neither reads nor closes.
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Setup::default().forwards(forward()).with([plain(app)]);
    let listener = proxy.edge();
    let (mut read, mut write) = TcpStream::connect(listener.address()).await.unwrap().into_split();
    write.write_all(upload(LARGE).as_bytes()).await.unwrap();
    let sending = tokio::spawn(async move { while write.write_all(&[b'x'; PART]).await.is_ok() {} });
    let head = read_head(&mut read).await;
    assert_eq!(status(&head), 403);
    assert!(head.to_lowercase().contains("connection: close"), "{head}");
    let mut rest = [0; 2];
    soon("the body", read.read_exact(&mut rest)).await.unwrap();
    soon("the end", sending).await.unwrap();
    assert_eq!(proxy.tried(), [(app.to_string(), crate::proxy::TryResult::Success)]);
}

/// An application whose connections have room for little, and which refuses each request when that is full.
async fn refuses_when_full() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(async move {
                let builder = h2::server::Builder::new().initial_window_size(100).to_owned();
                let mut connection = builder.handshake::<_, Bytes>(tcp).await.unwrap();
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    tokio::spawn(async move {
                        let mut body = request.into_body();
                        while body.flow_control().used_capacity() < 100 {
                            body.data().await.unwrap().unwrap();
                        }
                        answer.send_reset(h2::Reason::REFUSED_STREAM);
                    });
                }
            });
        }
    });
    address
}

/// What held up the first try does not hold up the second.
#[tokio::test]
async fn a_request_that_was_held_up_and_refused_is_tried_elsewhere() {
    let app = App::named("app").await;
    let proxy =
        Setup::default().forwards(over_http2()).with([plain(refuses_when_full().await), plain(app.address)]);
    let listener = proxy.edge();
    let sent = "x".repeat(40_000);
    for _ in 0..3 {
        let answer = post(listener.address(), &sent).await;
        assert_eq!((status(&answer), app.last().body.len()), (200, sent.len()), "{answer}");
    }
    let proxy = Setup::default().forwards(over_http2()).with([plain(refuses_when_full().await)]);
    let listener = proxy.edge();
    // Nobody else is there: the client is told, and its request is read to its end.
    assert_eq!(status(&post(listener.address(), &sent).await), 502);
}

/// A connection whose answer was held up by its client is good for the next request.
#[tokio::test]
async fn what_held_up_an_answer_does_not_hold_up_the_next() {
    // It comes in one part, of which some waits until the client reads.
    let app = App::answering(|_| async { Response::new(vec![b'x'; 1_500].into()) }).await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let mut client = client_with_room(listener.address(), 1_000).await;
    for _ in 0..5 {
        let request = Request::get("http://shop.example/").body(()).unwrap();
        let (answer, _) = client.send_request(request, true).unwrap();
        let mut answer = soon("an answer", answer).await.unwrap().into_body();
        let mut read = 0;
        while let Some(part) = soon("a part", answer.data()).await {
            read += part.unwrap().len();
            // Nothing is taken before all is there that there is room for.
            if read >= 1_000 {
                let room = answer.flow_control();
                room.release_capacity(room.used_capacity()).unwrap();
            }
        }
        assert_eq!(read, 1_500);
    }
    assert_eq!(app.connections(), 1);
}

/// What a client has sent ahead does not keep back what it is sent.
#[tokio::test]
async fn requests_that_wait_do_not_hold_up_a_large_answer() {
    let app = App::answering(|seen| async move {
        let length = if seen.target.ends_with("/large") { LARGE / 4 } else { 1 };
        Response::new(vec![b'x'; length].into())
    })
    .await;
    let proxy = Setup::default().forwards(forward()).with([plain(app.address)]);
    let listener = proxy.edge();
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // It takes little at a time.
    socket.set_recv_buffer_size(4096).unwrap();
    let mut tcp = socket.connect(listener.address()).await.unwrap();
    let ahead = format!("GET /small HTTP/1.1\r\nhost: x\r\nx-pad: {}\r\n\r\n", "x".repeat(1_000));
    let last = "GET /small HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    let all = format!("GET /large HTTP/1.1\r\nhost: x\r\n\r\n{}{last}", ahead.repeat(20));
    tcp.write_all(all.as_bytes()).await.unwrap();
    let mut read = Vec::new();
    soon("all answers", tcp.read_to_end(&mut read)).await.unwrap();
    let answers = read.windows(12).filter(|bytes| bytes == b"HTTP/1.1 200").count();
    assert_eq!(answers, 22);
    assert!(read.len() > LARGE / 4);
}

/// A client that gives up is noticed also while its request is not taken.
#[tokio::test]
async fn a_request_that_is_given_up_while_it_is_not_taken_ends() {
    let app = serving(|tcp| async move {
        let _kept = tcp;
        std::future::pending::<()>().await;
    })
    .await;
    let proxy = Setup::default().forwards(forward()).with([plain(app)]);
    let listener = proxy.edge();
    let mut client = client_with_room(listener.address(), 65_535).await;
    let request = Request::post("http://shop.example/").header("content-length", 4 * LARGE).body(()).unwrap();
    let (_answer, mut body) = client.send_request(request, false).unwrap();
    let sending = tokio::time::timeout(std::time::Duration::from_millis(500), send(&mut body, 4 * LARGE));
    assert!(sending.await.is_err(), "nobody takes it");
    body.send_reset(h2::Reason::CANCEL);
    assert_eq!(soon("its end", proxy.logged()).await.reason, Some("client_closed"));
}
