//! The same between two sockets: what is long is moved by the kernel (splice(2)), without a way through this process.

use std::{
    io,
    os::fd::OwnedFd,
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use rustix::{
    io::{Errno, read},
    pipe::{PipeFlags, SpliceFlags, pipe_with, splice},
};
use tokio::{
    io::{AsyncWrite, Interest},
    net::TcpStream,
};

use super::{Copied, Flow, until_done};

/// A direction in which so much has moved is long: then a pipe is worth its making.
const LONG: u64 = 256 * 1024;
/// What a pipe holds, unless the kernel is told otherwise.
const PIPE: usize = 64 * 1024;
/// Pipes at a time; what is long beyond is copied. A quarter of the memory that the kernel lets a user's pipes have by default
/// (pipe-user-pages-soft of pipe(7)).
const PIPES: usize = 256;

static MADE: AtomicUsize = AtomicUsize::new(0);

/// As [`copy_both`](super::copy_both).
pub async fn copy_tcp(a: &mut TcpStream, b: &mut TcpStream, idle: Duration) -> Copied {
    let (mut there, mut back) = (Direction::new(), Direction::new());
    let end = until_done(idle, |cx| {
        let there_done = there.poll(cx, a, b)?.is_ready();
        let back_done = back.poll(cx, b, a)?.is_ready();
        Ok((there.flow.moved + back.flow.moved, there_done && back_done))
    })
    .await;
    Copied { sent: there.flow.moved, received: back.flow.moved, end }
}

/// One direction: a flow, and a pipe in the place of its buffer once it is long.
struct Direction {
    flow: Flow,
    pipe: Option<Pipe>,
}

impl Direction {
    fn new() -> Self {
        Self { flow: Flow { pause_at: LONG, ..Flow::new() }, pipe: None }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &mut TcpStream,
        to: &mut TcpStream,
    ) -> Poll<io::Result<()>> {
        if self.pipe.is_none() {
            ready!(self.flow.poll(cx, from, to))?;
            if self.flow.done {
                return Poll::Ready(Ok(()));
            }
            self.pipe = Pipe::new();
        }
        if let Some(pipe) = &mut self.pipe {
            match ready!(pipe.poll(cx, from, to, &mut self.flow)) {
                // Not between these two, or not by this process.
                Err(error) if pipe.held == 0 && is_refused(&error) => {}
                result => {
                    self.pipe = None;
                    return Poll::Ready(result);
                }
            }
        }
        (self.pipe, self.flow.pause_at) = (None, u64::MAX);
        self.flow.poll(cx, from, to)
    }
}

/// A pipe between two sockets.
struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it.
    held: usize,
}

impl Pipe {
    /// None: there are enough, or none is to be had.
    fn new() -> Option<Self> {
        if MADE.fetch_add(1, Relaxed) < PIPES
            && let Ok((read, write)) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)
        {
            return Some(Self { read, write, held: 0 });
        }
        MADE.fetch_sub(1, Relaxed);
        None
    }

    /// Goes on to the end.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        from: &TcpStream,
        to: &mut TcpStream,
        flow: &mut Flow,
    ) -> Poll<io::Result<()>> {
        let flags = SpliceFlags::NONBLOCK | SpliceFlags::MOVE;
        loop {
            ready!(flow.empty(cx, to))?;
            while self.held > 0 {
                ready!(to.poll_write_ready(cx))?;
                let sends = || Ok(splice(&self.read, None, &*to, None, self.held, flags)?);
                if let Some(sent) = now(to.try_io(Interest::WRITABLE, sends))? {
                    self.held = self.held.saturating_sub(sent);
                    flow.moved += sent as u64;
                }
            }
            if flow.eof {
                ready!(Pin::new(&mut *to).poll_shutdown(cx))?;
                flow.done = true;
                return Poll::Ready(Ok(()));
            }
            ready!(from.poll_read_ready(cx))?;
            // It stops at urgent data without a word, or as if that were the end: reading tells, and goes past it.
            let (held, buffer) = (&mut self.held, &mut flow.buffer);
            let takes = || match splice(from, None, &self.write, None, PIPE, flags) {
                Ok(0) | Err(Errno::AGAIN) => Ok(read(from, &mut **buffer)?),
                taken => {
                    *held = taken?;
                    Ok(0)
                }
            };
            if let Some(read) = now(from.try_io(Interest::READABLE, takes))? {
                (flow.start, flow.end) = (0, read);
                flow.eof = read == 0 && self.held == 0;
            }
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        MADE.fetch_sub(1, Relaxed);
    }
}

fn is_refused(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

/// None: the socket is to be waited for.
fn now(done: io::Result<usize>) -> io::Result<Option<usize>> {
    match done {
        Ok(count) => Ok(Some(count)),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use socket2::SockRef;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::JoinHandle,
    };

    use super::*;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (one, listener.accept().await.unwrap().0)
    }

    /// A client, a server, and what copies between them.
    async fn joined(idle: Duration) -> (TcpStream, TcpStream, JoinHandle<Copied>) {
        let ((client, mut a), (mut b, server)) = (pair().await, pair().await);
        let copying = tokio::spawn(async move { copy_tcp(&mut a, &mut b, idle).await });
        (client, server, copying)
    }

    fn bytes(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed;
        let next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 56) as u8
        };
        std::iter::repeat_with(next).take(length).collect()
    }

    #[tokio::test]
    async fn urgent_data_is_no_end_and_holds_nothing_up() {
        for waits in [false, true] {
            let (mut client, mut server, copying) = joined(Duration::from_secs(20)).await;
            let (before, after) = (bytes(1, 2 * LONG as usize), bytes(2, 1000));
            let mut got = vec![0; before.len()];
            let (sent, read) = tokio::join!(client.write_all(&before), server.read_exact(&mut got));
            assert!(sent.is_ok() && read.is_ok() && got == before);
            SockRef::from(&client).send_out_of_band(b"!").unwrap();
            client.write_all(&after).await.unwrap();
            let mut rest = Vec::new();
            if waits {
                rest = vec![0; after.len()];
                server.read_exact(&mut rest).await.unwrap();
            }
            client.shutdown().await.unwrap();
            server.read_to_end(&mut rest).await.unwrap();
            assert!(rest == after, "{} of {} bytes", rest.len(), after.len());
            drop(server);
            assert!(copying.await.unwrap().end.is_ok());
        }
    }

    #[tokio::test]
    async fn all_bytes_come_through_both_ways_at_once_and_an_end_leaves_the_other_way_open() {
        for length in [0, 1, LONG as usize - 1, LONG as usize, LONG as usize + 1, 5_000_000] {
            let (client, server, copying) = joined(Duration::from_secs(20)).await;
            let (up, down) = (bytes(1, length), bytes(2, 3_000_000));
            let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
                (client.into_split(), server.into_split());
            let (mut got_up, mut got_down) = (Vec::new(), Vec::new());
            let sends = async {
                to_client.write_all(&up).await.unwrap();
                to_client.shutdown().await.unwrap();
            };
            let answers = async {
                from_server.read_to_end(&mut got_up).await.unwrap();
                // Only now: the way back is open after the end of the way there.
                to_server.write_all(&down).await.unwrap();
                to_server.shutdown().await.unwrap();
            };
            let reads = async { from_client.read_to_end(&mut got_down).await.unwrap() };
            tokio::join!(sends, answers, reads);
            assert!(got_up == up && got_down == down, "{length}");
            let copied = copying.await.unwrap();
            assert_eq!((copied.sent, copied.received), (length as u64, 3_000_000));
            assert!(copied.end.is_ok());
        }
    }

    #[tokio::test]
    async fn a_reader_that_waits_loses_nothing_and_one_that_goes_away_ends_it() {
        let (mut client, mut server, copying) = joined(Duration::from_secs(20)).await;
        let sent = bytes(3, 20_000_000);
        let whole = sent.clone();
        let sending = tokio::spawn(async move {
            client.write_all(&whole).await.unwrap();
            client
        });
        let mut got = vec![0; sent.len()];
        for part in got.chunks_mut(1_000_003) {
            // All on the way fill up before the next part is taken.
            for _ in 0..50 {
                tokio::task::yield_now().await;
            }
            server.read_exact(part).await.unwrap();
        }
        assert!(got == sent);
        let mut client = sending.await.unwrap();
        server.set_zero_linger().unwrap();
        drop(server);
        let gone = async { while client.write_all(&sent).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(20), gone).await.unwrap();
        drop(client);
        assert!(copying.await.unwrap().end.is_err());
    }

    #[tokio::test]
    async fn where_there_are_pipes_enough_bytes_are_copied() {
        // Those of other tests at the same time count as well.
        let all: Vec<_> = std::iter::from_fn(Pipe::new).collect();
        assert!((1..=PIPES).contains(&all.len()), "{}", all.len());
        let (mut client, mut server, copying) = joined(Duration::from_secs(20)).await;
        let sent = bytes(5, 4 * LONG as usize);
        let sends = async {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let mut got = Vec::new();
        let (_, read) = tokio::join!(sends, server.read_to_end(&mut got));
        assert!(read.is_ok() && got == sent);
        drop(server);
        assert_eq!(copying.await.unwrap().sent, sent.len() as u64);
        drop(all);
        assert!(Pipe::new().is_some());
    }

    #[tokio::test]
    async fn what_stands_still_is_given_up_also_when_it_was_long() {
        let (mut client, mut server, copying) = joined(Duration::from_millis(300)).await;
        let sent = bytes(4, 2 * LONG as usize);
        let mut got = vec![0; sent.len()];
        let reads = server.read_exact(&mut got);
        let (wrote, read) = tokio::join!(client.write_all(&sent), reads);
        assert!(wrote.is_ok() && read.is_ok() && got == sent);
        let copied = copying.await.unwrap();
        assert_eq!(copied.end.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert_eq!(copied.sent, sent.len() as u64);
    }
}
