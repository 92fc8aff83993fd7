//! The side that asked: its request comes in part by part, and the answer goes out.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use pingora_core::protocols::http::{HttpTask, ServerSession, v2::server::HttpSession as Http2};
use pingora_error::{Error, ErrorType, Result};
use pingora_proxy::Session;

use super::{
    outlet::Outlet,
    stall::{Event, Stall},
};
use crate::proxy::connection::Flow;

/// A client during one try.
pub(super) struct Client<'a> {
    pub session: &'a mut Session,
    out: Out,
    /// Its request was read to its end: only its going away is waited for.
    pub is_read: bool,
    held: bool,
    idle: Option<Duration>,
    stall: Stall,
    /// Bytes of a body that went out over HTTP/2.
    pub sent: u64,
}

/// The way of the answer.
enum Out {
    One(Arc<Flow>),
    /// Once the head is sent.
    Two(Option<Outlet>),
}

impl<'a> Client<'a> {
    pub fn new(session: &'a mut Session) -> Self {
        let out = match session.downstream_session.stream() {
            Some(stream) => {
                let flow = Flow::of(stream);
                flow.begin();
                Out::One(flow)
            }
            None => Out::Two(None),
        };
        let idle = session.get_read_timeout();
        Self { session, out, is_read: false, held: false, idle, stall: Stall::default(), sent: 0 }
    }

    /// True if it does not take what was sent.
    pub fn is_full(&self) -> bool {
        match &self.out {
            Out::One(flow) => flow.is_full(),
            Out::Two(outlet) => outlet.as_ref().is_some_and(Outlet::is_full),
        }
    }

    /// While held, no more of its request comes in, and it does not count as slow.
    pub fn hold(&mut self, held: bool) {
        if std::mem::replace(&mut self.held, held) == held {
            return;
        }
        if let Out::One(flow) = &self.out {
            flow.hold(held);
            self.session.set_read_timeout(self.idle.filter(|_| !held));
        }
    }

    /// The try has ended: whatever is said to the client from now on is said as before it.
    pub fn release(&mut self) {
        self.hold(false);
        if let Out::One(flow) = &self.out {
            flow.end();
        }
    }

    /// Waits for more of the request, or for room for more of the answer. That the client goes away is an error, and that it
    /// takes nothing for too long. Nothing is lost where this is dropped.
    pub async fn event(&mut self) -> Result<Event<Option<Bytes>>> {
        let limit = self.session.get_write_timeout();
        let full = self.is_full();
        let Self { session, out, stall, .. } = self;
        if !full {
            stall.end();
        }
        let (held, is_read) = (self.held, self.is_read);
        let mut stalled = |cx: &mut Context<'_>| match full {
            true => stall
                .poll(cx, limit)
                .map(|()| Error::e_explain(ErrorType::WriteTimedout, "the client takes nothing")),
            false => Poll::Pending,
        };
        let event = match (&mut *session.downstream_session, out) {
            (ServerSession::H2(session), Out::Two(outlet)) => {
                poll_fn(|cx| match poll_two(cx, session, outlet.as_mut(), held, is_read) {
                    Poll::Pending => stalled(cx),
                    event => event,
                })
                .await
            }
            (session, out) => {
                let mut read = pin!(session.read_body_or_idle(is_read));
                poll_fn(|cx| match (read.as_mut().poll(cx), &*out) {
                    (Poll::Ready(read), _) => Poll::Ready(came(read, is_read)),
                    (Poll::Pending, Out::One(flow)) if full && !flow.is_full() => {
                        Poll::Ready(Ok(Event::Room))
                    }
                    (Poll::Pending, _) => stalled(cx),
                })
                .await
            }
        };
        match event {
            Ok(Event::Closed(error)) | Err(error) => Err(error.into_down()),
            event => event,
        }
    }

    /// Sends parts of the answer. True: it has ended.
    pub async fn send(&mut self, parts: Vec<HttpTask>) -> Result<bool> {
        let (ServerSession::H2(session), Out::Two(outlet)) =
            (&mut *self.session.downstream_session, &mut self.out)
        else {
            return self.session.downstream_session.response_duplex_vec(parts).await;
        };
        let mut ended = false;
        for part in parts {
            ended = part.is_end();
            self.sent += send_two(session, outlet, part)? as u64;
        }
        Ok(ended)
    }
}

fn came(read: Result<Option<Bytes>>, is_read: bool) -> Result<Event<Option<Bytes>>> {
    match read {
        Ok(_) if is_read => Error::e_explain(ErrorType::ReadError, "more came than the request"),
        read => read.map(Event::Came),
    }
}

/// Over HTTP/2, reading and writing are apart.
fn poll_two(
    cx: &mut Context<'_>,
    session: &mut Http2,
    mut outlet: Option<&mut Outlet>,
    held: bool,
    is_read: bool,
) -> Poll<Result<Event<Option<Bytes>>>> {
    if let Some(outlet) = outlet.as_mut().filter(|outlet| outlet.is_full())
        && let Poll::Ready(room) = outlet.poll_room(cx)
    {
        return Poll::Ready(Ok(room.map_or_else(Event::Closed, |()| Event::Room)));
    }
    if !is_read && !held {
        return pin!(session.read_body_bytes()).poll(cx).map_ok(Event::Came);
    }
    let reset = match outlet {
        Some(outlet) => outlet.poll_reset(cx),
        None => Pin::new(&mut session.idle()).poll(cx),
    };
    reset.map(|reason| {
        let gone = |reason| Error::explain(ErrorType::H2Error, format!("the client gave up: {reason}"));
        Err(reason.map_or_else(|error| error, gone))
    })
}

/// Sends a part on a stream of HTTP/2, and says how many bytes of body it has.
fn send_two(session: &mut Http2, outlet: &mut Option<Outlet>, part: HttpTask) -> Result<usize> {
    let early = || Error::explain(ErrorType::InternalError, "a body before its head").into_in();
    match part {
        HttpTask::Header(head, end) => {
            session.write_response_header(head, end).map_err(|error| error.into_down())?;
            if !end {
                *outlet = session.take_response_body_writer().map(Outlet::new);
            }
            Ok(0)
        }
        HttpTask::Body(data, end) => {
            let data = data.unwrap_or_default();
            let length = data.len();
            outlet.as_mut().ok_or_else(early)?.push(data, end).map_err(|error| error.into_down())?;
            Ok(length)
        }
        HttpTask::Trailer(Some(trailers)) => {
            let outlet = outlet.as_mut().ok_or_else(early)?;
            outlet.finish(*trailers).map_err(|error| error.into_down()).map(|()| 0)
        }
        HttpTask::Trailer(None) | HttpTask::Done => match outlet {
            Some(outlet) => outlet.push(Bytes::new(), true).map_err(|error| error.into_down()).map(|()| 0),
            None => Ok(0),
        },
        HttpTask::UpgradedBody(..) => {
            Err(Error::explain(ErrorType::InternalError, "a tunnel over HTTP/2").into_in())
        }
        HttpTask::Failed(error) => Err(error),
    }
}
