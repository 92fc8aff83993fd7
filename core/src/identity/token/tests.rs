use proptest::prelude::*;

use super::*;

fn join() -> Token {
    Token {
        addresses: vec![
            "10.0.0.1:15010".into(),
            "[fd00::1]:15010".into(),
            "controller.east.example:15010".into(),
        ],
        trust_domain: TrustDomain::parse("east.example").unwrap(),
        root_sha256: [0xa5; 32],
        secret: Secret::generate().unwrap(),
        expires: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
        purpose: Purpose::Join { namespace: "shop".into(), account: "checkout".into() },
    }
}

fn peer() -> Token {
    Token { purpose: Purpose::Peer { cluster: "east".into() }, ..join() }
}

fn encode(json: &str) -> String {
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(json))
}

fn json(token: &Token) -> String {
    let text = token.print().unwrap();
    String::from_utf8(URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX).unwrap()).unwrap()).unwrap()
}

#[test]
fn what_is_printed_is_parsed() {
    for token in [join(), peer()] {
        let text = token.print().unwrap();
        assert!(text.starts_with("tmb1.") && text.bytes().all(|byte| byte.is_ascii_graphic()));
        assert_eq!(Token::parse(&text), Ok(token));
    }
}

#[test]
fn the_json_is_as_agreed() {
    let value: serde_json::Value = serde_json::from_str(&json(&join())).unwrap();
    assert_eq!(value["kind"], "join");
    assert_eq!(value["addresses"][0], "10.0.0.1:15010");
    assert_eq!(value["trust_domain"], "east.example");
    assert_eq!(value["root_sha256"], "a5".repeat(32));
    assert_eq!(value["expires_unix"], 1_800_000_000);
    assert_eq!((&value["namespace"], &value["account"]), (&"shop".into(), &"checkout".into()));
    let value: serde_json::Value = serde_json::from_str(&json(&peer())).unwrap();
    assert_eq!((&value["kind"], &value["cluster"]), (&"peer".into(), &"east".into()));
}

#[test]
fn every_changed_character_is_noticed() {
    let text = join().print().unwrap();
    for position in 0..text.len() {
        for other in ["A", "b", "7", "_", ".", " ", "="] {
            let mut changed = text.clone();
            changed.replace_range(position..=position, other);
            assert!(changed == text || Token::parse(&changed).is_err(), "{position}: {other:?}");
        }
        assert!(Token::parse(&text[..position]).is_err(), "cut to {position}");
    }
    assert!(Token::parse(&format!("{text}A")).is_err());
    assert!(Token::parse(&format!("{text}=")).is_err());
    assert!(Token::parse(&format!(" {text}")).is_err());
}

#[test]
fn other_spellings_of_the_same_content_are_refused() {
    let json = json(&join());
    assert!(Token::parse(&encode(&json)).is_ok());
    for other in [
        json.replace("\":", "\": "),
        json.replace("\"kind\"", "\"extra\":1,\"kind\""),
        json.replace("join", "peer"),
        json.replace("checkout", "payments"),
        json.replace("1800000000", "1900000000"),
        format!("{json}\n"),
        "{}".into(),
        "[]".into(),
        String::new(),
    ] {
        assert_ne!(other, json);
        assert!(Token::parse(&encode(&other)).is_err(), "{other}");
    }
}

#[test]
fn parts_that_no_token_can_have_are_neither_printed_nor_parsed() {
    type Case = (&'static str, fn(&mut Token));
    let cases: [Case; 9] = [
        ("addresses", |token| token.addresses.clear()),
        ("addresses", |token| token.addresses = vec!["10.0.0.1:1".into(); MAX_ADDRESSES + 1]),
        ("addresses", |token| token.addresses = vec!["10.0.0.1".into()]),
        ("addresses", |token| token.addresses = vec!["10.0.0.1:0".into()]),
        ("addresses", |token| token.addresses = vec!["host:99999".into()]),
        ("addresses", |token| token.addresses = vec!["http://host:80".into()]),
        ("namespace", |token| token.purpose = Purpose::Join { namespace: "A".into(), account: "b".into() }),
        ("account", |token| token.purpose = Purpose::Join { namespace: "a".into(), account: String::new() }),
        ("cluster", |token| token.purpose = Purpose::Peer { cluster: "a/b".into() }),
    ];
    for (part, change) in cases {
        let mut token = join();
        change(&mut token);
        let error = token.print().unwrap_err();
        assert!(matches!(&error, TokenError::Field { field, .. } if *field == part), "{error}");
        let text = token.encode().unwrap();
        assert_eq!(Token::parse(&text), Err(error));
    }
}

#[test]
fn a_token_is_valid_until_its_expiry_and_not_at_it() {
    let token = join();
    assert_eq!(token.check_time(token.expires - Duration::from_nanos(1)), Ok(()));
    assert_eq!(token.check_time(token.expires), Err(TokenError::Expired));
    assert_eq!(token.check_time(token.expires + Duration::from_secs(1)), Err(TokenError::Expired));
}

#[test]
fn a_token_of_the_wrong_kind_is_told() {
    assert_eq!(join().join_identity().unwrap().to_string(), "spiffe://east.example/ns/shop/sa/checkout");
    assert_eq!(join().peer_cluster(), Err(TokenError::Kind { actual: "join", needed: "peer" }));
    assert_eq!(peer().join_identity(), Err(TokenError::Kind { actual: "peer", needed: "join" }));
    assert_eq!(peer().peer_cluster(), Ok("east"));
}

#[test]
fn debug_hides_the_secret() {
    let token = join();
    assert!(!format!("{token:?} {token:#?}").contains(token.secret.reveal()));
}

#[test]
fn secrets_have_one_form() {
    let secret = Secret::generate().unwrap();
    assert_eq!(Secret::parse(secret.reveal()), Ok(secret.clone()));
    assert_ne!(Secret::generate(), Some(secret.clone()));
    // The last of 43 characters carries four bits only: with the others set it would be a second spelling.
    for wrong in ["", "short", &"A".repeat(44), &"!".repeat(43), &format!("{}B", "A".repeat(42))] {
        assert!(Secret::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn a_long_text_is_refused_unread() {
    assert_eq!(Token::parse(&"x".repeat(MAX_LENGTH + 1)), Err(TokenError::TooLong));
}

fn any_token() -> impl Strategy<Value = Token> {
    let label = "[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?";
    let purpose = prop_oneof![
        (label, label).prop_map(|(namespace, account)| Purpose::Join { namespace, account }),
        label.prop_map(|cluster| Purpose::Peer { cluster }),
    ];
    let address = prop_oneof![
        any::<([u8; 4], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port.max(1))).to_string()),
        any::<([u16; 8], u16)>().prop_map(|(ip, port)| SocketAddr::from((ip, port.max(1))).to_string()),
        (label, 1u16..).prop_map(|(host, port)| format!("{host}.example:{port}")),
    ];
    let addresses = prop::collection::vec(address, 1..=MAX_ADDRESSES);
    (addresses, "[a-z0-9._-]{1,255}", any::<[u8; 32]>(), any::<[u8; 32]>(), any::<u32>(), purpose).prop_map(
        |(addresses, trust_domain, root_sha256, secret, expires, purpose)| Token {
            addresses,
            trust_domain: TrustDomain::parse(&trust_domain).unwrap(),
            root_sha256,
            secret: Secret::parse(&URL_SAFE_NO_PAD.encode(secret)).unwrap(),
            expires: UNIX_EPOCH + Duration::from_secs(expires.into()),
            purpose,
        },
    )
}

proptest! {
    #[test]
    fn any_token_survives_printing(token in any_token()) {
        let text = token.print().unwrap();
        prop_assert!(text.len() <= MAX_LENGTH);
        prop_assert_eq!(Token::parse(&text), Ok(token));
    }

    #[test]
    fn no_text_panics(text in ".{0,300}") {
        prop_assert!(Token::parse(&text).is_err());
        let prefixed = format!("{PREFIX}{text}");
        prop_assert!(Token::parse(&prefixed).is_err());
        prop_assert!(Token::parse(&encode(&text)).is_err());
    }

    #[test]
    fn no_damage_goes_unnoticed(token in any_token(), position in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let text = token.print().unwrap();
        let mut damaged = text.clone().into_bytes();
        let position = position.index(damaged.len());
        damaged[position] = byte;
        if let Ok(damaged) = String::from_utf8(damaged) && damaged != text {
            prop_assert!(Token::parse(&damaged).is_err());
        }
    }
}
