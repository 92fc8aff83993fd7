//! A new process takes the place of this one without a moment in which nobody listens.
//!
//! ```text
//! new                                 old
//!  | -- connects to the handover path --> |
//!  | <------- its listening sockets ----- |   both accept from here on
//!  | reads its configuration, is ready    |
//!  | -- READY --------------------------> |   finishes what runs, and ends
//!  | listens on the path itself           |
//! ```
//!
//! A new process that ends before it is ready changes nothing: the old one serves on. Only the same user's processes
//! (or root's) are answered.

use std::{
    fs, io,
    os::{
        fd::OwnedFd,
        unix::{
            fs::{MetadataExt, PermissionsExt},
            net::UnixStream as BlockingStream,
        },
    },
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{mpsc, oneshot},
    task::spawn_blocking,
    time::timeout,
};
use tombolo_core::proxy::{Inherited, receive_sockets, send_sockets};

/// What the new process says first: who it is, and the version of this exchange.
const HELLO: [u8; 8] = *b"tombolo1";
/// What it says when it serves.
const READY: u8 = b'R';
/// The sockets have to pass within this time.
const PASSING: Duration = Duration::from_secs(5);
/// The new process has to be ready so soon; else the old one serves on and forgets of it.
const WARM_UP: Duration = Duration::from_secs(120);

/// Asks for the sockets that are open now.
pub(crate) type Asked = oneshot::Sender<Vec<OwnedFd>>;

/// The old process, until it is told that this one is ready.
#[derive(Debug)]
pub(crate) struct Predecessor(UnixStream);

impl Predecessor {
    /// Takes over the sockets of the process that listens on `path`. None: there is no such process.
    pub async fn find(path: &Path) -> io::Result<Option<(Self, Inherited)>> {
        let absent = [io::ErrorKind::NotFound, io::ErrorKind::ConnectionRefused];
        let mut stream = match UnixStream::connect(path).await {
            Ok(stream) => stream,
            Err(error) if absent.contains(&error.kind()) => return Ok(None),
            Err(error) => return Err(error),
        };
        timeout(PASSING, stream.write_all(&HELLO)).await??;
        let (stream, sockets) = blocking(stream, receive_sockets).await?;
        tracing::info!(sockets = sockets.len(), "taking over from the process that serves now");
        Ok(Some((Self(stream), Inherited::new(sockets))))
    }

    /// Says that this process serves: the old one may go.
    pub async fn release(mut self) -> io::Result<()> {
        timeout(PASSING, self.0.write_all(&[READY])).await?
    }
}

/// The place where the next process asks.
#[derive(Debug)]
pub(crate) struct Successor {
    asked: mpsc::Receiver<Asked>,
    taken: mpsc::Receiver<()>,
}

/// What the next process wants.
pub(crate) enum Wish {
    /// The sockets.
    Sockets(Asked),
    /// It serves: this process is to end.
    Taken,
}

impl Successor {
    /// Listens on `path`, in place of whoever listened there. The socket is for this user only.
    pub fn listen(path: PathBuf) -> io::Result<Self> {
        // Made beside its place, closed to others, and moved there: never open to them, and never absent.
        let draft = path.with_extension(format!("{}.new", std::process::id()));
        let _absent = fs::remove_file(&draft);
        let listener = UnixListener::bind(&draft)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
        fs::rename(&draft, &path)?;
        let user = fs::metadata(&path)?.uid();
        let (ask, asked) = mpsc::channel(1);
        let (take, taken) = mpsc::channel(1);
        tokio::spawn(answer(listener, user, ask, take));
        Ok(Self { asked, taken })
    }

    /// What the next process wants. Never resolves where nothing is listened on.
    pub async fn wish(this: &mut Option<Self>) -> Wish {
        let Some(successor) = this else { return std::future::pending().await };
        tokio::select! {
            Some(()) = successor.taken.recv() => Wish::Taken,
            Some(asked) = successor.asked.recv() => Wish::Sockets(asked),
            else => std::future::pending().await,
        }
    }
}

/// One process after the other, until one has taken over or nobody is there any more who could be asked.
async fn answer(listener: UnixListener, user: u32, ask: mpsc::Sender<Asked>, take: mpsc::Sender<()>) {
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the handover cannot be listened on any more");
                    return;
                }
            },
            () = ask.closed() => return,
        };
        match pass(stream, user, &ask).await {
            Ok(()) => {
                let _ended = take.send(()).await;
                return;
            }
            Err(error) => tracing::warn!(%error, "a process that asked for the sockets has not taken over"),
        }
    }
}

async fn pass(mut stream: UnixStream, user: u32, ask: &mpsc::Sender<Asked>) -> io::Result<()> {
    let peer = stream.peer_cred()?.uid();
    if peer != user && peer != 0 {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("it runs as user {peer}")));
    }
    let mut hello = [0; HELLO.len()];
    timeout(PASSING, stream.read_exact(&mut hello)).await??;
    if hello != HELLO {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks another version of the handover"));
    }
    let (tell, told) = oneshot::channel();
    let ended = |_| io::Error::other("this process is ending");
    ask.send(tell).await.map_err(|_| io::Error::other("this process is ending"))?;
    let sockets = timeout(PASSING, told).await?.map_err(ended)?;
    let (mut stream, ()) = blocking(stream, move |stream| send_sockets(stream, &sockets)).await?;
    let mut ready = [0];
    timeout(WARM_UP, stream.read_exact(&mut ready)).await??;
    match ready {
        [READY] => Ok(()),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it says something else than that it is ready")),
    }
}

/// Uses the stream on a thread where it may block, but not for long.
async fn blocking<T: Send + 'static>(
    stream: UnixStream,
    run: impl FnOnce(&BlockingStream) -> io::Result<T> + Send + 'static,
) -> io::Result<(UnixStream, T)> {
    let stream = stream.into_std()?;
    spawn_blocking(move || {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PASSING))?;
        stream.set_write_timeout(Some(PASSING))?;
        let out = run(&stream)?;
        stream.set_nonblocking(true)?;
        Ok::<_, io::Error>((stream, out))
    })
    .await
    .map_err(io::Error::other)?
    .and_then(|(stream, out)| Ok((UnixStream::from_std(stream)?, out)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn here() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover");
        (dir, path)
    }

    async fn give(successor: &mut Option<Successor>, socket: &TcpListener) {
        match timeout(SOON, Successor::wish(successor)).await.unwrap() {
            Wish::Sockets(asked) => asked.send(vec![socket.try_clone().unwrap().into()]).unwrap(),
            Wish::Taken => panic!("nobody is ready"),
        }
    }

    #[tokio::test]
    async fn the_sockets_pass_and_then_the_old_process_is_told_to_go() {
        let (_dir, path) = here();
        assert!(Predecessor::find(&path).await.unwrap().is_none(), "nobody is there");
        let mut successor = Some(Successor::listen(path.clone()).unwrap());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let (found, ()) = tokio::join!(Predecessor::find(&path), give(&mut successor, &socket));
        let (predecessor, inherited) = found.unwrap().unwrap();
        assert!(inherited.take(socket.local_addr().unwrap()).is_some());
        predecessor.release().await.unwrap();
        let wish = timeout(SOON, Successor::wish(&mut successor)).await.unwrap();
        assert!(matches!(wish, Wish::Taken));
    }

    #[tokio::test]
    async fn a_process_that_never_gets_ready_changes_nothing() {
        let (_dir, path) = here();
        let mut successor = Some(Successor::listen(path.clone()).unwrap());
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        for _ in 0..2 {
            let (found, ()) = tokio::join!(Predecessor::find(&path), give(&mut successor, &socket));
            drop(found.unwrap().unwrap());
        }
        let mut stranger = UnixStream::connect(&path).await.unwrap();
        stranger.write_all(b"GET / HT").await.unwrap();
        let closed = timeout(SOON, stranger.read(&mut [0])).await.unwrap();
        assert!(matches!(closed, Ok(0) | Err(_)), "it is not answered");
        let (found, ()) = tokio::join!(Predecessor::find(&path), give(&mut successor, &socket));
        found.unwrap().unwrap().0.release().await.unwrap();
        assert!(matches!(timeout(SOON, Successor::wish(&mut successor)).await.unwrap(), Wish::Taken));
    }

    #[tokio::test]
    async fn a_path_that_was_left_behind_is_used_again() {
        let (_dir, path) = here();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(Predecessor::find(&path).await.unwrap().is_none());
        Successor::listen(path).unwrap();
    }
}
