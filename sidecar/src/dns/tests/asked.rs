//! Questions as clients ask them: in any case of letters, with search domains, ahead of answers, or broken.

use hickory_server::net::xfer::Protocol;
use proptest::{prelude::*, sample::select};
use tombolo_core::model::Host;

use super::*;

#[tokio::test]
async fn the_question_comes_back_as_it_was_written() {
    let (resolver, asked) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    // What differs in nothing but the case of letters is one question to others.
    for name in
        ["aDDress.eXample.", "address.example.", "ADDRESS.EXAMPLE.", "CheckOut.SHOP.svc.cluster.LOCAL."]
    {
        let packet = question(name, RecordType::A).to_vec().unwrap();
        let answer = udp(dns.address(), &packet).await;
        assert_eq!(answer[12..packet.len()], packet[12..], "{name}: the question, byte by byte");
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(answer.answers[0].name.to_string(), name);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn nothing_is_kept_for_long_and_a_failure_not_at_all() {
    let (resolver, asked) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    let count = || asked.load(Ordering::SeqCst);
    let lasting = ask(&dns, "lasting.example.", RecordType::A).await;
    assert!(lasting.answers[0].ttl <= 300, "{}", lasting.answers[0].ttl);
    for _ in 0..2 {
        let gone = ask(&dns, "gone.example.", RecordType::A).await;
        assert_eq!(
            (code(&gone), gone.authorities[0].record_type()),
            (ResponseCode::NXDomain, RecordType::SOA)
        );
    }
    assert_eq!(count(), 2, "that there is none is kept as well");
    for _ in 0..2 {
        let before = count();
        assert_eq!(code(&ask(&dns, "failing.example.", RecordType::A).await), ResponseCode::ServFail);
        assert!(count() > before, "asked again");
    }
}

#[tokio::test]
async fn an_alias_is_told_also_where_it_leads_to_nothing() {
    let (resolver, asked) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    for _ in 0..2 {
        let answer = ask(&dns, "Alias.example.", RecordType::AAAA).await;
        let said = (answer.answers[0].name.to_string(), answer.answers[0].data.to_string());
        assert_eq!(said, ("Alias.example.".into(), "target.example.".into()));
        assert_eq!((code(&answer), answer.answers.len()), (ResponseCode::NoError, 1));
        assert_eq!(answer.authorities[0].record_type(), RecordType::SOA);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "asked once, and kept");
}

#[tokio::test]
async fn what_search_domains_make_of_a_name_is_never_asked_of_others() {
    let (resolver, asked) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    // As a client with `ndots:5` asks, until there is an answer.
    let search = ["shop.svc.cluster.local.", "svc.cluster.local.", "cluster.local.", ""];
    let find = async |name: &str| {
        for domain in search {
            let answer = ask(&dns, &format!("{name}.{domain}"), RecordType::A).await;
            if code(&answer) == ResponseCode::NoError && !answer.answers.is_empty() {
                return answer.answers[0].name.to_string();
            }
            assert_eq!(code(&answer), ResponseCode::NXDomain, "{name}.{domain}");
        }
        panic!("{name} is not found");
    };
    for name in ["checkout", "checkout.shop", "checkout.shop.svc", "checkout.shop.svc.cluster.local"] {
        assert_eq!(find(name).await, CHECKOUT);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    assert_eq!(find("address.example").await, "address.example.");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn questions_that_are_sent_ahead_do_not_wait_for_each_other() {
    let (resolver, _) = upstream().await;
    let dns = start(&[resolver], directory()).await;
    let mut tcp = TcpStream::connect(dns.address()).await.unwrap();
    let mut all = Vec::new();
    // More than are under way at a time, and a silent one first.
    for number in 0..40_u16 {
        let mut question = match number {
            0 => question("silent.example.", RecordType::A),
            odd if odd % 2 == 1 => question(CHECKOUT, RecordType::A),
            _ => question("address.example.", RecordType::A),
        };
        question.metadata.id = number;
        let packet = question.to_vec().unwrap();
        all.extend(u16::try_from(packet.len()).unwrap().to_be_bytes());
        all.extend(packet);
    }
    // In pieces that are no messages.
    for piece in all.chunks(23) {
        tcp.write_all(piece).await.unwrap();
    }
    let mut answered = std::collections::BTreeSet::new();
    for _ in 0..39 {
        let length = timeout(SOON, tcp.read_u16()).await.expect("an answer").unwrap();
        let mut answer = vec![0; usize::from(length)];
        tcp.read_exact(&mut answer).await.unwrap();
        let answer = Message::from_vec(&answer).unwrap();
        assert_eq!(code(&answer), ResponseCode::NoError);
        answered.insert(answer.metadata.id);
    }
    assert_eq!(answered.into_iter().collect::<Vec<_>>(), (1..40).collect::<Vec<_>>());
    // Who says no more still gets what is under way.
    tcp.shutdown().await.unwrap();
    let mut last = Vec::new();
    timeout(SOON + SOON, tcp.read_to_end(&mut last)).await.expect("the end").unwrap();
    assert_eq!((last[2..4].to_vec(), last[5] & 0x0f), (vec![0, 0], 2), "the silent one: SERVFAIL");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    /// Whatever comes in, what goes out is an answer to it, no longer than the client takes.
    #[test]
    fn any_packet_is_read(
        mut bytes in prop::collection::vec(any::<u8>(), 0..300),
        begins in prop::option::of((select(vec!["a.b", "checkout.shop.svc.cluster.local", "."]), 0..3usize)),
    ) {
        if let Some((name, cut)) = begins {
            let mut good = question(name, RecordType::A).to_vec().unwrap();
            good.truncate(good.len() - cut);
            // The rest stays as it is: more sections, or garbage.
            good.extend(&bytes);
            bytes = good;
        }
        let source = "127.0.0.1:1".parse().unwrap();
        let answer = match message::read(&bytes, source, Protocol::Udp) {
            message::Packet::Ignored => return Ok(()),
            message::Packet::Refused(_, answer) => answer,
            message::Packet::Question(question) => question.write(&Reply::code(ResponseCode::NoError)),
        };
        prop_assert_eq!(&answer[..2], &bytes[..2]);
        prop_assert!(answer[2] & 0x80 != 0 && answer.len() <= 1232);
    }
}

#[tokio::test]
async fn each_host_of_a_headless_service_is_the_first_in_its_turn() {
    let directory = directory();
    let mut snapshot = (**directory.snapshot.load()).clone();
    let (key, entry) = snapshot.services.iter().next().map(|(k, e)| (k.clone(), (**e).clone())).unwrap();
    let host = |number: u32| Host {
        name: format!("host-{number}").into(),
        cluster: "east".into(),
        vip_index: number,
        ready: true,
        ports: vec![(80, 8080)],
    };
    // As many as fit into a packet without EDNS as addresses, and not with SRV records and the addresses of those.
    let hosts: Vec<_> = (1..=12).map(host).collect();
    snapshot
        .services
        .insert(key, Arc::new(ServiceEntry { vip_index: 0, hosts: Some(hosts.into()), ..entry }));
    directory.snapshot.store(Arc::new(snapshot));
    let dns = start(&["127.0.0.1:9".parse().unwrap()], directory).await;
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..12 {
        let answer = ask(&dns, CHECKOUT, RecordType::A).await;
        assert_eq!((answer.answers.len(), answer.metadata.truncation), (12, false));
        first.insert(answer.answers[0].data.to_string());
    }
    assert_eq!(first.len(), 12);
    let name = format!("_http._tcp.{CHECKOUT}");
    let srv = ask(&dns, &name, RecordType::SRV).await;
    assert!(srv.metadata.truncation && !srv.answers.is_empty() && srv.answers.len() < 12);
    let mut with_edns = question(&name, RecordType::SRV);
    with_edns.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(1232);
    let srv = Message::from_vec(&udp(dns.address(), &with_edns.to_vec().unwrap()).await).unwrap();
    assert_eq!((srv.answers.len(), srv.metadata.truncation, srv.edns.is_some()), (12, false, true));
}

#[test]
fn what_is_cut_holds_as_much_as_fits_and_edns_is_answered_in_any_case() {
    let source = "127.0.0.1:1".parse().unwrap();
    for (length, payload) in
        (1..=250).flat_map(|length| [(length, None), (length, Some(512)), (length, Some(1232))])
    {
        let mut asked = question("large.example.", RecordType::TXT);
        if let Some(payload) = payload {
            asked.set_edns(Edns::new()).edns.as_mut().unwrap().set_max_payload(payload);
        }
        let packet = message::read(&asked.to_vec().unwrap(), source, Protocol::Udp);
        let message::Packet::Question(question) = packet else { panic!("a question") };
        let record = || {
            let data = RData::TXT(TXT::new(vec!["x".repeat(length)]));
            Record::from_rdata(question.name.clone(), 1, data)
        };
        let answers: Vec<_> = (0..30).map(|_| record()).collect();
        let additionals = answers.clone();
        let bytes = question.write(&Reply { answers, additionals, ..Reply::code(ResponseCode::NoError) });
        let most = usize::from(payload.unwrap_or(512));
        let answer = Message::from_vec(&bytes).unwrap();
        assert!(bytes.len() <= most, "{length} {payload:?}");
        assert_eq!(answer.edns.is_some(), payload.is_some(), "{length} {payload:?}");
        assert_eq!(answer.metadata.truncation, answer.answers.len() < 30, "{length} {payload:?}");
        // A record takes its data with a length, and 12 bytes.
        let one_more = bytes.len() + 13 + length;
        assert!(!answer.metadata.truncation || one_more > most, "{length} {payload:?}: one more had fitted");
    }
}
