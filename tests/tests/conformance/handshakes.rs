//! What TLS a listener speaks, to clients that no library would let us have: their first message is written by hand.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    client::get,
    wire::soon,
    world::{INFRA, World},
};

const HANDSHAKE: u8 = 22;
const ALERT: u8 = 21;
/// Of RFC 8446 section 6.
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

/// Two bytes of length, and what is that long.
fn vector(bytes: &[u8]) -> Vec<u8> {
    [&u16::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}

/// A ClientHello up to TLS 1.2 (RFC 5246 section 7.4.1.2) of this version, with these suites, for this name.
fn hello(version: u16, suites: &[u16], name: &str) -> Vec<u8> {
    let extension = |kind: u16, body: &[u8]| [&kind.to_be_bytes()[..], &vector(body)].concat();
    let words = |list: &[u16]| list.iter().flat_map(|word| word.to_be_bytes()).collect::<Vec<_>>();
    let extensions = [
        extension(0, &vector(&[&[0][..], &vector(name.as_bytes())].concat())),
        // Curves x25519, P-256, P-384; signatures by ECDSA and RSA; the extended master secret.
        extension(10, &vector(&words(&[0x1d, 0x17, 0x18]))),
        extension(11, &[1, 0]),
        extension(13, &vector(&words(&[0x0403, 0x0503, 0x0804, 0x0401, 0x0201, 0x0203]))),
        extension(23, &[]),
    ]
    .concat();
    let body =
        [&version.to_be_bytes()[..], &[7; 32], &[0], &vector(&words(suites)), &[1, 0], &vector(&extensions)]
            .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    [&[HANDSHAKE, 3, 1][..], &vector(&message)].concat()
}

/// The suite that the server picks, or the alert that it ends with.
async fn answer(to: SocketAddr, hello: &[u8]) -> Result<u16, u8> {
    soon("an answer", async {
        let mut tcp = TcpStream::connect(to).await.unwrap();
        tcp.write_all(hello).await.unwrap();
        let mut record = [0; 5];
        tcp.read_exact(&mut record).await.unwrap();
        let mut message = vec![0; usize::from(u16::from_be_bytes([record[3], record[4]]))];
        tcp.read_exact(&mut message).await.unwrap();
        match record[0] {
            ALERT => Err(message[1]),
            // A ServerHello: four bytes of head, version, random, session id, suite.
            HANDSHAKE => {
                let at = 4 + 2 + 32 + 1 + usize::from(message[38]);
                Ok(u16::from_be_bytes([message[at], message[at + 1]]))
            }
            other => panic!("a record of kind {other}"),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weak_suites_and_old_versions_are_refused_and_others_are_served() {
    let world = World::with(
        "
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: secure, namespace: gateway-conformance-infra }
spec:
  parentRefs: [{ name: same-namespace-with-https-listener }]
  rules: [{ backendRefs: [{ name: infra-backend-v1, port: 8080 }] }]
",
    )
    .await;
    let to = world.address("same-namespace-with-https-listener", 443);
    let name = "second-example.org";
    let served = get(name, "/").over_tls(name);
    world.reaches(to, &served, "infra-backend-v1").await;
    const TLS12: u16 = 0x0303;
    // Forward secrecy and authenticated encryption: what of TLS 1.2 is left.
    let strong = [0xc02b, 0xc02c, 0xcca9];
    for suite in strong {
        assert_eq!(answer(to, &hello(TLS12, &[suite], name)).await, Ok(suite), "{suite:#x}");
    }
    let weak = [
        ("no encryption", 0x003b),
        ("RC4", 0x0005),
        ("3DES", 0x000a),
        ("RSA key exchange, CBC", 0x002f),
        ("RSA key exchange, GCM", 0x009c),
        ("CBC with SHA-1", 0xc009),
        ("CBC with SHA-256", 0xc023),
        ("finite-field DHE", 0x009e),
        ("export", 0x0003),
        ("anonymous", 0xc018),
    ];
    for (what, suite) in weak {
        assert_eq!(answer(to, &hello(TLS12, &[suite], name)).await, Err(HANDSHAKE_FAILURE), "{what}");
    }
    let all: Vec<u16> = weak.iter().map(|(_, suite)| *suite).chain([0xc02b]).collect();
    assert_eq!(answer(to, &hello(TLS12, &all, name)).await, Ok(0xc02b), "the good one of many");
    for (what, version) in [("SSL 3.0", 0x0300), ("TLS 1.0", 0x0301), ("TLS 1.1", 0x0302)] {
        let refused = answer(to, &hello(version, &[0xc009, 0x002f, 0xc02b], name)).await;
        assert!(matches!(refused, Err(PROTOCOL_VERSION | HANDSHAKE_FAILURE)), "{what}: {refused:?}");
    }
    world.reaches(to, &served, "infra-backend-v1").await;
    let report = world.report();
    report
        .parent("HTTPRoute", &format!("{INFRA}/secure"), "same-namespace-with-https-listener")
        .has("Accepted", "True", "Accepted");
}
