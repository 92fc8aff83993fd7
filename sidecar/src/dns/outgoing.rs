//! How hickory reaches resolvers: over sockets that bear this process's mark, where it has one.

use std::{io, net::SocketAddr, time::Duration};

use futures::future::{BoxFuture, ready};
use hickory_resolver::net::runtime::{
    RuntimeProvider, TokioHandle, TokioRuntimeProvider, TokioTime, iocompat::AsyncIoTokioAsStd,
};
use tokio::{
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tombolo_core::outgoing;

/// A connection that is not there by then is tried no longer, where hickory names no limit.
const CONNECT: Duration = Duration::from_secs(5);

/// hickory's own runtime, but for its sockets.
#[derive(Clone, Default)]
pub(super) struct Outgoing(TokioRuntimeProvider);

impl RuntimeProvider for Outgoing {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = UdpSocket;
    type Tcp = AsyncIoTokioAsStd<TcpStream>;

    fn create_handle(&self) -> Self::Handle {
        self.0.create_handle()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        bind: Option<SocketAddr>,
        limit: Option<Duration>,
    ) -> BoxFuture<'static, io::Result<Self::Tcp>> {
        let connecting = async move {
            let socket = outgoing::tcp_socket(server)?;
            bind.map_or(Ok(()), |local| socket.bind(local))?;
            socket.set_nodelay(true)?;
            timeout(limit.unwrap_or(CONNECT), socket.connect(server)).await?.map(AsyncIoTokioAsStd)
        };
        Box::pin(connecting)
    }

    fn bind_udp(&self, local: SocketAddr, _: SocketAddr) -> BoxFuture<'static, io::Result<Self::Udp>> {
        Box::pin(ready(outgoing::udp_socket(local)))
    }
}
