//! A gateway behind proxies and balancers, by the flags and annotations that say what these are believed.

use tokio::{io::AsyncReadExt, net::TcpStream};

use super::{
    client::get,
    wire::{head, say, soon},
    world::World,
};

const DOCUMENTS: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata:
  name: balanced
  namespace: gateway-conformance-infra
  annotations: { tombolo.dev/proxy-protocol: any, tombolo.dev/proxy-protocol-from: 127.0.0.0/8 }
spec:
  gatewayClassName: tombolo
  addresses: [{ type: IPAddress, value: 127.0.0.35 }]
  listeners: [{ name: web, port: 8090, protocol: HTTP }]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: fronted, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace }, { name: balanced }]
  rules: [{ backendRefs: [{ name: infra-backend-v1, port: 8080 }] }]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_field_that_trusted_proxies_write_is_believed() {
    let world = World::stage().await;
    world.write("scenario", DOCUMENTS);
    let forwarded = ("forwarded", "for=6.6.6.6, for=192.0.2.7;proto=https;host=shop.example");
    let x = [("x-forwarded-for", "6.6.6.6, 192.0.2.8"), ("x-forwarded-proto", "https")];
    for (flags, chain, proto) in [
        (
            &["--trusted-hops", "1", "--trusted-field", "forwarded"][..],
            "6.6.6.6, 192.0.2.7, 127.0.0.1",
            "https",
        ),
        (&["--trusted-hops", "1"][..], "6.6.6.6, 192.0.2.8, 127.0.0.1", "https"),
        (&[][..], "127.0.0.1", "http"),
    ] {
        let _gateway = world.start(flags);
        let to = world.address("same-namespace", 80);
        let ask =
            [forwarded].iter().chain(&x).fold(get("x", "/"), |ask, (name, value)| ask.header(name, value));
        let echo = world.reaches(to, &ask, "infra-backend-v1").await.echo.unwrap();
        assert_eq!(echo.header("x-forwarded-for").as_deref(), Some(chain), "{flags:?}");
        assert_eq!(echo.header("x-forwarded-proto").as_deref(), Some(proto), "{flags:?}");
        assert_eq!(echo.header("forwarded"), None, "{flags:?}");
    }
}

/// A connection through a balancer for this client, with a request that was answered; none: it was closed.
async fn through_balancer(to: std::net::SocketAddr, client: &str) -> Option<TcpStream> {
    let mut tcp = soon("a connection", TcpStream::connect(to)).await.unwrap();
    say(&mut tcp, &format!("PROXY TCP4 {client} 10.0.0.9 4242 80\r\nGET / HTTP/1.1\r\nhost: x\r\n\r\n"))
        .await;
    let mut first = [0];
    if !matches!(soon("an answer or an end", tcp.read(&mut first)).await, Ok(1)) {
        return None;
    }
    let head = head(&mut tcp).await;
    assert!(head.starts_with("ttp/1.1 200 "), "{head}");
    Some(tcp)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_balancers_clients_have_each_their_own_bound_of_connections() {
    let world = World::stage().await;
    world.write("scenario", DOCUMENTS);
    let _gateway = world.start(&["--max-connections-per-client", "2"]);
    let to = world.address("balanced", 8090);
    let mut held = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1", "192.0.2.2", "192.0.2.3"] {
        held.push(through_balancer(to, client).await.unwrap_or_else(|| panic!("{client} is refused")));
    }
    assert!(through_balancer(to, "192.0.2.1").await.is_none(), "its third is refused");
    assert!(through_balancer(to, "192.0.2.4").await.is_some(), "and others are served");
}
