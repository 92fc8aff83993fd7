//! Certificates that a controller orders for its gateways, from a real authority: one orders, any answers, all get them.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)]
#[path = "../../gateway/src/tests/acme/pebble.rs"]
mod pebble;
mod world;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use pebble::{Pebble, Setup, Zone};
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tombolo_core::decide::BindKey;
use world::{Cluster, Proxy, soon};

const GATEWAY: &str = "apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: tombolo}
spec: {controllerName: tombolo.dev/gateway-controller}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, annotations: {tombolo.dev/acme-issuer: pebble}}
spec:
  gatewayClassName: tombolo
  listeners:
    - {name: web, protocol: HTTP, port: 80}
    - {name: secure, protocol: HTTPS, port: 443, hostname: shop.example, tls: {certificateRefs: [{name: shop-tls}]}}
---
";

fn address(gateway: &Proxy<tombolo_gateway::Running>, port: u16) -> SocketAddr {
    gateway.running.listeners()[&BindKey { address: None, port }]
}

/// The certificate that is served, by whomever; none while there is none.
async fn served(to: SocketAddr) -> Option<CertificateDer<'static>> {
    let config = rustls::ClientConfig::builder_with_provider(tombolo_core::tls::provider())
        .with_safe_default_protocol_versions()
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(pebble::Anything))
        .with_no_client_auth();
    let tcp = TcpStream::connect(to).await.unwrap();
    let name = ServerName::try_from("shop.example").unwrap();
    let tls = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.ok()?;
    tls.get_ref().1.peer_certificates()?.first().cloned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_orders_any_gateway_answers_and_all_serve() {
    let east = Cluster::start("east").await;
    east.apply(GATEWAY).await;
    let (one, two) = (east.gateway_named("one").await, east.gateway_named("two").await);
    let zone = Zone::default();
    let dns = zone.serve().await;
    // The authority comes in at one of them, which is not asked whether it has ordered.
    let ports = (address(&two, 80).port(), address(&two, 443).port());
    let pebble = Pebble::start(Setup { ports, dns, validity: 3600, external: None }).await;
    east.apply(&pebble.issuer("")).await;
    let issued = async {
        loop {
            let both = (served(address(&one, 443)).await, served(address(&two, 443)).await);
            if let (Some(first), Some(second)) = both {
                break (first, second);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let (first, second) = tokio::time::timeout(Duration::from_secs(60), issued)
        .await
        .unwrap_or_else(|_| panic!("no certificate: {}", pebble.log()));
    assert_eq!(first, second, "both serve the same one");
    assert_eq!(pebble.issued(), 1, "it was ordered once");
    let shown = east.documents("acmeissuers").await;
    assert_eq!(shown[0]["status"]["certificates"][0]["secret"], "shop/shop-tls", "{shown:#?}");
    let conditions = shown[0]["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"), "{shown:#?}");
    let late = soon("a third gateway", east.gateway_named("three")).await;
    assert_eq!(served(address(&late, 443)).await, Some(first), "a new one gets it too");
}
