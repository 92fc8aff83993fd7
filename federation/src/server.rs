//! What proxies ask of the controller: certificates and registration. Discovery is in [`crate::discovery`].

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tombolo_core::{
    model::{SpiffeId, opaque_sni},
    tls::grpc::{peer, require_id},
};
use tombolo_proto::v1::{
    InboundPort, RegisterRequest, RegisterResponse, SignRequest, SignResponse, identity_server::Identity,
    registry_server::Registry,
};
use tonic::{Request, Response, Status, Streaming};

use crate::{
    discovery::Viewer,
    index::{Event, MAX_OWN_GATEWAYS, MAX_REGISTRATIONS, Name, Refusal, RefusalKind, Registration},
    running::stopped,
    state::State,
};

/// Registrations on one stream within [`RATE_SPAN`]; a caller with more is cut off. A sidecar sends one every five
/// seconds, and one with each change of its health.
const RATE: u32 = 100;
const RATE_SPAN: Duration = Duration::from_secs(10);

/// Both services.
#[derive(Clone, Debug)]
pub struct Services {
    state: Arc<State>,
    /// Registration streams: at the bound one more is refused. A workload may have two while one takes the other's place.
    streams: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Services {
    /// Until `stop` turns true.
    pub fn new(state: Arc<State>, stop: watch::Receiver<bool>) -> Self {
        Self { state, streams: Arc::new(Semaphore::new(MAX_REGISTRATIONS + MAX_OWN_GATEWAYS)), stop }
    }
}

#[tonic::async_trait]
impl Identity for Services {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let caller = peer(&request).and_then(|peer| peer.id.clone());
        let SignRequest { csr_der, join_token } = request.into_inner();
        let state = &self.state;
        let now = SystemTime::now();
        let sign = |id: SpiffeId| {
            let issued = state.ca.sign_csr(&csr_der, &id, state.certificate_life, now).map_err(|error| {
                state.telemetry.bad_input("certificate_request");
                Status::invalid_argument(error.to_string())
            });
            issued.map(|issued| (id, issued))
        };
        let (id, issued) = if join_token.is_empty() {
            sign(own(caller.as_ref(), state)?.clone())?
        } else {
            let _place = state.unproven().ok_or_else(busy)?;
            // A request that is refused does not spend the token.
            let redeemed = state.with_tokens(|tokens| {
                let grant = tokens.join.redeem(&join_token, now).map_err(|error| {
                    state.telemetry.bad_input("token");
                    Status::permission_denied(error.to_string())
                })?;
                let id = SpiffeId::new(state.trust_domain.clone(), &grant.namespace, &grant.account);
                sign(id.map_err(internal)?)
            });
            redeemed.await.map_err(internal)??
        };
        tracing::info!(%id, "signed a certificate");
        let not_after = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Ok(Response::new(SignResponse {
            chain_der: issued.chain.iter().map(|certificate| certificate.to_vec().into()).collect(),
            not_after_unix: i64::try_from(not_after).unwrap_or(i64::MAX),
            bundle: Some(state.own_bundle()),
        }))
    }
}

/// The controller's own failure, e.g. a full disk. Safe to try again.
pub(crate) fn internal(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "a request failed");
    Status::unavailable("the controller failed; its log says how")
}

/// Too many at a time.
pub(crate) fn busy() -> Status {
    Status::resource_exhausted("too many at a time; try again")
}

/// A caller of this cluster's own trust domain.
#[allow(clippy::result_large_err)] // tonic's own error, as its handlers return it.
fn own<'c>(caller: Option<&'c SpiffeId>, state: &State) -> Result<&'c SpiffeId, Status> {
    match caller {
        Some(id) if *id.trust_domain() == state.trust_domain => Ok(id),
        Some(_) => Err(Status::permission_denied("this is for members of this cluster")),
        None => Err(Status::unauthenticated("a join token or a client certificate is needed")),
    }
}

#[tonic::async_trait]
impl Registry for Services {
    type RegisterStream = ReceiverStream<Result<RegisterResponse, Status>>;

    async fn register(
        &self,
        request: Request<Streaming<RegisterRequest>>,
    ) -> Result<Response<Self::RegisterStream>, Status> {
        let id = own(Some(require_id(&request)?), &self.state)?.clone();
        let place = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| busy())?;
        let (sender, receiver) = mpsc::channel(4);
        let state = Arc::clone(&self.state);
        let registering = Registering { session: state.session(), state, id, name: None };
        let mut stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = registering.run(request.into_inner(), sender) => {}
                // Nothing is said of the workload: the controller goes, not it.
                () = stopped(&mut stop) => {}
            }
            drop(place);
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One stream: one workload or gateway.
struct Registering {
    state: Arc<State>,
    id: SpiffeId,
    session: u64,
    name: Option<Name>,
}

impl Registering {
    async fn run(
        mut self,
        mut requests: Streaming<RegisterRequest>,
        responses: mpsc::Sender<Result<RegisterResponse, Status>>,
    ) {
        let (mut since, mut count) = (Instant::now(), 0);
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                () = responses.closed() => break,
            };
            let Ok(Some(request)) = request else { break };
            if since.elapsed() > RATE_SPAN {
                (since, count) = (Instant::now(), 0);
            }
            count += 1;
            if count > RATE {
                self.state.telemetry.bad_input("control_limit");
                // It may be gone.
                let _told = responses.send(Err(busy())).await;
                break;
            }
            let response = self.take(request).map_err(|refusal| {
                tracing::warn!(id = %self.id, %refusal, "a registration is refused");
                status(&refusal)
            });
            let over = response.is_err();
            if responses.send(response).await.is_err() || over {
                break;
            }
        }
        if let Some(name) = self.name {
            self.state.apply(Event::StreamClosed { session: self.session, name });
        }
    }

    fn take(&mut self, request: RegisterRequest) -> Result<RegisterResponse, Refusal> {
        let (event, name, inbound) = if request.gateway_mesh_address.is_empty() {
            let registration = Registration::check(&self.id, request)?;
            let name = registration.name();
            let inbound = registration.ports.iter().map(|(port, _)| InboundPort {
                sni: opaque_sni(&self.state.trust_domain, &registration.namespace, &registration.name, *port),
                port: u32::from(*port),
            });
            let inbound: Vec<InboundPort> = inbound.collect();
            let registration = Arc::new(registration);
            (Event::Registered { session: self.session, registration }, name, inbound)
        } else {
            let (event, name) = self.gateway(&request)?;
            (event, name, Vec::new())
        };
        if self.name.as_ref().is_some_and(|known| *known != name) {
            return Err(Refusal::new(RefusalKind::Malformed, &name, "a stream registers one name only"));
        }
        self.name = Some(name);
        match self.state.apply(event).into_iter().next() {
            Some(refusal) => Err(refusal),
            None => Ok(RegisterResponse {
                lease_seconds: self.state.lease_seconds,
                inbound,
                cluster: self.state.cluster.to_string(),
            }),
        }
    }

    fn gateway(&self, request: &RegisterRequest) -> Result<(Event, Name), Refusal> {
        let object = format!("gateway {:.64}", request.name);
        if !Viewer::of(&self.id).is_gateway {
            let reason = "only an account gateway or gateway-* of namespace tombolo-system is a gateway";
            return Err(Refusal::new(RefusalKind::Identity, object, reason));
        }
        tombolo_core::model::check_dns_label(&request.name)
            .map_err(|error| Refusal::new(RefusalKind::Malformed, &object, error.to_string()))?;
        let address = request.gateway_mesh_address.parse();
        let address = address
            .map_err(|_| Refusal::new(RefusalKind::Malformed, &object, "its address is not IP:PORT"))?;
        let name = Name::new(self.id.namespace(), &request.name);
        let draining = request.health == i32::from(tombolo_proto::v1::Health::Draining);
        let identity = self.id.clone();
        Ok((
            Event::GatewayRegistered {
                session: self.session,
                name: name.clone(),
                identity,
                address,
                draining,
            },
            name,
        ))
    }
}

fn status(refusal: &Refusal) -> Status {
    let text = refusal.to_string();
    match refusal.kind {
        RefusalKind::Malformed => Status::invalid_argument(text),
        RefusalKind::Policy | RefusalKind::Identity | RefusalKind::Address => Status::permission_denied(text),
        RefusalKind::Limit => Status::resource_exhausted(text),
        RefusalKind::Outdated => Status::aborted(text),
    }
}
