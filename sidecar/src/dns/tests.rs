use std::{collections::BTreeMap, net::Ipv4Addr, time::Duration};

use hickory_proto::{
    op::{Edns, Message, MessageType, OpCode, Query},
    rr::{
        RData, Record,
        rdata::{A, CNAME, SOA, TXT},
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tombolo_core::{
    model::{AppProtocol, ServiceEntry, ServiceKey, ServicePort},
    telemetry::AccessLog,
};

use super::*;

mod asked;

const SOON: Duration = Duration::from_secs(5);
const CHECKOUT: &str = "checkout.shop.svc.cluster.local.";

fn directory() -> Directory {
    let key = ServiceKey::parse("cluster/shop/checkout").unwrap();
    let ports =
        vec![ServicePort { name: "http".into(), port: 80, protocol: AppProtocol::Http1, sniff: false }];
    let entry = ServiceEntry {
        key: key.clone(),
        ports,
        vip_index: 3,
        hosts: None,
        endpoints: BTreeMap::new(),
        summaries: BTreeMap::new(),
    };
    let mut snapshot = Snapshot::default();
    snapshot.services.insert(key, Arc::new(entry));
    Directory {
        snapshot: Arc::new(ArcSwap::from_pointee(snapshot)),
        synced: watch::channel(true).1,
        addresses: Addresses::default(),
    }
}

/// A server, and what it counts.
struct Tested {
    dns: Dns,
    telemetry: Arc<Telemetry>,
}

impl std::ops::Deref for Tested {
    type Target = Dns;
    fn deref(&self) -> &Dns {
        &self.dns
    }
}

impl Tested {
    /// The value of a metric, written as it is shown.
    fn counted(&self, metric: &str) -> u64 {
        let text = self.telemetry.encode();
        let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
        line.map_or(0, |value| value.parse().unwrap())
    }
}

async fn start(resolvers: &[SocketAddr], directory: Directory) -> Tested {
    let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
    let listen = "127.0.0.1:0".parse().unwrap();
    let dns = Dns::start(listen, None, resolvers, directory, Arc::clone(&telemetry)).await.unwrap();
    Tested { dns, telemetry }
}

/// A server whose foreign names nobody answers.
async fn alone() -> Tested {
    // It cannot be itself the resolver: port 9 of an address that refuses.
    start(&["127.0.0.1:9".parse().unwrap()], directory()).await
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

async fn udp(to: SocketAddr, packet: &[u8]) -> Vec<u8> {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(to).await.unwrap();
    socket.send(packet).await.unwrap();
    let mut buffer = vec![0; 65_535];
    let length = timeout(SOON, socket.recv(&mut buffer)).await.expect("an answer").unwrap();
    buffer.truncate(length);
    buffer
}

async fn exchange_tcp(tcp: &mut TcpStream, packet: &[u8]) -> Vec<u8> {
    tcp.write_u16(u16::try_from(packet.len()).unwrap()).await.unwrap();
    tcp.write_all(packet).await.unwrap();
    let length = timeout(SOON, tcp.read_u16()).await.expect("an answer").unwrap();
    let mut answer = vec![0; usize::from(length)];
    timeout(SOON, tcp.read_exact(&mut answer)).await.expect("an answer").unwrap();
    answer
}

async fn ask(dns: &Tested, name: &str, kind: RecordType) -> Message {
    let answer = udp(dns.address(), &question(name, kind).to_vec().unwrap()).await;
    Message::from_vec(&answer).unwrap()
}

fn code(message: &Message) -> ResponseCode {
    message.metadata.response_code
}

/// A resolver that answers by the first label: an address, nothing, no name, too much for UDP, or never.
async fn upstream() -> (SocketAddr, Arc<AtomicUsize>) {
    let (udp, tcp) = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = udp.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        loop {
            let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
            count.fetch_add(1, Ordering::SeqCst);
            if let Some(answer) = reply(&buffer[..length], 1200) {
                udp.send_to(&answer, from).await.unwrap();
            }
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut tcp, _) = tcp.accept().await.unwrap();
            tokio::spawn(async move {
                while let Ok(length) = tcp.read_u16().await {
                    let mut packet = vec![0; usize::from(length)];
                    tcp.read_exact(&mut packet).await.unwrap();
                    let answer = reply(&packet, 65_535).unwrap();
                    tcp.write_u16(u16::try_from(answer.len()).unwrap()).await.unwrap();
                    tcp.write_all(&answer).await.unwrap();
                }
            });
        }
    });
    (address, asked)
}

fn reply(packet: &[u8], most: usize) -> Option<Vec<u8>> {
    let query = Message::from_vec(packet).unwrap();
    let asked = query.queries[0].clone();
    let mut answer = Message::response(query.metadata.id, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_query(asked.clone());
    let record = |data| Record::from_rdata(asked.name().clone(), 60, data);
    match asked.name().iter().next().unwrap() {
        b"address" => drop(answer.add_answer(record(RData::A(A(Ipv4Addr::new(192, 0, 2, 1)))))),
        b"large" => {
            for part in 0..30 {
                answer.add_answer(record(RData::TXT(TXT::new(vec![format!("{part:0>200}")]))));
            }
        }
        b"lasting" => drop(answer.add_answer(Record::from_rdata(
            asked.name().clone(),
            86_400,
            RData::A(A(Ipv4Addr::LOCALHOST)),
        ))),
        b"gone" => {
            let (name, seconds) = (Name::from_ascii("example.").unwrap(), 60);
            let soa = SOA::new(name.clone(), name.clone(), 1, 1, 1, 1, seconds);
            answer.add_authority(Record::from_rdata(name, seconds, RData::SOA(soa)));
            answer.metadata.response_code = ResponseCode::NXDomain;
        }
        // An alias, and of what it stands for only the mail servers' names are known.
        b"alias" => {
            let target = Name::from_ascii("target.example.").unwrap();
            answer.add_answer(record(RData::CNAME(CNAME(target.clone()))));
            let soa = SOA::new(target.clone(), target.clone(), 1, 1, 1, 1, 60);
            answer.add_authority(Record::from_rdata(target, 60, RData::SOA(soa)));
        }
        b"empty" => {}
        b"failing" => answer.metadata.response_code = ResponseCode::ServFail,
        b"silent" => return None,
        _ => answer.metadata.response_code = ResponseCode::NXDomain,
    }
    let mut bytes = answer.to_vec().unwrap();
    if bytes.len() > most {
        answer.answers.clear();
        answer.metadata.truncation = true;
        bytes = answer.to_vec().unwrap();
    }
    Some(bytes)
}

#[tokio::test]
async fn answers_own_names_by_udp_and_tcp() {
    let dns = alone().await;
    let by_udp = ask(&dns, CHECKOUT, RecordType::A).await;
    assert_eq!(by_udp.answers[0].data, RData::A(A(Ipv4Addr::new(127, 64, 0, 3))));
    assert!(by_udp.metadata.authoritative && by_udp.metadata.recursion_available);
    assert_eq!((by_udp.metadata.id, by_udp.metadata.message_type), (4711, MessageType::Response));

    let mut tcp = TcpStream::connect(dns.address()).await.unwrap();
    for _ in 0..3 {
        let packet = question(CHECKOUT, RecordType::A).to_vec().unwrap();
        let by_tcp = Message::from_vec(&exchange_tcp(&mut tcp, &packet).await).unwrap();
        assert_eq!(by_tcp.answers, by_udp.answers);
    }
    assert_eq!(dns.counted("tombolo_dns_answers_total{source=\"own\",code=\"noerror\"}"), 4);
}

#[tokio::test]
async fn tells_no_data_from_no_name() {
    let dns = alone().await;
    let no_data = ask(&dns, CHECKOUT, RecordType::AAAA).await;
    assert_eq!((code(&no_data), no_data.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(no_data.authorities[0].record_type(), RecordType::SOA);
    let no_name = ask(&dns, "cart.shop.svc.cluster.local.", RecordType::A).await;
    assert_eq!(code(&no_name), ResponseCode::NXDomain);
    assert_eq!(no_name.authorities[0].record_type(), RecordType::SOA);
}

#[tokio::test]
async fn fails_until_synced_and_answers_after() {
    let (sync, synced) = watch::channel(false);
    let directory = Directory { synced, ..directory() };
    let dns = start(&["127.0.0.1:9".parse().unwrap()], directory.clone()).await;
    let unknown = "cart.shop.svc.cluster.local.";
    assert_eq!(code(&ask(&dns, unknown, RecordType::A).await), ResponseCode::ServFail);
    assert_eq!(code(&ask(&dns, CHECKOUT, RecordType::A).await), ResponseCode::NoError);
    sync.send_replace(true);
    assert_eq!(code(&ask(&dns, unknown, RecordType::A).await), ResponseCode::NXDomain);
}

#[tokio::test]
async fn a_new_snapshot_counts_at_once() {
    let directory = directory();
    let dns = start(&["127.0.0.1:9".parse().unwrap()], directory.clone()).await;
    directory.snapshot.store(Arc::new(Snapshot::default()));
    assert_eq!(code(&ask(&dns, CHECKOUT, RecordType::A).await), ResponseCode::NXDomain);
}

#[tokio::test]
async fn forwards_other_names_and_keeps_the_answers() {
    let (resolver, asked) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    for _ in 0..3 {
        let answer = ask(&dns, "address.example.", RecordType::A).await;
        assert_eq!(answer.answers[0].data, RData::A(A(Ipv4Addr::new(192, 0, 2, 1))));
        assert!(!answer.metadata.authoritative);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "the cache answers what was asked before");
    assert_eq!(code(&ask(&dns, "missing.example.", RecordType::A).await), ResponseCode::NXDomain);
    let empty = ask(&dns, "empty.example.", RecordType::A).await;
    assert_eq!((code(&empty), empty.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(code(&ask(&dns, "failing.example.", RecordType::A).await), ResponseCode::ServFail);
    assert_eq!(dns.counted("tombolo_dns_answers_total{source=\"forwarded\",code=\"noerror\"}"), 4);
}

#[tokio::test]
async fn what_is_too_long_for_udp_is_cut_and_whole_by_tcp() {
    let (resolver, _) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    let cut = udp(dns.address(), &question("large.example.", RecordType::TXT).to_vec().unwrap()).await;
    assert!(cut.len() <= 512, "{} bytes without EDNS", cut.len());
    assert!(Message::from_vec(&cut).unwrap().metadata.truncation);

    let mut with_edns = question("large.example.", RecordType::TXT);
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    with_edns.set_edns(edns);
    let cut = udp(dns.address(), &with_edns.to_vec().unwrap()).await;
    assert!((513..=1232).contains(&cut.len()), "{} bytes with EDNS", cut.len());
    assert!(Message::from_vec(&cut).unwrap().metadata.truncation);

    let mut tcp = TcpStream::connect(dns.address()).await.unwrap();
    let whole = exchange_tcp(&mut tcp, &with_edns.to_vec().unwrap()).await;
    let whole = Message::from_vec(&whole).unwrap();
    assert_eq!((whole.answers.len(), whole.metadata.truncation), (30, false));
    assert!(whole.edns.is_some(), "EDNS is answered with EDNS (RFC 6891, section 7)");
}

#[tokio::test]
async fn a_silent_resolver_does_not_hold_up_others() {
    let (resolver, asked) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let packet = question("silent.example.", RecordType::A).to_vec().unwrap();
    socket.send_to(&packet, dns.address()).await.unwrap();
    timeout(SOON, async {
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    assert_eq!(code(&ask(&dns, CHECKOUT, RecordType::A).await), ResponseCode::NoError);
    assert_eq!(code(&ask(&dns, "address.example.", RecordType::A).await), ResponseCode::NoError);
}

#[tokio::test]
async fn refuses_what_it_does_not_do() {
    let dns = alone().await;
    assert_eq!(code(&ask(&dns, CHECKOUT, RecordType::AXFR).await), ResponseCode::Refused);
    let mut update = question(CHECKOUT, RecordType::A);
    update.metadata.op_code = OpCode::Notify;
    let answer = udp(dns.address(), &update.to_vec().unwrap()).await;
    assert_eq!(code(&Message::from_vec(&answer).unwrap()), ResponseCode::NotImp);
    let mut newer = question(CHECKOUT, RecordType::A);
    let mut edns = Edns::new();
    edns.set_version(1);
    newer.set_edns(edns);
    let answer = udp(dns.address(), &newer.to_vec().unwrap()).await;
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(u16::from(code(&answer)), 16, "BADVERS; as a name 16 is also BADSIG");
}

#[tokio::test]
async fn malformed_packets_are_refused_and_counted() {
    let dns = alone().await;
    let mut two = question(CHECKOUT, RecordType::A);
    two.add_query(Query::query(Name::root(), RecordType::NS));
    let mut many = question(CHECKOUT, RecordType::A).to_vec().unwrap();
    many[4..6].copy_from_slice(&[0xff, 0xff]);
    let mut cut = question(CHECKOUT, RecordType::A).to_vec().unwrap();
    cut.truncate(20);
    for packet in [two.to_vec().unwrap(), many, cut] {
        let answer = udp(dns.address(), &packet).await;
        assert_eq!(answer[..2], packet[..2], "the same id");
        assert_eq!((answer[2] & 0x80, answer[3] & 0x0f), (0x80, 1), "an answer: FORMERR");
    }
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let answer_itself = Message::response(1, OpCode::Query).to_vec().unwrap();
    for packet in [&answer_itself[..], &[1, 2, 3], &[], &[0; 4097]] {
        socket.send_to(packet, dns.address()).await.unwrap();
    }
    socket.send_to(&question(CHECKOUT, RecordType::A).to_vec().unwrap(), dns.address()).await.unwrap();
    let mut buffer = [0; 512];
    let length = timeout(SOON, socket.recv(&mut buffer)).await.unwrap().unwrap();
    assert_eq!(Message::from_vec(&buffer[..length]).unwrap().metadata.id, 4711, "the first answer of all");
    assert_eq!(dns.counted("tombolo_bad_input_total{kind=\"dns\"}"), 7);
}

#[tokio::test]
async fn random_packets_do_it_no_harm() {
    let dns = alone().await;
    let good = question(CHECKOUT, RecordType::A).to_vec().unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.connect(dns.address()).await.unwrap();
    // xorshift64*, from a fixed seed: the same packets in each run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    };
    for _ in 0..2_000 {
        let mut packet = good.clone();
        if random() % 4 == 0 {
            packet = (0..random() % 600).map(|_| random() as u8).collect();
        }
        for _ in 0..random() % 6 {
            let at = (random() as usize) % packet.len().max(1);
            if let Some(byte) = packet.get_mut(at) {
                *byte = random() as u8;
            }
        }
        // What it answers is not read: a full buffer drops it.
        socket.send(&packet).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut tcp = TcpStream::connect(dns.address()).await.unwrap();
    tcp.write_all(&[0xff, 0xff, 1, 2, 3]).await.unwrap();
    let mut rest = Vec::new();
    timeout(SOON, tcp.read_to_end(&mut rest)).await.expect("too long a question closes").ok();
    assert!(rest.is_empty());
    assert_eq!(code(&ask(&dns, CHECKOUT, RecordType::A).await), ResponseCode::NoError);
}

#[tokio::test]
async fn who_is_second_on_a_machine_is_told_what_it_needs() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let telemetry = Arc::new(Telemetry::new(AccessLog::off()));
    let refused = Dns::start(taken.local_addr().unwrap(), None, &[], directory(), telemetry).await;
    let said = refused.map(|dns| dns.address()).unwrap_err().to_string();
    assert!(said.contains("--dns-listen") && said.contains("--outbound-range"), "{said}");
}
