//! Telling the service manager what this process does: systemd's `sd_notify(3)` protocol.

use std::{
    fmt,
    io::{self, Write},
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

/// Says that this process serves from now on, and that it is the service's main process (which matters where it has
/// taken over from another). Does nothing where no service manager asks, see `NOTIFY_SOCKET`.
pub fn notify_ready() {
    notify(&format!("READY=1\nMAINPID={}", std::process::id()));
}

/// Says that this process finishes what runs and ends.
pub fn notify_stopping() {
    notify("STOPPING=1");
}

/// A line on standard output. Whoever started this process may have stopped reading: that ends nothing.
pub fn say(line: fmt::Arguments<'_>) {
    if let Err(error) = writeln!(io::stdout(), "{line}") {
        tracing::debug!(%error, "nobody reads the standard output");
    }
}

fn notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    if let Err(error) = send(path.as_bytes(), state) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

fn send(path: &[u8], state: &str) -> io::Result<()> {
    let address = match path.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(path))?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_addresses_are_reached() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let named = UnixDatagram::bind(&path).unwrap();
        let name = format!("tombolo-test-{}", std::process::id());
        let hidden =
            UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name.as_bytes()).unwrap()).unwrap();
        let text = format!("@{name}");
        for (socket, path) in [(named, path.as_os_str().as_bytes()), (hidden, text.as_bytes())] {
            send(path, "READY=1").unwrap();
            let mut buffer = [0; 16];
            let n = socket.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..n], b"READY=1");
        }
        assert!(send(b"/nonexistent/notify", "READY=1").is_err());
    }
}
