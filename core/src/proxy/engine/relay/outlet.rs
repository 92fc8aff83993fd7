//! What goes out on a stream of HTTP/2: as much as its other side has room for, and the rest when there is room again.

use std::{
    collections::VecDeque,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use h2::{Reason, SendStream};
use http::HeaderMap;
use pingora_error::{Error, ErrorType, OrErr, Result};

/// The body, in order.
pub(super) struct Outlet {
    stream: SendStream<Bytes>,
    /// What waits for room. Whoever fills it stops as soon as anything does.
    rest: VecDeque<Bytes>,
    /// How it ends, once the rest is gone.
    end: Option<End>,
}

enum End {
    Data,
    Trailers(HeaderMap),
}

impl Outlet {
    pub fn new(stream: SendStream<Bytes>) -> Self {
        Self { stream, rest: VecDeque::new(), end: None }
    }

    /// True if something waits.
    pub fn is_full(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Sends a part of the body. An end that comes alone is a frame of its own, without which the stream would not end;
    /// other parts that are empty are none: servers end connections over which too many come.
    pub fn push(&mut self, data: Bytes, end: bool) -> Result<()> {
        if end {
            self.end = Some(End::Data);
        }
        if !data.is_empty() {
            self.rest.push_back(data);
        }
        self.begin()
    }

    /// Ends the body with trailers.
    pub fn finish(&mut self, trailers: HeaderMap) -> Result<()> {
        self.end = Some(End::Trailers(trailers));
        self.begin()
    }

    /// Sends what there is room for now.
    fn begin(&mut self) -> Result<()> {
        while let Some(next) = self.rest.front() {
            self.stream.reserve_capacity(next.len());
            if !self.send_some()? {
                return Ok(());
            }
        }
        self.send_end()
    }

    /// Sends what waits. Ready when nothing does.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<()>> {
        while !self.rest.is_empty() {
            if !self.send_some()? {
                match ready!(self.stream.poll_capacity(cx)) {
                    Some(room) => room.or_err(ErrorType::WriteError, "waiting for room on a stream")?,
                    None => {
                        return Poll::Ready(Error::e_explain(ErrorType::WriteError, "the stream has ended"));
                    }
                };
            }
        }
        Poll::Ready(self.send_end())
    }

    /// Sends of the next part as much as there is room for. False: there is none.
    fn send_some(&mut self) -> Result<bool> {
        let room = self.stream.capacity();
        let Some(next) = self.rest.front_mut().filter(|_| room > 0) else { return Ok(false) };
        let part = next.split_to(room.min(next.len()));
        let left = next.len();
        if left == 0 {
            self.rest.pop_front();
        }
        let last = self.rest.is_empty() && matches!(self.end, Some(End::Data));
        if last {
            self.end = None;
        }
        self.stream.send_data(part, last).or_err(ErrorType::WriteError, "sending a body")?;
        if let Some(next) = self.rest.front() {
            self.stream.reserve_capacity(next.len());
        }
        Ok(true)
    }

    fn send_end(&mut self) -> Result<()> {
        let sent = match self.end.take() {
            None => return Ok(()),
            Some(End::Data) => self.stream.send_data(Bytes::new(), true),
            Some(End::Trailers(trailers)) => self.stream.send_trailers(trailers),
        };
        sent.or_err(ErrorType::WriteError, "ending a body")
    }

    /// Ready when the other side gives the stream up.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Result<Reason>> {
        self.stream.poll_reset(cx).map(|reset| reset.or_err(ErrorType::H2Error, "a connection ended"))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::future::poll_fn;

    use http::{Request, Response};

    use super::*;

    /// Sends parts of a body, waits for room where there is none, and gives what came: each frame, and the trailers.
    async fn sent(parts: Vec<(Bytes, bool)>, trailers: Option<HeaderMap>) -> (Vec<Bytes>, Option<HeaderMap>) {
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let client = tokio::spawn(async move {
            // Room for 100 bytes at a time.
            let builder = h2::client::Builder::new().initial_window_size(100).to_owned();
            let (mut client, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
            tokio::spawn(connection);
            let (answer, _) = client.send_request(Request::new(()), true).unwrap();
            let (mut frames, mut body) = (Vec::new(), answer.await.unwrap().into_body());
            while let Some(frame) = body.data().await {
                let frame = frame.unwrap();
                body.flow_control().release_capacity(frame.len()).unwrap();
                frames.push(frame);
            }
            (frames, body.trailers().await.unwrap())
        });
        let mut connection = h2::server::handshake(ours).await.unwrap();
        let (_, mut answer) = connection.accept().await.unwrap().unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        let mut outlet = Outlet::new(answer.send_response(Response::new(()), false).unwrap());
        for (part, end) in parts {
            outlet.push(part, end).unwrap();
        }
        if let Some(trailers) = trailers {
            outlet.finish(trailers).unwrap();
        }
        if outlet.is_full() {
            poll_fn(|cx| outlet.poll_room(cx)).await.unwrap();
        }
        assert!(!outlet.is_full());
        client.await.unwrap()
    }

    #[tokio::test]
    async fn what_there_is_no_room_for_waits_and_comes_whole_and_in_order() {
        for sizes in [&[1][..], &[100], &[101], &[1, 250, 99, 1], &[1000, 1000]] {
            let parts: Vec<_> =
                sizes.iter().zip(b'a'..).map(|(size, letter)| Bytes::from(vec![letter; *size])).collect();
            let last = parts.len() - 1;
            let whole = parts.concat();
            let pushed = parts.into_iter().enumerate().map(|(i, part)| (part, i == last)).collect();
            let (frames, trailers) = sent(pushed, None).await;
            assert_eq!(frames.concat(), whole, "{sizes:?}");
            assert!(frames.iter().all(|frame| !frame.is_empty()), "{sizes:?}");
            assert_eq!(trailers, None);
        }
    }

    #[tokio::test]
    async fn an_end_that_comes_alone_is_one_frame_and_parts_without_bytes_are_none() {
        let [part, empty] = [Bytes::from_static(b"all of it"), Bytes::new()];
        let (frames, _) =
            sent(vec![(empty.clone(), false), (part.clone(), false), (empty.clone(), true)], None).await;
        assert_eq!(frames, [part, empty]);
    }

    #[tokio::test]
    async fn trailers_come_after_what_waits() {
        let trailers = HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("x"))]);
        let (frames, read) = sent(vec![(Bytes::from(vec![b'a'; 250]), false)], Some(trailers.clone())).await;
        assert_eq!((frames.concat().len(), read), (250, Some(trailers)));
    }

    #[tokio::test]
    async fn a_stream_that_is_given_up_makes_no_room() {
        let (ours, theirs) = tokio::io::duplex(1 << 10);
        let (mut client, connection) = h2::client::handshake(theirs).await.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(ours).await.unwrap();
            let (request, mut answer) = connection.accept().await.unwrap().unwrap();
            answer.send_reset(Reason::CANCEL);
            drop(request);
            while connection.accept().await.is_some() {}
        });
        let (answer, stream) = client.send_request(Request::new(()), false).unwrap();
        let mut outlet = Outlet::new(stream);
        outlet.push(Bytes::from(vec![0; 1 << 20]), false).unwrap();
        assert!(outlet.is_full());
        answer.await.unwrap_err();
        poll_fn(|cx| outlet.poll_room(cx)).await.unwrap_err();
    }
}
