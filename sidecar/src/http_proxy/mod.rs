//! A plain HTTP proxy for applications that are told of it (`http_proxy=`): the mesh without root and without capture.
//!
//! A connection carries one request in absolute form, or a tunnel (CONNECT). Names of services lead into the mesh; all
//! others are passed on, or refused, as the policy for unknown destinations says.

mod head;
mod target;

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tombolo_core::{
    decide::Cidr,
    proxy::{Accepted, ConnectionService},
};

use crate::{
    addresses::Addresses,
    capture::{Far, Passing},
    way::{Way, Ways},
};
use head::{Asked, Form};
use target::{Target, is_kept_from};

/// A head is not longer than this, and comes within this time; else 431 or the end of the connection.
const LONGEST_HEAD: usize = 16 * 1024;
const HEAD_TIME: Duration = Duration::from_secs(10);
/// A name is resolved within this time.
const RESOLVE: Duration = Duration::from_secs(6);
/// Of a name's addresses, so many are tried.
const ADDRESSES: usize = 4;
/// An answer of our own is taken within this time.
const ANSWER: Duration = Duration::from_secs(2);
const ESTABLISHED: &[u8] = b"HTTP/1.1 200 Connection established\r\n\r\n";

/// Serves the proxy's port.
pub(crate) struct HttpProxy {
    pub ways: Arc<ArcSwap<Ways>>,
    pub addresses: Addresses,
    pub passing: Arc<Passing>,
    /// Addresses that may be reached although they are this machine's or a cloud's own.
    pub allowed: Vec<Cidr>,
}

/// An answer of the proxy itself: status line and a sentence.
type Refused = (&'static str, String);

/// Where a request goes.
enum Next {
    Mesh(Arc<Way>),
    Far(Far),
}

impl HttpProxy {
    async fn run(&self, mut accepted: Accepted) -> io::Result<()> {
        let Ok(head) = timeout(HEAD_TIME, read_head(&mut accepted.tcp)).await else { return Ok(()) };
        let Some((head, rest)) = head? else {
            return answer(&mut accepted.tcp, "431 Request Header Fields Too Large", "the head is too long")
                .await;
        };
        let asked = match head::parse(&head) {
            Ok(asked) => asked,
            Err(wrong) => return answer(&mut accepted.tcp, "400 Bad Request", wrong).await,
        };
        let next = match self.next(&asked, &accepted).await {
            Ok(next) => next,
            Err((status, why)) => {
                tracing::debug!(peer = %accepted.peer, host = asked.host, port = asked.port, why, "not passed on");
                return answer(&mut accepted.tcp, status, &why).await;
            }
        };
        let is_tunnel = match asked.form {
            Form::Tunnel => {
                accepted.tcp.write_all(ESTABLISHED).await?;
                accepted.prefix = rest.into();
                true
            }
            Form::Request(head) => {
                accepted.prefix = [head, rest].concat().into();
                false
            }
        };
        match next {
            Next::Mesh(way) if is_tunnel => way.serve(accepted).await,
            Next::Mesh(way) => way.serve_http(accepted).await,
            Next::Far(far) => self.passing.copy(accepted, far).await,
        }
        Ok(())
    }

    async fn next(&self, asked: &Asked, accepted: &Accepted) -> Result<Next, Refused> {
        let nobody = || ("404 Not Found", format!("{} has no port {} in the mesh", asked.host, asked.port));
        let ways = self.ways.load();
        match Target::of(&asked.host, &self.addresses) {
            Target::Service(service) => ways.by_key(&service, asked.port).map(Next::Mesh).ok_or_else(nobody),
            Target::Virtual(index) => ways.by_index(index, asked.port).map(Next::Mesh).ok_or_else(nobody),
            Target::Host => ways.by_name(&asked.host, asked.port).map(Next::Mesh).ok_or_else(nobody),
            Target::Address(ip) => self.elsewhere(vec![ip], asked, accepted).await,
            Target::Name => {
                if self.passing.refuses() {
                    return Err(unknown(asked));
                }
                let resolved = timeout(RESOLVE, lookup_host((asked.host.as_str(), asked.port))).await;
                let found: Vec<IpAddr> =
                    resolved.into_iter().flatten().flatten().map(|found| found.ip()).collect();
                self.elsewhere(found, asked, accepted).await
            }
        }
    }

    /// To the first of these addresses that takes the connection.
    async fn elsewhere(
        &self,
        found: Vec<IpAddr>,
        asked: &Asked,
        accepted: &Accepted,
    ) -> Result<Next, Refused> {
        if self.passing.refuses() {
            return Err(unknown(asked));
        }
        if let Some(ip) = found.iter().find(|ip| is_kept_from(**ip, &self.allowed)) {
            return Err(("403 Forbidden", format!("{ip} is not to be reached through a proxy")));
        }
        let mut last = "not resolved";
        for ip in found.into_iter().take(ADDRESSES) {
            match self.passing.connect(accepted, SocketAddr::new(ip, asked.port)).await {
                Ok(far) => return Ok(Next::Far(far)),
                Err(reason) => last = reason,
            }
        }
        Err(("502 Bad Gateway", format!("{} port {}: {last}", asked.host, asked.port)))
    }
}

fn unknown(asked: &Asked) -> Refused {
    ("403 Forbidden", format!("{} is not in the mesh, and others are refused", asked.host))
}

/// Reads to the end of a head; what came after it is given as well. None: it is too long.
async fn read_head(tcp: &mut TcpStream) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    const END: &[u8] = b"\r\n\r\n";
    let mut bytes = Vec::with_capacity(1024);
    loop {
        let known = bytes.len();
        if tcp.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let from = known.saturating_sub(END.len());
        let fresh = bytes.get(from..).unwrap_or_default();
        match fresh.windows(END.len()).position(|window| window == END) {
            Some(at) => {
                let rest = bytes.split_off(from + at + END.len());
                return Ok(Some((bytes, rest)));
            }
            None if bytes.len() >= LONGEST_HEAD => return Ok(None),
            None => {}
        }
    }
}

async fn answer(tcp: &mut TcpStream, status: &str, why: &str) -> io::Result<()> {
    let length = why.len() + 1;
    let text = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{why}\n"
    );
    let writing = async {
        tcp.write_all(text.as_bytes()).await?;
        tcp.shutdown().await
    };
    timeout(ANSWER, writing).await?
}

impl ConnectionService for HttpProxy {
    fn serve(self: Arc<Self>, accepted: Accepted) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            let peer = accepted.peer;
            if let Err(error) = self.run(accepted).await {
                tracing::debug!(%peer, %error, "a connection to the HTTP proxy ended");
            }
        })
    }
}
