use std::{net::SocketAddr, pin::Pin, sync::Mutex};

use futures::Stream;
use tokio::{net::TcpListener, task::AbortHandle};
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tombolo_proto::v1::{
    InboundPort,
    registry_server::{Registry, RegistryServer},
};
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Endpoint, Server},
};

use super::*;

const SOON: Duration = Duration::from_secs(5);
const SNI: &str = "8eeafcedbe74ecca963c12d79622c792.t";

/// Answers every request with what it was told to answer.
#[derive(Clone)]
struct Controller {
    answer: Arc<Mutex<RegisterResponse>>,
    seen: mpsc::UnboundedSender<RegisterRequest>,
}

#[tonic::async_trait]
impl Registry for Controller {
    type RegisterStream = Pin<Box<dyn Stream<Item = Result<RegisterResponse, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let this = self.clone();
        let answers = request.into_inner().map(move |request| {
            this.seen.send(request?).unwrap();
            Ok(this.answer.lock().unwrap().clone())
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// A controller, a process that registers with it, and what the controller sees of it.
struct World {
    controller: Controller,
    seen: mpsc::UnboundedReceiver<RegisterRequest>,
    address: SocketAddr,
    server: AbortHandle,
    health: watch::Sender<Health>,
    state: tempfile::TempDir,
}

fn answer(cluster: &str, sni: &str) -> RegisterResponse {
    RegisterResponse {
        lease_seconds: 3,
        inbound: vec![InboundPort { sni: sni.into(), port: 8080 }],
        cluster: cluster.into(),
    }
}

impl World {
    async fn new() -> Self {
        let (sender, seen) = mpsc::unbounded_channel();
        let controller = Controller { answer: Arc::new(Mutex::new(answer("east", SNI))), seen: sender };
        let (address, server) = serve(controller.clone(), "127.0.0.1:0".parse().unwrap()).await;
        let health = watch::channel(Health::Healthy).0;
        Self { controller, seen, address, server, health, state: tempfile::tempdir().unwrap() }
    }

    fn register(&self) -> Registration {
        let address = self.address;
        Registration::start(RegistrationParts {
            connect: Arc::new(move || {
                Box::pin(async move {
                    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
                    endpoint.connect().await.map_err(|error| error.to_string())
                })
            }),
            request: RegisterRequest { name: "checkout-1".into(), ..Default::default() },
            health: self.health.subscribe(),
            state_dir: self.state.path().to_owned(),
        })
    }

    async fn sees(&mut self) -> Health {
        let request = timeout(SOON, self.seen.recv()).await.expect("a request").unwrap();
        assert_eq!(request.name, "checkout-1");
        request.health()
    }
}

async fn serve(controller: Controller, address: SocketAddr) -> (SocketAddr, AbortHandle) {
    let listener = TcpListener::from_std({
        let listener = crate::proxy::bind(address).unwrap();
        listener.into_std().unwrap()
    })
    .unwrap();
    let address = listener.local_addr().unwrap();
    let serving = Server::builder()
        .add_service(RegistryServer::new(controller))
        .serve_with_incoming(TcpListenerStream::new(listener));
    (address, tokio::spawn(async move { serving.await.unwrap() }).abort_handle())
}

#[tokio::test]
async fn registers_and_goes_on_within_the_lease() {
    let mut world = World::new().await;
    let mut registration = world.register();
    let registered = timeout(SOON, registration.registered()).await.unwrap();
    assert_eq!(registered.cluster, "east");
    assert_eq!(registered.inbound.get(SNI), Some(&8080));
    for _ in 0..3 {
        assert_eq!(world.sees().await, Health::Healthy);
    }
}

#[tokio::test]
async fn tells_a_change_of_health_at_once_and_says_good_bye() {
    let mut world = World::new().await;
    world.controller.answer.lock().unwrap().lease_seconds = 3600;
    let mut registration = world.register();
    timeout(SOON, registration.registered()).await.unwrap();
    assert_eq!(world.sees().await, Health::Healthy);
    world.health.send_replace(Health::Unhealthy);
    assert_eq!(world.sees().await, Health::Unhealthy);
    assert!(registration.withdraw(SOON).await, "the controller has taken note");
    assert_eq!(world.sees().await, Health::Draining);
}

#[tokio::test]
async fn registers_again_when_the_controller_comes_back() {
    let mut world = World::new().await;
    let mut registration = world.register();
    timeout(SOON, registration.registered()).await.unwrap();
    world.server.abort();
    // A listener of the aborted server may live for a moment longer.
    let again = async {
        loop {
            if crate::proxy::bind(world.address).is_ok() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, again).await.unwrap();
    while world.seen.try_recv().is_ok() {}
    let (_, _server) = serve(world.controller.clone(), world.address).await;
    assert_eq!(world.sees().await, Health::Healthy);
}

#[tokio::test]
async fn what_was_said_outlives_the_process_and_its_controller() {
    let world = World::new().await;
    let first = timeout(SOON, world.register().registered()).await.unwrap();
    world.server.abort();
    let second = timeout(SOON, world.register().registered()).await.unwrap();
    assert_eq!(first, second);
    assert!(world.register().withdraw(SOON).await, "with nobody to tell there is nothing to wait for");
}

#[tokio::test]
async fn an_answer_that_is_not_valid_changes_nothing() {
    let mut world = World::new().await;
    let mut registration = world.register();
    let good = timeout(SOON, registration.registered()).await.unwrap();
    for bad in [answer("", SNI), answer("East!", SNI), answer("west", "checkout.shop"), {
        let mut zero = answer("west", SNI);
        zero.inbound[0].port = 0;
        zero
    }] {
        while world.seen.try_recv().is_ok() {}
        *world.controller.answer.lock().unwrap() = bad;
        world.sees().await;
        world.sees().await;
        assert_eq!(registration.registered().await, good);
    }
    *world.controller.answer.lock().unwrap() = answer("west", SNI);
    let mut watch = registration.watch();
    let changed = watch.wait_for(|r| r.as_ref().is_some_and(|r| r.cluster == "west"));
    timeout(SOON, changed).await.unwrap().unwrap();
}
