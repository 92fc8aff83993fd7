use std::{
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use tokio::net::TcpListener;
use tombolo_proto::v1::identity_server::{Identity as IdentityService, IdentityServer};
use tonic::{Request, Response, Status, transport::Server};

use super::*;
use crate::identity::{
    KeyRequest, Purpose, Secret,
    testing::{FakeCa, FakeSigner, trust},
};

/// Who asked, and with which secret.
type Calls = Arc<Mutex<Vec<(Option<SpiffeId>, String)>>>;

/// What to say instead of signing.
type Answer = Arc<Mutex<Option<Result<v1::SignResponse, Status>>>>;

/// A controller that signs for `shop/checkout`, or says what it was told to.
struct Controller {
    signer: FakeSigner,
    calls: Calls,
    answer: Answer,
}

#[tonic::async_trait]
impl IdentityService for Controller {
    async fn sign(&self, request: Request<v1::SignRequest>) -> Result<Response<v1::SignResponse>, Status> {
        let caller = grpc::peer(&request).unwrap().id.clone();
        let request = request.into_inner();
        self.calls.lock().unwrap().push((caller, request.join_token));
        if let Some(answer) = self.answer.lock().unwrap().clone() {
            return answer.map(Response::new);
        }
        let token = Arc::new(token(&self.signer.ca, Vec::new()));
        let signed = self.signer.sign(&request.csr_der, &Proof::Join(token)).await.unwrap();
        Ok(Response::new(response(&signed)))
    }
}

fn response(signed: &Signed) -> v1::SignResponse {
    v1::SignResponse {
        chain_der: signed.chain.iter().map(|der| der.to_vec().into()).collect(),
        not_after_unix: 0,
        bundle: Some(v1::TrustBundle {
            trust_domain: signed.bundle.trust_domain.to_string(),
            roots_der: signed.bundle.roots.iter().map(|root| root.to_vec().into()).collect(),
            sequence: signed.bundle.sequence,
            refresh_hint_seconds: 0,
        }),
    }
}

fn token(ca: &FakeCa, addresses: Vec<String>) -> Token {
    Token {
        addresses,
        trust_domain: ca.trust_domain().clone(),
        root_sha256: tls::fingerprint(ca.root()),
        secret: Secret::generate().unwrap(),
        expires: UNIX_EPOCH
            + SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
            + Duration::from_secs(3600),
        purpose: Purpose::Join { namespace: "shop".into(), account: "checkout".into() },
    }
}

struct World {
    ca: Arc<FakeCa>,
    address: String,
    calls: Calls,
    answer: Answer,
}

impl World {
    async fn new() -> Self {
        let ca = Arc::new(FakeCa::new("east.example"));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let config = tls::controller_server(ca.controller(), trust(&[&ca]), &["h2"]).unwrap();
        let signer = FakeSigner::new(Arc::clone(&ca), ca.id("shop", "checkout"), Duration::from_secs(3600));
        let (calls, answer) = (Calls::default(), Answer::default());
        let controller = Controller { signer, calls: Arc::clone(&calls), answer: Arc::clone(&answer) };
        let incoming = grpc::incoming(listener, Arc::new(ArcSwap::new(config)));
        let server = Server::builder().add_service(IdentityServer::new(controller));
        tokio::spawn(server.serve_with_incoming(incoming));
        Self { ca, address, calls, answer }
    }

    fn signer(&self) -> GrpcSigner {
        GrpcSigner::controller(self.ca.trust_domain(), vec![self.address.clone()])
    }

    async fn join(&self) -> Result<Signed, SignError> {
        let request = KeyRequest::generate().unwrap();
        self.signer().sign(request.csr_der(), &Proof::Join(Arc::new(token(&self.ca, Vec::new())))).await
    }
}

#[tokio::test]
async fn the_first_certificate_by_token_and_the_next_by_the_first() {
    let world = World::new().await;
    let joining = Arc::new(token(&world.ca, vec![world.address.clone()]));
    let request = KeyRequest::generate().unwrap();
    // The address is the token's own.
    let signer = GrpcSigner::controller(world.ca.trust_domain(), Vec::new());
    let signed = signer.sign(request.csr_der(), &Proof::Join(Arc::clone(&joining))).await.unwrap();
    let credentials = Arc::new(request.with_chain(signed.chain).unwrap());
    let identity = Identity { credentials, bundle: Arc::new(signed.bundle) };

    let request = KeyRequest::generate().unwrap();
    let signed = world.signer().sign(request.csr_der(), &Proof::Current(identity)).await.unwrap();
    assert_eq!(*request.with_chain(signed.chain).unwrap().id(), world.ca.id("shop", "checkout"));

    let expected =
        [(None, joining.secret.reveal().to_string()), (Some(world.ca.id("shop", "checkout")), String::new())];
    assert_eq!(*world.calls.lock().unwrap(), expected);
}

#[tokio::test]
async fn a_token_of_another_root_never_shows_its_secret() {
    let world = World::new().await;
    let other = FakeCa::new("east.example");
    let request = KeyRequest::generate().unwrap();
    let proof = Proof::Join(Arc::new(token(&other, Vec::new())));
    let error = world.signer().sign(request.csr_der(), &proof).await.unwrap_err();
    assert!(matches!(&error, SignError::Away(reason) if reason.contains("UnknownIssuer")), "{error}");
    assert!(world.calls.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_the_controller_says_no_to_is_told_from_what_may_pass() {
    let world = World::new().await;
    let say = async |status: Status| {
        *world.answer.lock().unwrap() = Some(Err(status));
        world.join().await.unwrap_err()
    };
    let refused = say(Status::permission_denied("used already")).await;
    assert!(matches!(&refused, SignError::Refused(reason) if reason.contains("used already")), "{refused}");
    assert!(matches!(say(Status::unavailable("starting")).await, SignError::Away(_)));
    assert!(matches!(say(Status::internal("disk")).await, SignError::Away(_)));
}

#[tokio::test]
async fn answers_that_make_no_sense_are_refused() {
    let world = World::new().await;
    let good = Signed { chain: Vec::new(), bundle: world.ca.bundle() };
    let with = |change: fn(&mut v1::TrustBundle)| {
        let mut answer = response(&good);
        change(answer.bundle.as_mut().unwrap());
        answer
    };
    let none = v1::SignResponse { bundle: None, ..response(&good) };
    for (answer, reason) in [
        (none, "no trust bundle"),
        (with(|bundle| bundle.roots_der.clear()), "1 to 16 roots"),
        (with(|bundle| bundle.roots_der[0] = vec![0].into()), "root 0"),
        (with(|bundle| bundle.trust_domain = "EAST".into()), "trust domain"),
    ] {
        *world.answer.lock().unwrap() = Some(Ok(answer));
        let error = world.join().await.unwrap_err();
        assert!(matches!(&error, SignError::Answer(text) if text.contains(reason)), "{error}");
    }
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_does_not_answer() {
    let world = World::new().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    let addresses = vec![closed.clone(), "not an address".into(), world.address.clone()];
    let request = KeyRequest::generate().unwrap();
    let proof = Proof::Join(Arc::new(token(&world.ca, Vec::new())));
    let signer = GrpcSigner::controller(world.ca.trust_domain(), addresses);
    assert!(signer.sign(request.csr_der(), &proof).await.is_ok());

    let signer = GrpcSigner::controller(world.ca.trust_domain(), vec![closed.clone()]);
    let error = signer.sign(request.csr_der(), &proof).await.unwrap_err();
    assert!(matches!(&error, SignError::Away(reason) if reason.contains(&closed)), "{error}");
}
