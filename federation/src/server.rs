//! What proxies ask of the controller: certificates and registration. Discovery is in [`crate::discovery`].

use std::{sync::Arc, time::SystemTime};

use tokio::sync::mpsc;
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
    ca::DEFAULT_TTL,
    discovery::Viewer,
    index::{Event, Name, Refusal, RefusalKind, Registration},
    running::LEASE_SECONDS,
    state::State,
};

/// Both services.
#[derive(Clone, Debug)]
pub struct Services(pub Arc<State>);

#[tonic::async_trait]
impl Identity for Services {
    async fn sign(&self, request: Request<SignRequest>) -> Result<Response<SignResponse>, Status> {
        let caller = peer(&request).and_then(|peer| peer.id.clone());
        let request = request.into_inner();
        let state = &self.0;
        let now = SystemTime::now();
        let id = if request.join_token.is_empty() {
            own(caller.as_ref(), state)?.clone()
        } else {
            let redeemed = state.with_tokens(|tokens| tokens.join.redeem(&request.join_token, now));
            let grant = redeemed.map_err(internal)?.map_err(|error| {
                state.telemetry.bad_input("token");
                Status::permission_denied(error.to_string())
            })?;
            SpiffeId::new(state.trust_domain.clone(), &grant.namespace, &grant.account).map_err(internal)?
        };
        let issued = state.ca.sign_csr(&request.csr_der, &id, DEFAULT_TTL, now).map_err(|error| {
            state.telemetry.bad_input("certificate");
            Status::invalid_argument(error.to_string())
        })?;
        tracing::info!(%id, "signed a certificate");
        let not_after = issued.not_after.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Ok(Response::new(SignResponse {
            chain_der: issued.chain.iter().map(|certificate| certificate.to_vec().into()).collect(),
            not_after_unix: i64::try_from(not_after).unwrap_or(i64::MAX),
            bundle: Some(state.own_bundle()),
        }))
    }
}

fn internal(error: impl std::fmt::Display) -> Status {
    tracing::error!(%error, "a request failed");
    Status::internal("the controller failed; its log says how")
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
        let id = own(Some(require_id(&request)?), &self.0)?.clone();
        let (sender, receiver) = mpsc::channel(4);
        let registering = Registering { state: self.0.clone(), id, session: self.0.session(), name: None };
        tokio::spawn(registering.run(request.into_inner(), sender));
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
        loop {
            let request = tokio::select! {
                request = requests.message() => request,
                () = responses.closed() => break,
            };
            let Ok(Some(request)) = request else { break };
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
                lease_seconds: LEASE_SECONDS,
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
        RefusalKind::Policy | RefusalKind::Identity => Status::permission_denied(text),
        RefusalKind::Limit => Status::resource_exhausted(text),
        RefusalKind::Outdated => Status::aborted(text),
    }
}
