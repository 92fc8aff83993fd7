//! The listeners, and their end: when the controller stops, every connection does.

use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, UnixListener},
    sync::watch,
};
use tokio_stream::{Stream, StreamExt, wrappers::UnixListenerStream};
use tombolo_core::tls::grpc;
use tombolo_proto::{
    v1::{
        identity_server::IdentityServer, operator_server::OperatorServer, peering_server::PeeringServer,
        quota_server::QuotaServer, registry_server::RegistryServer, traffic_server::TrafficServer,
    },
    xds::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer,
};
use tonic::transport::{
    Server,
    server::{Connected, Router},
};

use super::{StartError, stopped};
use crate::{
    discovery::DeltaServer, operator::OperatorService, peering, peering::Peering, quota::Quota,
    server::Services, state::State, traffic::Traffic,
};

/// A link with nothing to say is asked this often whether it is still there, and is dead when it does not answer.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Streams of one connection at a time.
const MAX_STREAMS: u32 = 64;
/// A request for a signature or a registration may be this large.
const MAX_SMALL_MESSAGE: usize = 256 << 10;
/// A request for discovery may be this large: it lists all that a proxy holds when it comes back.
const MAX_DISCOVERY_MESSAGE: usize = 16 << 20;
/// What a proxy says of traffic may be this large: it keeps 2 MiB of samples at most.
const MAX_TRAFFIC_MESSAGE: usize = 8 << 20;
/// What an operator sends or gets may be this large.
const MAX_OPERATOR_MESSAGE: usize = 64 << 20;

/// Serves proxies and peers until `stop`.
pub(super) fn mesh(
    state: &Arc<State>,
    listener: TcpListener,
    (discovery, peering, traffic, quota): (&DeltaServer, &Peering, &Traffic, Quota),
    stop: watch::Receiver<bool>,
) {
    let services = Services::new(Arc::clone(state), stop.clone());
    let discovery = AggregatedDiscoveryServiceServer::new(discovery.clone())
        .max_decoding_message_size(MAX_DISCOVERY_MESSAGE);
    let peering = PeeringServer::new(peering.clone()).max_decoding_message_size(peering::MAX_MESSAGE);
    let identity = IdentityServer::new(services.clone()).max_decoding_message_size(MAX_SMALL_MESSAGE);
    let registry = RegistryServer::new(services).max_decoding_message_size(MAX_SMALL_MESSAGE);
    let traffic = TrafficServer::new(traffic.clone()).max_decoding_message_size(MAX_TRAFFIC_MESSAGE);
    let router = Server::builder()
        .http2_keepalive_interval(Some(KEEP_ALIVE))
        .http2_keepalive_timeout(Some(KEEP_ALIVE))
        .max_concurrent_streams(MAX_STREAMS)
        .add_service(identity)
        .add_service(registry)
        .add_service(discovery)
        .add_service(peering)
        .add_service(traffic)
        .add_service(QuotaServer::new(quota).max_decoding_message_size(MAX_SMALL_MESSAGE));
    // Who waits for the end of all can listen there again.
    let incoming = grpc::incoming_for(listener, state.server_config(), Arc::clone(state));
    tokio::spawn(serve("the mesh", router, incoming, stop));
}

/// Serves operators on the socket until `stop`.
pub(super) fn operators(
    state_dir: &Path,
    operator: OperatorService,
    stop: watch::Receiver<bool>,
) -> Result<PathBuf, StartError> {
    use std::os::unix::fs::PermissionsExt;
    let path = state_dir.join("controller.sock");
    let failed = |source| StartError::Bind {
        what: "the operators' socket",
        place: path.display().to_string(),
        source,
    };
    // Left by a process that was killed. The store's lock tells that no other controller runs on this directory.
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The directory is for its owner alone (0700), so that there is no moment in which others could connect.
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    let service = OperatorServer::new(operator)
        .max_decoding_message_size(MAX_OPERATOR_MESSAGE)
        .max_encoding_message_size(MAX_OPERATOR_MESSAGE);
    let router = Server::builder().add_service(service);
    tokio::spawn(serve("operators", router, UnixListenerStream::new(listener), stop));
    Ok(path)
}

async fn serve<T>(
    whom: &'static str,
    router: Router,
    incoming: impl Stream<Item = io::Result<T>>,
    mut stop: watch::Receiver<bool>,
) where
    T: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let stopping = stop.clone();
    let incoming = incoming.map(|accepted| accepted.map(|inner| Stopping::new(inner, stopping.clone())));
    tokio::select! {
        outcome = router.serve_with_incoming(incoming) => if let Err(error) = outcome {
            tracing::error!(%error, whom, "is not served any more");
        },
        () = stopped(&mut stop) => {}
    }
}

/// A connection that ends when the controller stops. Streams may last for ever, so nothing waits for theirs.
struct Stopping<T> {
    inner: T,
    stopped: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<T> Stopping<T> {
    fn new(inner: T, mut stop: watch::Receiver<bool>) -> Self {
        Self { inner, stopped: Box::pin(async move { stopped(&mut stop).await }) }
    }
}

impl<T: Connected> Connected for Stopping<T> {
    type ConnectInfo = T::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.inner.connect_info()
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Stopping<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stopped.as_mut().poll(context).is_ready() {
            // Ready once only.
            self.stopped = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Stopping<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}
