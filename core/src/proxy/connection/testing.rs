//! A connection of HTTP/1.1 to a backend, and its other side.

use bytes::Bytes;
use tokio::net::{TcpListener, TcpStream};

use super::{Connection, Replay, Wire};

pub(super) async fn to_backend() -> (Connection, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (near, far) = tokio::join!(TcpStream::connect(address), listener.accept());
    let near = near.unwrap();
    let (local, wire) = (near.local_addr().unwrap(), Wire::Plain(Replay::new(Bytes::new(), near)));
    (Connection::upstream(wire, address, local).with_fate(), far.unwrap().0)
}
