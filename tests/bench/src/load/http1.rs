//! HTTP/1.1: one request at a time.

use std::{net::SocketAddr, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;

use super::Task;
use crate::Failure;

/// One request after the other.
pub async fn requests<S>(stream: &mut S, task: &Task) -> Result<Vec<Duration>, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut times = Vec::new();
    let mut answer = Vec::with_capacity(task.body + 4096);
    while let Some((begun, request)) = task.next().await {
        ask(stream, request, task.body, &mut answer).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// One connection after the other, with one request each.
pub async fn connections(
    address: SocketAddr,
    connector: &TlsConnector,
    task: &Task,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    let mut answer = Vec::with_capacity(task.body + 4096);
    while let Some((begun, request)) = task.next().await {
        let mut stream = super::tls(address, connector).await?;
        ask(&mut stream, request, task.body, &mut answer).await?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

async fn ask<S>(stream: &mut S, request: &[u8], body: usize, answer: &mut Vec<u8>) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    stream.write_all(request).await?;
    stream.flush().await?;
    answer.clear();
    let head = loop {
        if stream.read_buf(answer).await? == 0 {
            return Err("the connection was closed".into());
        }
        if let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    if !answer.starts_with(b"HTTP/1.1 200 ") {
        return Err(String::from_utf8_lossy(answer).into_owned().into());
    }
    while answer.len() < head + body {
        if stream.read_buf(answer).await? == 0 {
            return Err("the answer was cut".into());
        }
    }
    if answer.len() > head + body {
        return Err(format!("the answer is longer than {body} bytes, or chunked").into());
    }
    Ok(())
}
