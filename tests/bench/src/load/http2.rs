//! HTTP/2: requests side by side, as GET or as gRPC's unary calls.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use h2::client::SendRequest;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinHandle,
};

use futures::future::try_join_all;

use super::Task;
use crate::{
    Failure,
    backend::{GRPC_PREFIX, grpc_message},
};

/// Streams at a time on one connection.
pub const STREAMS: usize = 32;

/// One connection.
pub struct Sender {
    sender: SendRequest<Bytes>,
    grpc: bool,
    driver: JoinHandle<Result<(), h2::Error>>,
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// Begins HTTP/2.
pub async fn open<S>(stream: S, grpc: bool) -> Result<Sender, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake::<_, Bytes>(stream).await?;
    Ok(Sender { sender, grpc, driver: tokio::spawn(connection) })
}

impl Sender {
    /// So many streams, each with one request after the other.
    pub async fn requests(&mut self, task: &Arc<Task>) -> Result<Vec<Duration>, Failure> {
        let streams = (0..STREAMS).map(|_| one_stream_after_another(self.sender.clone(), self.grpc, task));
        Ok(try_join_all(streams).await?.concat())
    }
}

async fn one_stream_after_another(
    mut sender: SendRequest<Bytes>,
    grpc: bool,
    task: &Task,
) -> Result<Vec<Duration>, Failure> {
    let mut times = Vec::new();
    while let Some((begun, text)) = task.next().await {
        sender = sender.ready().await?;
        if grpc {
            call(&mut sender, text, task.body).await?;
        } else {
            get(&mut sender, text, task.body).await?;
        }
        times.push(begun.elapsed());
    }
    Ok(times)
}

async fn get(sender: &mut SendRequest<Bytes>, text: &[u8], body: usize) -> Result<(), Failure> {
    let (answer, _) = sender.send_request(head_of(text)?, true)?;
    received(answer, body).await.map(drop)
}

/// A unary call (gRPC over HTTP/2): a message there, a message and the status in the trailers back.
async fn call(sender: &mut SendRequest<Bytes>, text: &[u8], body: usize) -> Result<(), Failure> {
    let (mut parts, ()) = head_of(text)?.into_parts();
    parts.method = http::Method::POST;
    let mut uri = parts.uri.into_parts();
    uri.scheme = Some(http::uri::Scheme::HTTP);
    parts.uri = uri.try_into()?;
    parts.headers.insert("content-type", http::HeaderValue::from_static("application/grpc"));
    parts.headers.insert("te", http::HeaderValue::from_static("trailers"));
    let (answer, mut message) = sender.send_request(http::Request::from_parts(parts, ()), false)?;
    message.send_data(grpc_message(), true)?;
    let mut answer = received(answer, body + GRPC_PREFIX).await?;
    let trailers = answer.trailers().await?.ok_or("no trailers")?;
    match trailers.get("grpc-status").map(|status| status.as_bytes()) {
        Some(b"0") => Ok(()),
        status => Err(format!("grpc-status {status:?}").into()),
    }
}

async fn received(answer: h2::client::ResponseFuture, body: usize) -> Result<h2::RecvStream, Failure> {
    let answer = answer.await?;
    if answer.status() != 200 {
        return Err(format!("{answer:?}").into());
    }
    let (head, mut stream) = answer.into_parts();
    let mut length = 0;
    while let Some(part) = stream.data().await {
        let part = part?;
        length += part.len();
        stream.flow_control().release_capacity(part.len())?;
    }
    if length != body {
        return Err(format!("{length} bytes instead of {body}: {:?}", head.headers).into());
    }
    Ok(stream)
}

/// The same request in HTTP/2's form.
fn head_of(text: &[u8]) -> Result<http::Request<()>, Failure> {
    let text = std::str::from_utf8(text)?;
    let mut lines = text.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).ok_or("no path")?;
    let mut request = http::Request::get(path);
    let mut host = "";
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        if name == "host" {
            host = value;
        } else {
            request = request.header(name, value);
        }
    }
    let request = request.uri(format!("https://{host}{path}"));
    Ok(request.version(http::Version::HTTP_2).body(())?)
}
