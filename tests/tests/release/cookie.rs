//! The cookie that a gray release issues, as a browser sees it.

use crate::{
    certificates::Authority,
    client::{Answer, Tls, get},
    release,
    stage::{App, EDGE, Stage, route},
};

/// Value and attributes of the cookie that was set.
fn set_cookie(answer: &Answer) -> Option<(String, Vec<String>)> {
    let text = answer.headers.get("set-cookie")?.to_str().unwrap().to_owned();
    let mut parts = text.split("; ").map(str::to_owned);
    Some((parts.next().unwrap(), parts.collect()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_issued_cookie_is_for_the_gateway_alone_and_cannot_be_made_up() {
    let (stable, canary) = (App::start("stable").await, App::start("canary").await);
    let secret = Authority::new().issue(&["shop.example"]).secret("shop", "edge");
    let gray = release("  split: { weights: { v2: 50 } }");
    let https =
        "    - { name: https, protocol: HTTPS, port: 443, tls: { certificateRefs: [{ name: edge }] } }\n";
    let documents =
        [EDGE, https, &stable.documents(), &canary.documents(), &route(&[("/", "stable")]), &secret, &gray]
            .concat();
    let stage = Stage::start(&documents).await;
    let tls = || Some(Tls { sni: "shop.example".into(), roots: None, client: None });
    let over_tls = async |cookie: Option<&str>| {
        let mut ask = get("shop.example", "/");
        ask.tls = tls();
        let ask = cookie.map_or(ask.clone(), |cookie| ask.header("cookie", cookie));
        let answer = ask.send(stage.address(443)).await.unwrap();
        assert_eq!(answer.status, 200);
        answer
    };
    let first = over_tls(None).await;
    let (cookie, attributes) = set_cookie(&first).unwrap();
    assert!(cookie.starts_with("tombolo-gray="), "{cookie}");
    for wanted in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
        assert!(attributes.iter().any(|attribute| attribute == wanted), "{wanted}: {attributes:?}");
    }
    // Who brings it stays on the arm, and needs no other.
    for _ in 0..20 {
        let again = over_tls(Some(&cookie)).await;
        assert_eq!((set_cookie(&again), &again.body), (None, &first.body));
    }
    // Another user's, with the signature of this one; one without a signature; one of another form.
    let mut forged = cookie.clone().into_bytes();
    let at = "tombolo-gray=".len() + 3;
    forged[at] = if forged[at] == b'0' { b'1' } else { b'0' };
    let forged = String::from_utf8(forged).unwrap();
    let bare = "tombolo-gray=0123456789abcdef0123456789abcdef".to_owned();
    for made_up in [forged, bare, "tombolo-gray=v2".into()] {
        let answer = over_tls(Some(&made_up)).await;
        let (fresh, _) = set_cookie(&answer).unwrap_or_else(|| panic!("{made_up} was believed"));
        assert_ne!(fresh, made_up);
        let kept = over_tls(Some(&fresh)).await;
        assert_eq!((set_cookie(&kept), kept.body), (None, answer.body));
    }
    let plain = get("shop.example", "/").send(stage.address(80)).await.unwrap();
    let (_, attributes) = set_cookie(&plain).unwrap();
    assert!(!attributes.iter().any(|attribute| attribute == "Secure"), "{attributes:?}");
    assert!(attributes.iter().any(|attribute| attribute == "HttpOnly"), "{attributes:?}");
}
