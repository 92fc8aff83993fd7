use futures::StreamExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::{
    identity::testing::{FakeCa, trust},
    tls::{self, Expected},
};

/// Longer than anything here takes, shorter than a handshake may.
const BOUND: Duration = Duration::from_secs(8);

struct World {
    ca: FakeCa,
    address: SocketAddr,
    incoming: Incoming,
    config: Arc<ArcSwap<ServerConfig>>,
}

impl World {
    async fn new() -> Self {
        let ca = FakeCa::new("east.example");
        let config = tls::controller_server(ca.controller(), trust(&[&ca]), &["h2"]).unwrap();
        let config = Arc::new(ArcSwap::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let incoming = incoming(listener, Arc::clone(&config));
        Self { ca, address, incoming, config }
    }

    /// A client of the workload `account`, connecting.
    async fn dial(&self, account: &str) -> io::Result<TokioIo<client::TlsStream<TcpStream>>> {
        let anyone = Expected::AnyOf(self.ca.trust_domain().clone());
        let own = self.ca.credentials("shop", account);
        let config = tls::mesh_client(own, trust(&[&self.ca]), anyone, &["h2"]).unwrap();
        Connector::new(config).call(format!("http://{}", self.address).parse().unwrap()).await
    }

    async fn next(&mut self) -> PeerStream {
        timeout(BOUND, self.incoming.next()).await.unwrap().unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_connection_knows_who_is_at_its_other_end() {
    let mut world = World::new().await;
    let client = world.dial("checkout").await.unwrap().into_inner();
    let stream = world.next().await;
    let address = client.get_ref().0.local_addr().unwrap();
    assert_eq!(stream.connect_info(), Peer { id: Some(world.ca.id("shop", "checkout")), address });
}

#[tokio::test]
async fn who_says_nothing_or_nonsense_holds_up_nobody() {
    let mut world = World::new().await;
    let _silent = TcpStream::connect(world.address).await.unwrap();
    let mut loud = TcpStream::connect(world.address).await.unwrap();
    loud.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let _client = world.dial("checkout").await.unwrap();
    assert_eq!(world.next().await.connect_info().id, Some(world.ca.id("shop", "checkout")));
    // The one that spoke plaintext gets an alert at most, and is closed.
    let mut answer = Vec::new();
    let read = timeout(BOUND, loud.read_to_end(&mut answer)).await.unwrap();
    assert!(read.is_err() || answer.len() <= 7, "{answer:?}");
}

#[tokio::test]
async fn a_new_configuration_counts_from_the_next_connection_on() {
    let mut world = World::new().await;
    let west = FakeCa::new("west.example");
    let config = tls::mesh_server(west.controller(), trust(&[&west]), &["h2"]).unwrap();
    let _client = world.dial("checkout").await.unwrap();
    world.next().await;
    world.config.store(config);
    let error = world.dial("checkout").await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
}

#[tokio::test]
async fn accepting_stops_when_nobody_takes_connections_any_more() {
    let World { address, incoming, .. } = World::new().await;
    drop(incoming);
    let closed = async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    timeout(BOUND, closed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_speak_is_closed_when_its_time_is_over() {
    let world = World::new().await;
    let started = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(world.address).await.unwrap();
    let read = timeout(10 * HANDSHAKE_TIMEOUT, silent.read_to_end(&mut Vec::new())).await;
    assert_eq!(read.expect("not closed").unwrap(), 0);
    assert_eq!(started.elapsed().as_secs(), HANDSHAKE_TIMEOUT.as_secs());
}

#[test]
fn without_a_certificate_there_is_no_id() {
    let mut request = Request::new(());
    assert_eq!(require_id(&request).unwrap_err().code(), tonic::Code::Unauthenticated);
    let address = ([127, 0, 0, 1], 1).into();
    request.extensions_mut().insert(Peer { id: None, address });
    assert_eq!(require_id(&request).unwrap_err().code(), tonic::Code::Unauthenticated);
    let id = FakeCa::new("east.example").id("shop", "checkout");
    request.extensions_mut().insert(Peer { id: Some(id.clone()), address });
    assert_eq!(require_id(&request).unwrap(), &id);
}
