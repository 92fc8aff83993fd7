//! HTTP/2 connections from clients: their streams are accepted here and served by the engine, each on a task of its own.

use std::{
    fmt,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use h2::Reason;
use pingora_core::protocols::{
    Digest, GetProxyDigest, GetSocketDigest, Stream,
    http::{
        ServerSession,
        v2::server::{H2Accept, H2Options, HttpSession, handshake},
    },
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::{
    Arrival, Connection, HttpLimits, ListenStats, Observer,
    connection::Tripped,
    engine::{LAST_REQUEST, Relay},
    listen::signalled,
    pace::Pace,
    refusal::{self, Refusal},
    stream::{STREAM, StreamState},
    strict::Refused,
};

/// The last frames may take this long to be written; then the connection is closed anyway.
const GOODBYE: Duration = Duration::from_secs(2);
/// Malformed requests that one connection may send; then it is closed.
const MALFORMED: usize = 32;

/// What serves a client's HTTP/2 connection.
pub(super) struct Http2<'a> {
    pub relay: &'a Arc<Relay>,
    pub limits: &'a HttpLimits,
    pub observer: &'a Arc<dyn Observer>,
    pub arrival: &'a Arrival,
    pub stats: &'a ListenStats,
}

/// One connection.
struct Streams {
    connection: h2::server::Connection<Stream, Bytes>,
    digest: Arc<Digest>,
    tripped: Arc<Tripped>,
    /// One for each stream that may be served at a time. A stream that the client has reset is served until the engine
    /// takes note, so that this is not the same as the streams that HTTP/2 counts.
    places: Arc<Semaphore>,
    ends: Arc<Ends>,
    malformed: usize,
}

/// How the streams of a connection have ended.
#[derive(Debug, Default)]
struct Ends {
    answered: AtomicUsize,
    cancelled: AtomicUsize,
}

impl Ends {
    /// True if the client resets more streams than it waits for (CVE-2023-44487).
    fn are_rapid_resets(&self, allowed: usize) -> bool {
        let cancelled = self.cancelled.load(Relaxed);
        cancelled > allowed && cancelled > self.answered.load(Relaxed)
    }
}

/// How a drain is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stopping {
    /// A connection that was just made is told to go away only after its first request, which is on its way already, or
    /// after a moment without one.
    Patiently,
    /// At once.
    Promptly,
    /// The client has been told.
    Done,
}

impl Stopping {
    async fn when(self, stop: &mut watch::Receiver<bool>) {
        signalled(stop).await;
        if self == Self::Patiently {
            tokio::time::sleep(LAST_REQUEST).await;
        }
    }
}

/// What the client did next.
enum Next {
    Request(Box<HttpSession>, OwnedSemaphorePermit),
    Malformed,
    Stop,
    Idle,
    Tripped(Refused),
    Closed,
}

impl Http2<'_> {
    /// Serves it to its end. When `stop` turns true, the client is told to open no more streams, and those that are open
    /// end by themselves.
    pub async fn serve(self, mut connection: Connection, mut stop: watch::Receiver<bool>) {
        let begun = Instant::now();
        connection.end_head();
        connection.open_frame();
        let tripped = connection.guard(self.limits.head_time);
        let digest = Arc::new(Digest {
            proxy_digest: connection.get_proxy_digest(),
            socket_digest: connection.get_socket_digest(),
            ..Digest::default()
        });
        let shaken = tokio::select! {
            biased;
            why = tripped.wait() => return self.log(why, begun),
            shaken = tokio::time::timeout(self.limits.head_time, handshake(Box::new(connection), Some(self.options()))) => shaken,
        };
        let Ok(Ok(connection)) = shaken else { return ListenStats::count(&self.stats.bad_heads) };
        let mut streams = Streams {
            connection,
            digest,
            tripped,
            places: Arc::new(Semaphore::new(self.limits.streams)),
            ends: Arc::default(),
            malformed: 0,
        };
        if let Some(why) = self.accept(&mut streams, &mut stop).await {
            self.log(why, begun);
            streams.connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
            let closing = poll_fn(|cx| streams.connection.poll_closed(cx));
            // Whatever comes of it, the connection ends here.
            let _ = tokio::time::timeout(GOODBYE, closing).await;
        }
    }

    fn options(&self) -> H2Options {
        let mut options = H2Options::default();
        let most = |bound: usize| u32::try_from(bound).unwrap_or(u32::MAX);
        options
            .max_header_list_size(most(self.limits.head_bytes))
            .max_concurrent_streams(most(self.limits.streams))
            .max_local_error_reset_streams(Some(self.limits.stream_errors))
            .initial_window_size(self.limits.stream_window)
            .initial_connection_window_size(self.limits.connection_window);
        options
    }

    /// Accepts streams until there are no more. Some: the client is to be told why.
    async fn accept(&self, streams: &mut Streams, stop: &mut watch::Receiver<bool>) -> Option<Refused> {
        let mut stopping = Stopping::Patiently;
        let mut idle = self.limits.idle;
        loop {
            match streams.next(stop, stopping, idle).await {
                Next::Request(session, place) => {
                    if stopping == Stopping::Patiently {
                        stopping = Stopping::Promptly;
                    }
                    self.spawn(streams, *session, place, stop.clone());
                }
                Next::Malformed => {
                    streams.malformed += 1;
                    self.log(Refused { status: 400, reason: "malformed_request" }, Instant::now());
                    if streams.malformed == MALFORMED {
                        return Some(Refused { status: 429, reason: "http2_malformed" });
                    }
                }
                Next::Stop => {
                    stopping = Stopping::Done;
                    streams.connection.graceful_shutdown();
                }
                Next::Tripped(why) => return Some(why),
                Next::Idle if !streams.is_idle(self.limits.streams) => {}
                // A request that is on its way to it is still answered, and what comes later begins elsewhere (RFC 9113
                // section 6.8).
                Next::Idle if stopping != Stopping::Done => {
                    (stopping, idle) = (Stopping::Done, LAST_REQUEST);
                    streams.connection.graceful_shutdown();
                }
                // It has been told, and does not go.
                Next::Idle => return None,
                Next::Closed => return None,
            }
        }
    }

    fn spawn(
        &self,
        streams: &Streams,
        session: HttpSession,
        place: OwnedSemaphorePermit,
        stop: watch::Receiver<bool>,
    ) {
        let (relay, allowed) = (self.relay.clone(), self.limits.cancelled);
        let pace = if is_grpc(&session) { Pace::of_stream(self.limits) } else { Pace::of_body(self.limits) };
        let (ends, tripped) = (streams.ends.clone(), streams.tripped.clone());
        let state = Arc::new(StreamState::default());
        if session.is_body_empty() {
            state.body_settled();
        }
        let serving = async move {
            let (state, session) = (STREAM.get(), ServerSession::new_http2(session));
            // Boxed: this task is moved several times before it begins.
            let serving = Box::pin(relay.serve_stream(session, &stop));
            tokio::select! {
                biased;
                () = serving => {}
                // The engine has no bound for it. Its future is dropped: the stream is reset, and the request logged.
                () = state.stalled(pace) => {}
            }
            let ended = if state.was_cancelled() { &ends.cancelled } else { &ends.answered };
            ended.fetch_add(1, Relaxed);
            if ends.are_rapid_resets(allowed) {
                tripped.trip(Refused { status: 429, reason: "http2_rapid_reset" });
            }
            drop(place);
        };
        tokio::spawn(STREAM.scope(state, serving));
    }

    fn log(&self, refused: Refused, begun: Instant) {
        refusal::count(self.stats, refused);
        let refusal = Refusal { arrival: self.arrival, refused, begun };
        refusal.log_of(http::Version::HTTP_2, &**self.observer);
    }
}

fn is_grpc(session: &HttpSession) -> bool {
    let kind = session.req_header().headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

impl Streams {
    /// Waits for what comes next. The connection is driven all the while.
    async fn next(&mut self, stop: &mut watch::Receiver<bool>, stopping: Stopping, idle: Duration) -> Next {
        let place = tokio::select! {
            biased;
            why = self.tripped.wait() => return Next::Tripped(why),
            place = self.places.clone().acquire_owned() => place,
            // No place is free: what is open goes on, and what the client begins beyond it waits, bounded by HTTP/2.
            _ = poll_fn(|cx| self.connection.poll_closed(cx)) => return Next::Closed,
        };
        let Ok(place) = place else { return Next::Closed };
        let accepted = tokio::select! {
            biased;
            why = self.tripped.wait() => return Next::Tripped(why),
            () = stopping.when(stop), if stopping != Stopping::Done => return Next::Stop,
            accepted = HttpSession::from_h2_conn(&mut self.connection, self.digest.clone()) => accepted,
            () = tokio::time::sleep(idle) => return Next::Idle,
        };
        match accepted {
            Ok(Some(H2Accept::Session(session))) => Next::Request(Box::new(session), place),
            Ok(Some(H2Accept::Rejected)) => Next::Malformed,
            Ok(None) | Err(_) => Next::Closed,
        }
    }

    fn is_idle(&self, streams: usize) -> bool {
        self.places.available_permits() >= streams
    }
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("ends", &self.ends).finish_non_exhaustive()
    }
}
