//! The application behind the proxies: answers every request at once with 1 KiB.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::Failure;

/// Bytes of each answer's body.
pub const BODY: usize = 1024;

/// Starts it on a free port of the loopback address.
pub async fn start() -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let mut answer = format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY}\r\n\r\n");
    answer.push_str(&"x".repeat(BODY));
    let answer: &'static [u8] = answer.into_bytes().leak();
    tokio::spawn(async move {
        while let Ok((tcp, _)) = listener.accept().await {
            tokio::spawn(serve(tcp, answer));
        }
    });
    Ok(address)
}

/// Requests have no body, and come one at a time.
async fn serve(mut tcp: TcpStream, answer: &'static [u8]) -> std::io::Result<()> {
    tcp.set_nodelay(true)?;
    let mut seen = Vec::with_capacity(4096);
    while tcp.read_buf(&mut seen).await? > 0 {
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            tcp.write_all(answer).await?;
        }
    }
    Ok(())
}
