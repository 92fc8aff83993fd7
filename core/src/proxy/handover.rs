//! Listening sockets that pass from one process to the next, so that the port never closes in between.

use std::{
    fmt, io,
    io::{IoSlice, IoSliceMut},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg, sockopt,
};

/// Sockets in one message; the kernel takes 253 (SCM_MAX_FD).
const BATCH: usize = 64;
/// Sockets in all. More are refused: no gateway has as many.
const MOST: usize = 4096;

/// Sockets that were taken over, until somebody listens on them. What nobody wants closes here when this is dropped;
/// it stays open in the process that it came from. Cheap to clone.
#[derive(Clone, Default)]
pub struct Inherited(Arc<Mutex<Vec<TcpListener>>>);

impl Inherited {
    /// These sockets.
    pub fn new(sockets: Vec<TcpListener>) -> Self {
        Self(Arc::new(Mutex::new(sockets)))
    }

    /// The socket that listens on this very address, if there is one.
    pub fn take(&self, address: SocketAddr) -> Option<TcpListener> {
        let mut sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = sockets.iter().position(|socket| socket.local_addr().is_ok_and(|bound| bound == address))?;
        Some(sockets.swap_remove(at))
    }

    /// Closes what nobody has taken. Says how many there were.
    pub fn close_rest(&self) -> usize {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).len()
    }
}

impl fmt::Debug for Inherited {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sockets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        f.debug_tuple("Inherited").field(&sockets.len()).finish()
    }
}

/// Sends sockets (`SCM_RIGHTS`), in batches: a byte that counts, with as many sockets; a zero ends them. Blocks.
pub fn send_sockets(to: &UnixStream, sockets: &[OwnedFd]) -> io::Result<()> {
    if sockets.len() > MOST {
        return Err(io::Error::other(format!("{} sockets are more than {MOST}", sockets.len())));
    }
    for batch in sockets.chunks(BATCH) {
        let descriptors: Vec<BorrowedFd<'_>> = batch.iter().map(AsFd::as_fd).collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
            return Err(io::Error::other("the sockets do not fit into one message"));
        }
        let count = [u8::try_from(batch.len()).unwrap_or(u8::MAX)];
        send_byte(to, &count, &mut control)?;
    }
    send_byte(to, &[0], &mut SendAncillaryBuffer::default())
}

fn send_byte(
    to: &UnixStream,
    byte: &[u8; 1],
    control: &mut SendAncillaryBuffer<'_, '_, '_>,
) -> io::Result<()> {
    match sendmsg(to, &[IoSlice::new(byte)], control, SendFlags::NOSIGNAL)? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::WriteZero.into()),
    }
}

/// Receives what [`send_sockets`] sends. Anything that is not a listening TCP socket is an error. Blocks, no longer than
/// the stream's own read timeout for each batch.
pub fn receive_sockets(from: &UnixStream) -> io::Result<Vec<TcpListener>> {
    let invalid = |message: &str| io::Error::new(io::ErrorKind::InvalidData, message);
    let mut sockets = Vec::new();
    loop {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(BATCH))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut count = [0];
        let got = recvmsg(from, &mut [IoSliceMut::new(&mut count)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
        if got.bytes == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut batch: Vec<OwnedFd> = Vec::new();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                batch.extend(descriptors);
            }
        }
        if batch.len() != usize::from(count[0]) {
            return Err(invalid("some sockets were lost on the way"));
        }
        if batch.is_empty() {
            return Ok(sockets);
        }
        if sockets.len() + batch.len() > MOST {
            return Err(invalid("there are too many sockets"));
        }
        for socket in batch {
            if !sockopt::socket_acceptconn(&socket)? {
                return Err(invalid("a socket does not listen"));
            }
            let listener = TcpListener::from(socket);
            listener.local_addr().map_err(|_| invalid("a socket is not one of TCP"))?;
            sockets.push(listener);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::{io::Write, net::TcpStream};

    use super::*;

    fn listener() -> TcpListener {
        TcpListener::bind("127.0.0.1:0").unwrap()
    }

    #[test]
    fn sockets_arrive_and_listen_on_after_their_first_owner_has_gone() {
        let (one, other) = UnixStream::pair().unwrap();
        let all: Vec<TcpListener> = (0..BATCH + 3).map(|_| listener()).collect();
        let addresses: Vec<SocketAddr> = all.iter().map(|l| l.local_addr().unwrap()).collect();
        let sockets: Vec<OwnedFd> = all.into_iter().map(OwnedFd::from).collect();
        send_sockets(&one, &sockets).unwrap();
        let inherited = Inherited::new(receive_sockets(&other).unwrap());
        drop(sockets);
        for address in &addresses {
            TcpStream::connect(address).unwrap();
        }
        let taken = inherited.take(addresses[0]).unwrap();
        assert_eq!(taken.local_addr().unwrap(), addresses[0]);
        assert!(inherited.take(addresses[0]).is_none());
        assert_eq!(inherited.close_rest(), BATCH + 2);
        TcpStream::connect(addresses[0]).unwrap();
        TcpStream::connect(addresses[1]).unwrap_err();
    }

    #[test]
    fn nothing_but_listening_sockets_is_taken() {
        let (one, other) = UnixStream::pair().unwrap();
        let listener = listener();
        let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        send_sockets(&one, &[OwnedFd::from(connected)]).unwrap();
        assert_eq!(receive_sockets(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        let (mut one, other) = UnixStream::pair().unwrap();
        one.write_all(&[3]).unwrap();
        assert_eq!(receive_sockets(&other).unwrap_err().kind(), io::ErrorKind::InvalidData);
        drop(one);
        assert_eq!(receive_sockets(&other).unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    }
}
