//! What workloads and gateways get of a controller.

use std::time::Duration;

use tombolo_core::{
    discovery::type_url,
    identity::{KeyRequest, SignError, Token, testing::FakeCa},
    model::opaque_sni,
};
use tombolo_federation::Bounds;
use tombolo_proto::v1::{
    HandshakeRequest, LinkMessage, SignRequest, identity_client::IdentityClient,
    peering_client::PeeringClient,
};
use tonic::Code;

use crate::kit::*;

const LEDGER: &str = "east.example/bank/ledger-1/8080";

#[tokio::test]
async fn a_workload_joins_registers_and_is_discovered() {
    let east = Cluster::start("east").await;
    east.apply(&documents(&["ledger"], "west")).await;
    let member = east.member("bank", "ledger").await;
    assert_eq!(member.identity.credentials.id().to_string(), "spiffe://east.example/ns/bank/sa/ledger");
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    discovered.endpoints("cluster/bank/ledger", &[]).await;
    let registered = member.register(workload("ledger-1", "ledger")).await;
    let sni = opaque_sni(&east.options.trust_domain, "bank", "ledger-1", 8080);
    assert_eq!((registered.first.cluster.as_str(), registered.first.lease_seconds), ("east", 15));
    assert_eq!(registered.first.inbound.iter().map(|p| (&p.sni, p.port)).collect::<Vec<_>>(), [(&sni, 8080)]);
    let endpoints = discovered.endpoints("cluster/bank/ledger", &[LEDGER]).await;
    assert_eq!((endpoints[0].sni.as_str(), endpoints[0].address.as_str()), (sni.as_str(), "192.0.2.7:15006"));
    registered.drain().await;
    discovered.endpoints("cluster/bank/ledger", &[]).await;
}

#[tokio::test]
async fn a_broken_stream_keeps_the_endpoint_for_its_lease_and_a_restart_for_its_grace() {
    let bounds = Bounds { lease: Duration::from_secs(3), ..Bounds::default() };
    let mut east = Cluster::start_with("east", bounds, Vec::new()).await;
    east.apply(&documents(&["ledger"], "west")).await;
    let member = east.member("bank", "ledger").await;
    drop(member.register(workload("ledger-1", "ledger")).await);
    east.restart().await;
    let mut discovered = member.discover(type_url::ENDPOINT_SET).await;
    discovered.endpoints("cluster/bank/ledger", &[LEDGER]).await;
    // Registered anew, and lost: from now on it is the lease that counts.
    drop(member.register(workload("ledger-1", "ledger")).await);
    let lost = std::time::Instant::now();
    discovered.endpoints("cluster/bank/ledger", &[]).await;
    assert!(lost.elapsed() >= Duration::from_millis(2900), "{:?}", lost.elapsed());
}

#[tokio::test]
async fn certificates_are_renewed_by_the_present_one_and_virtual_addresses_survive() {
    let mut east = Cluster::start("east").await;
    east.apply(&documents(&["ledger"], "west")).await;
    let member = east.member("bank", "ledger").await;
    let key = KeyRequest::generate().unwrap();
    let request = SignRequest { csr_der: key.csr_der().to_vec().into(), join_token: String::new() };
    let answer = IdentityClient::new(member.channel().await).sign(request).await.unwrap().into_inner();
    let chain = answer.chain_der.into_iter().map(|der| der.to_vec().into()).collect();
    assert_eq!(key.with_chain(chain).unwrap().id(), member.identity.credentials.id());
    let vip = async |member: &Member| {
        let mut discovered = member.discover(type_url::SERVICE).await;
        discovered
            .until("the service", |held| {
                let service: tombolo_proto::v1::Service =
                    prost::Message::decode(held.get("clusterset/bank/ledger")?.as_slice()).unwrap();
                Some(service.vip_index)
            })
            .await
    };
    let before = vip(&member).await;
    assert!(before > 0);
    east.restart().await;
    assert_eq!(vip(&member).await, before);
}

fn refused(outcome: Result<Member, SignError>, word: &str) {
    match outcome {
        Err(SignError::Refused(text)) => assert!(text.contains(word), "{text}"),
        Err(other) => panic!("{word}: {other}"),
        Ok(_) => panic!("{word}: it was signed"),
    }
}

#[tokio::test]
async fn join_tokens_that_are_used_revoked_or_made_up_give_no_certificate() {
    let mut east = Cluster::start("east").await;
    let token = east.join_token("bank", "ledger", 1).await;
    // A request that is no request does not spend it.
    let member = east.member("bank", "other").await;
    let request = SignRequest { csr_der: vec![1, 2, 3].into(), join_token: token.secret.reveal().into() };
    let status = IdentityClient::new(member.channel().await).sign(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    east.sign(token.clone()).await.unwrap();
    refused(east.sign(token.clone()).await, "used");
    // Not after a restart either.
    east.restart().await;
    refused(east.sign(token.clone()).await, "used");
    let revoked = east.join_token("bank", "ledger", 5).await;
    let request = tombolo_proto::v1::TokenRevokeRequest { token: revoked.print().unwrap() };
    east.operator().await.token_revoke(request).await.unwrap();
    refused(east.sign(revoked).await, "not known");
    let made_up = Token { secret: tombolo_core::identity::Secret::generate().unwrap(), ..token.clone() };
    refused(east.sign(made_up).await, "not known");
    // A token that pins another root never reaches the controller.
    let tampered = Token { root_sha256: [7; 32], ..east.join_token("bank", "ledger", 1).await };
    assert!(matches!(east.sign(tampered).await, Err(SignError::Away(_))));
}

#[tokio::test]
async fn every_service_asks_for_the_identity_that_it_needs() {
    let east = Cluster::start("east").await;
    let member = east.member("bank", "ledger").await;
    // Of a foreign authority, though it says that it is of this one.
    let forged = FakeCa::new("east.example").credentials("bank", "ledger");
    let outcome = match member.try_channel(forged).await {
        // In TLS 1.3 the client learns of the refusal with its first read.
        Ok(channel) => {
            let request = SignRequest::default();
            IdentityClient::new(channel).sign(request).await.map(|_| ()).map_err(|status| status.code())
        }
        Err(_) => Err(Code::Unavailable),
    };
    assert!(outcome.is_err_and(|code| code != Code::InvalidArgument), "{outcome:?}");
    // A workload is no gateway and no peer.
    let status = member.try_register(gateway("203.0.113.1:15443")).await.err().unwrap();
    assert_eq!(status.code(), Code::PermissionDenied);
    let messages = tokio_stream::iter([LinkMessage::default()]);
    let status = PeeringClient::new(member.channel().await).link(messages).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let status =
        PeeringClient::new(member.channel().await).handshake(HandshakeRequest::default()).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // Bad input ends the stream and nothing else.
    let bad = tombolo_proto::v1::RegisterRequest { name: "No Name".into(), ..workload("a", "b") };
    assert_eq!(member.try_register(bad).await.err().unwrap().code(), Code::InvalidArgument);
    member.register(workload("ledger-1", "ledger")).await;
    // The controller's own identity is not given away.
    let request = tombolo_proto::v1::JoinTokenRequest {
        namespace: "tombolo-system".into(),
        account: "controller".into(),
        ..Default::default()
    };
    let status = east.operator().await.join_token(request).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn only_gateways_get_edge_certificates() {
    let east = Cluster::start("east").await;
    let text =
        "apiVersion: v1\nkind: Secret\nmetadata: { name: cert, namespace: bank }\ntype: kubernetes.io/tls\n";
    let pem = rcgen::generate_simple_self_signed(vec!["shop.example".into()]).unwrap();
    let (certificate, key) = (pem.cert.pem(), pem.signing_key.serialize_pem());
    let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<String>();
    let data = format!("stringData:\n  tls.crt: |\n{}  tls.key: |\n{}", indent(&certificate), indent(&key));
    east.apply(&format!("{text}{data}")).await;
    let gateway = east.member("tombolo-system", "gateway").await;
    let mut discovered = gateway.discover(type_url::EDGE_CERTIFICATE).await;
    discovered.until("the certificate", |held| held.contains_key("bank/cert").then_some(())).await;
    let sidecar = east.member("bank", "ledger").await;
    let mut discovered = sidecar.discover(type_url::EDGE_CERTIFICATE).await;
    discovered.until("an empty answer", |held| held.is_empty().then_some(())).await;
    let mut documents = sidecar.discover(type_url::CONFIG_DOCUMENT).await;
    // The first answer is whole: there is no Secret in it.
    east.apply("apiVersion: v1\nkind: Namespace\nmetadata: { name: bank }\n").await;
    let names = documents.until("the documents", |held| {
        held.contains_key("/Namespace//bank").then(|| held.keys().cloned().collect::<Vec<_>>())
    });
    assert_eq!(names.await, ["/Namespace//bank"]);
}
