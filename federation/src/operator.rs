//! What operators ask, over the Unix socket.

mod generations;
mod preview;
mod services;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tombolo_core::{
    identity::{Purpose, Token},
    resources::ObjectStatus,
};
use tombolo_proto::v1::{
    AcknowledgedRequest, AcknowledgedResponse, ApplyRequest, ApplyResponse, DeleteRequest, DiffRequest,
    DiffResponse, GetRequest, GetResponse, HistoryRequest, HistoryResponse, JoinTokenRequest,
    PeerForgetRequest, PeerForgetResponse, PeerJoinRequest, PeerJoinResponse, PeerRevokeRequest,
    PeerRevokeResponse, PeerShowRequest, PeerTokenRequest, PreviewResponse, RollbackRequest, RotateRequest,
    StatusRequest, StatusResponse, TokenResponse, TokenRevokeRequest, TokenRevokeResponse,
    operator_server::Operator,
};
use tonic::{Request, Response, Status};

use crate::{
    ca::{DEFAULT_LEAD, JoinGrant, MAX_LEAD},
    discovery::{Acknowledged, DeltaServer},
    peering::Peering,
    state::State,
    status::{self, peers},
    traffic::Traffic,
};

/// How long tokens are good for where the operator does not say.
const JOIN_TTL: u32 = 3600;
const PEER_TTL: u32 = 900;

/// How long proxies have to take a configuration over, where the operator does not say, and at most.
const ACKNOWLEDGED: Duration = Duration::from_secs(10);
const ACKNOWLEDGED_MOST: Duration = Duration::from_secs(60);

/// The service.
#[derive(Clone, Debug)]
pub struct OperatorService {
    /// What is shared.
    pub state: Arc<State>,
    /// For joining peers.
    pub peering: Peering,
    /// For its counters.
    pub discovery: DeltaServer,
    /// Who can be asked of traffic.
    pub traffic: Traffic,
}

fn refused(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

fn internal(error: impl std::fmt::Display) -> Status {
    Status::internal(error.to_string())
}

impl OperatorService {
    #[allow(clippy::result_large_err)] // tonic's own error, as its handlers return it.
    fn token(
        &self,
        purpose: Purpose,
        issued: (tombolo_core::identity::Secret, SystemTime),
    ) -> Result<String, Status> {
        let (secret, expires) = issued;
        let token = Token {
            addresses: self.state.addresses.clone(),
            trust_domain: self.state.trust_domain.clone(),
            root_sha256: self.state.ca.root_sha256(),
            secret,
            expires,
            purpose,
        };
        token.print().map_err(internal)
    }
}

#[tonic::async_trait]
impl Operator for OperatorService {
    async fn apply(&self, request: Request<ApplyRequest>) -> Result<Response<ApplyResponse>, Status> {
        generations::apply(&self.state, request.into_inner()).await.map(Response::new)
    }

    async fn delete(&self, request: Request<DeleteRequest>) -> Result<Response<ApplyResponse>, Status> {
        generations::delete(&self.state, request.into_inner()).await.map(Response::new)
    }

    async fn rollback(&self, request: Request<RollbackRequest>) -> Result<Response<ApplyResponse>, Status> {
        generations::roll_back(&self.state, request.into_inner()).await.map(Response::new)
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryResponse>, Status> {
        generations::history(&self.state, request.into_inner()).await.map(Response::new)
    }

    async fn diff(&self, request: Request<DiffRequest>) -> Result<Response<DiffResponse>, Status> {
        generations::diff(&self.state, request.into_inner()).await.map(Response::new)
    }

    async fn preview(&self, request: Request<ApplyRequest>) -> Result<Response<PreviewResponse>, Status> {
        preview::preview(self, request.into_inner()).await.map(Response::new)
    }

    async fn get(&self, request: Request<GetRequest>) -> Result<Response<GetResponse>, Status> {
        let GetRequest { kind, namespace, name } = request.into_inner();
        let documents = self.state.documents();
        let generation = documents.generation().number;
        let documents_json = match kind.to_ascii_lowercase().as_str() {
            "endpoints" | "endpointsets" => self.endpoints(&namespace, &name),
            "serviceimport" | "serviceimports" | "svcim" => services::imports(&self.state, &namespace, &name),
            _ => self.with_status(documents.get(&kind, &namespace, &name)),
        };
        Ok(Response::new(GetResponse { documents_json, generation }))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let json = status::status(&self.state, &self.discovery).to_string();
        Ok(Response::new(StatusResponse { json }))
    }

    async fn acknowledged(
        &self,
        request: Request<AcknowledgedRequest>,
    ) -> Result<Response<AcknowledgedResponse>, Status> {
        let limit = match request.into_inner().timeout_millis {
            0 => ACKNOWLEDGED,
            millis => Duration::from_millis(u64::from(millis)).min(ACKNOWLEDGED_MOST),
        };
        let generation = self.state.documents().generation().number;
        let report = self.discovery.acknowledged(limit).await;
        let proxies = u32::try_from(report.proxies).unwrap_or(u32::MAX);
        let Acknowledged { waiting, refused, .. } = report;
        Ok(Response::new(AcknowledgedResponse { generation, proxies, waiting, refused }))
    }

    async fn join_token(
        &self,
        request: Request<JoinTokenRequest>,
    ) -> Result<Response<TokenResponse>, Status> {
        let JoinTokenRequest { namespace, account, ttl_seconds, uses } = request.into_inner();
        if namespace == "tombolo-system" && account == "controller" {
            return Err(Status::permission_denied("the controller's own identity is not given away"));
        }
        let grant = JoinGrant::new(&namespace, &account).map_err(refused)?;
        let ttl = Duration::from_secs(u64::from(if ttl_seconds == 0 { JOIN_TTL } else { ttl_seconds }));
        let now = SystemTime::now();
        let issued = self.state.with_tokens(|tokens| tokens.join.issue(grant, ttl, uses.max(1), now));
        let issued = issued.await.map_err(internal)?.map_err(refused)?;
        let token = self.token(Purpose::Join { namespace, account }, issued)?;
        Ok(Response::new(TokenResponse { token }))
    }

    async fn peer_token(
        &self,
        request: Request<PeerTokenRequest>,
    ) -> Result<Response<TokenResponse>, Status> {
        let PeerTokenRequest { ttl_seconds, uses } = request.into_inner();
        let ttl = Duration::from_secs(u64::from(if ttl_seconds == 0 { PEER_TTL } else { ttl_seconds }));
        let now = SystemTime::now();
        let issued = self.state.with_tokens(|tokens| tokens.peer.issue((), ttl, uses.max(1), now));
        let issued = issued.await.map_err(internal)?.map_err(refused)?;
        let token = self.token(Purpose::Peer { cluster: self.state.cluster.to_string() }, issued)?;
        Ok(Response::new(TokenResponse { token }))
    }

    async fn peer_join(
        &self,
        request: Request<PeerJoinRequest>,
    ) -> Result<Response<PeerJoinResponse>, Status> {
        let (cluster, trust_domain) =
            self.peering.join(&request.into_inner().token).await.map_err(refused)?;
        Ok(Response::new(PeerJoinResponse { cluster, trust_domain }))
    }

    async fn peer_revoke(
        &self,
        request: Request<PeerRevokeRequest>,
    ) -> Result<Response<PeerRevokeResponse>, Status> {
        self.peering.revoke(&request.into_inner().cluster).await?;
        Ok(Response::new(PeerRevokeResponse {}))
    }

    async fn peer_forget(
        &self,
        request: Request<PeerForgetRequest>,
    ) -> Result<Response<PeerForgetResponse>, Status> {
        let PeerForgetRequest { cluster, untold } = request.into_inner();
        self.peering.forget(&cluster, untold).await.map_err(Status::failed_precondition)?;
        Ok(Response::new(PeerForgetResponse {}))
    }

    async fn peer_show(&self, request: Request<PeerShowRequest>) -> Result<Response<StatusResponse>, Status> {
        let cluster = request.into_inner().cluster;
        let shown = peers::show(&self.state, &cluster);
        let json = shown.ok_or_else(|| Status::not_found(format!("there is no peer {cluster:.64}")))?;
        Ok(Response::new(StatusResponse { json: json.to_string() }))
    }

    async fn rotate(&self, request: Request<RotateRequest>) -> Result<Response<StatusResponse>, Status> {
        let RotateRequest { lead_seconds, next_pem } = request.into_inner();
        let lead = match lead_seconds {
            0 => DEFAULT_LEAD,
            seconds => Duration::from_secs(seconds.into()),
        };
        if lead > MAX_LEAD {
            return Err(refused("a lead time is 30 days at most"));
        }
        let state = Arc::clone(&self.state);
        let begin = move || state.ca.begin(lead, Some(&*next_pem).filter(|pem| !pem.is_empty()));
        let begun = tokio::task::spawn_blocking(begin).await.map_err(internal)?;
        begun.map_err(|error| Status::failed_precondition(error.to_string()))?;
        self.state.bundle_changed();
        let shown = status::authority(&self.state, &self.discovery);
        Ok(Response::new(StatusResponse { json: shown.to_string() }))
    }

    async fn token_revoke(
        &self,
        request: Request<TokenRevokeRequest>,
    ) -> Result<Response<TokenRevokeResponse>, Status> {
        let token = Token::parse(request.into_inner().token.trim()).map_err(refused)?;
        let revoked = self.state.with_tokens(|tokens| match token.purpose {
            Purpose::Join { .. } => tokens.join.revoke(&token.secret),
            Purpose::Peer { .. } => tokens.peer.revoke(&token.secret),
        });
        revoked.await.map_err(internal)?.map_err(refused)?;
        Ok(Response::new(TokenRevokeResponse {}))
    }
}

impl OperatorService {
    /// AcmeIssuers and ServiceExports with how they are: only who orders them, or tells peers of them, knows.
    fn with_status(&self, documents: Vec<String>) -> Vec<String> {
        let mut documents = services::with_conditions(&self.state, documents);
        let is_issuer = |tree: &serde_json::Value| tree["kind"] == "AcmeIssuer";
        let mut status = None;
        for document in documents.iter_mut().filter(|text| text.contains("\"AcmeIssuer\"")) {
            let Ok(mut tree) = serde_json::from_str::<serde_json::Value>(document) else { continue };
            let resources = || self.state.documents().resources().clone();
            let all = status.get_or_insert_with(|| self.state.ordered.status(resources()));
            let same = |told: &&ObjectStatus| {
                let metadata = &tree["metadata"];
                metadata["namespace"] == *told.metadata.namespace && metadata["name"] == *told.metadata.name
            };
            if let Some(told) = all.iter().find(same).filter(|_| is_issuer(&tree)) {
                tree["status"] = serde_json::Value::clone(&told.status);
                *document = tree.to_string();
            }
        }
        documents
    }

    fn endpoints(&self, namespace: &str, name: &str) -> Vec<String> {
        let json = |set: &tombolo_proto::v1::EndpointSet| {
            let scope = if set.scope == 1 { "cluster" } else { "clusterset" };
            let endpoint = |e: &tombolo_proto::v1::Endpoint| {
                serde_json::json!({
                    "id": e.id, "address": e.address, "via": e.via, "cluster": e.cluster, "identity": e.spiffe_id,
                    "labels": e.labels, "weight": e.weight, "stale": e.stale, "exported": e.exported,
                    "health": tombolo_proto::v1::Health::try_from(e.health).map_or("", |h| h.as_str_name()),
                })
            };
            let summary = |s: &tombolo_proto::v1::Summary| {
                let place = s.locality.clone().unwrap_or_default();
                serde_json::json!({
                    "cluster": s.cluster, "region": place.region, "zone": place.zone, "healthy": s.healthy,
                    "total": s.total, "healthyWeight": s.healthy_weight, "totalWeight": s.total_weight,
                    "capacity": s.capacity,
                })
            };
            let port = |p: &tombolo_proto::v1::EndpointList| {
                serde_json::json!({
                    "port": p.port,
                    "endpoints": p.endpoints.iter().map(endpoint).collect::<Vec<_>>(),
                    "summaries": p.summaries.iter().map(summary).collect::<Vec<_>>(),
                })
            };
            serde_json::json!({
                "kind": "Endpoints",
                "metadata": { "namespace": set.namespace, "name": set.name },
                "scope": scope,
                "ports": set.ports.iter().map(port).collect::<Vec<_>>(),
            })
            .to_string()
        };
        self.state.with_index(|index| {
            let fits = |key: &str| {
                let mut parts = key.split('/').skip(1);
                [namespace, name].into_iter().all(|wanted| {
                    let part = parts.next();
                    wanted.is_empty() || part == Some(wanted)
                })
            };
            let wanted = index.endpoint_sets().filter(|(key, _)| fits(key));
            wanted.filter_map(|(key, _)| index.endpoint_set(key)).map(|set| json(&set)).collect()
        })
    }
}
