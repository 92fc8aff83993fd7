//! Tokens that requests have to carry, with keys from documents, files and URLs.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use http::{HeaderName, Response};
use http_body_util::Full;
use serde_json::{Value, json};

use super::{clients::*, harness::*};
use crate::{
    decide::{Decision, EdgePolicy, Jwt, JwtProvider, KeySource, Policies, RateKey, RateLimit, TokenSource},
    jwt::testing::Issuer,
};

fn claims(subject: &str) -> Value {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    json!({ "iss": "https://issuer", "aud": "shop", "exp": now + 600, "sub": subject })
}

fn provider(keys: KeySource) -> JwtProvider {
    JwtProvider {
        issuer: "https://issuer".into(),
        audiences: ["shop".into()].into(),
        keys,
        from: TokenSource::Bearer,
        claims: [("sub".into(), HeaderName::from_static("x-user"))].into(),
        forward: true,
        skew: Duration::from_secs(60),
    }
}

fn fetched(from: &str) -> KeySource {
    KeySource::Fetched { from: from.into(), refresh: Duration::from_secs(600) }
}

fn asking(provider: JwtProvider) -> EdgePolicy {
    let jwt = Jwt { providers: [provider].into(), allow_missing: false };
    EdgePolicy { jwt: Some(Arc::new(jwt)), ..Default::default() }
}

fn under(policy: EdgePolicy) -> Decision {
    Decision { policies: Policies::all(policy), ..forward() }
}

#[tokio::test]
async fn a_token_lets_in_and_says_who_it_is() {
    let (app, issuer) = (App::named("app").await, Issuer::es256("a"));
    let keys = KeySource::Known(Arc::new(issuer.keys()));
    let proxy = Setup::default().forwards(under(asking(provider(keys)))).with([plain(app.address)]);
    let listener = proxy.edge();
    let send = async |fields: &str| get(listener.address(), fields).await.to_lowercase();
    let good = issuer.token(&claims("ann"));
    assert_eq!(status(&send(&format!("authorization: Bearer {good}\r\nx-user: mallory\r\n")).await), 200);
    let users: Vec<_> = app.last().headers.get_all("x-user").iter().cloned().collect();
    assert_eq!(users, ["ann"]);
    assert!(app.last().headers.contains_key("authorization"));

    let asked = app.seen().len();
    for none in ["", "x-user: mallory\r\n", "authorization: Basic YTpi\r\n"] {
        let answer = send(none).await;
        assert_eq!(status(&answer), 401);
        assert!(answer.contains("www-authenticate: bearer\r\n"), "{answer}");
    }
    assert_eq!(proxy.logged().await.reason, Some("jwt_missing"));
    let mut old = claims("ann");
    old["exp"] = 1.into();
    let mut foreign = claims("ann");
    foreign["aud"] = "bank".into();
    for (token, why) in [
        (issuer.token(&old), "the token has expired"),
        (issuer.token(&foreign), "the token is for another audience"),
        (Issuer::es256("a").token(&claims("ann")), "the token's signature is not valid"),
        ("a.b.c".into(), "the token is malformed"),
    ] {
        let answer = send(&format!("authorization: bearer {token}\r\n")).await;
        assert_eq!(status(&answer), 401);
        let field =
            format!("www-authenticate: bearer error=\"invalid_token\", error_description=\"{why}\"\r\n");
        assert!(answer.contains(&field), "{answer}");
    }
    let twice = format!("authorization: Bearer {good}\r\nauthorization: Bearer {good}\r\n");
    assert_eq!(status(&send(&twice).await), 401, "two are none");
    assert_eq!(app.seen().len(), asked);
}

#[tokio::test]
async fn a_token_may_stand_elsewhere_and_be_kept_from_the_backend() {
    let (app, issuer) = (App::named("app").await, Issuer::ed25519("a"));
    let good = issuer.token(&claims("ann"));
    for from in [
        TokenSource::Bearer,
        TokenSource::Header(HeaderName::from_static("x-token")),
        TokenSource::Cookie("token".into()),
        TokenSource::Query("token".into()),
    ] {
        let keys = KeySource::Known(Arc::new(issuer.keys()));
        let policy = asking(JwtProvider { from: from.clone(), forward: false, ..provider(keys) });
        let proxy = Setup::default().forwards(under(policy)).with([plain(app.address)]);
        let (target, fields) = match &from {
            TokenSource::Bearer => ("/?a=1".to_owned(), format!("authorization: Bearer {good}\r\n")),
            TokenSource::Header(_) => ("/?a=1".to_owned(), format!("x-token: {good}\r\n")),
            TokenSource::Cookie(_) => ("/?a=1".to_owned(), format!("cookie: b=2; token={good}; c=3\r\n")),
            TokenSource::Query(_) => (format!("/?token={good}&a=1"), String::new()),
        };
        let request = format!("GET {target} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{fields}\r\n");
        let listener = proxy.edge();
        assert_eq!(status(&raw(listener.address(), &request).await), 200, "{from:?}");
        let seen = app.last();
        assert_eq!(seen.target, "/?a=1", "{from:?}");
        assert!(!format!("{:?}", seen.headers).contains(&good), "{from:?}");
        if from == TokenSource::Cookie("token".into()) {
            assert_eq!(seen.headers["cookie"], "b=2; c=3");
        }
        let twice = match &from {
            TokenSource::Query(_) => request.replacen("/?", &format!("/?token={good}&"), 1),
            _ => request.replacen("\r\nconnection", &format!("\r\n{fields}connection"), 1),
        };
        assert_eq!(status(&raw(listener.address(), &twice).await), 401, "two are none: {from:?}");
    }
}

#[tokio::test]
async fn a_claim_has_a_bucket_of_its_own_and_nobody_needs_a_token_where_it_may_be_missing() {
    let (app, issuer) = (App::named("app").await, Issuer::es256("a"));
    let keys = KeySource::Known(Arc::new(issuer.keys()));
    let jwt = Jwt { providers: [provider(keys)].into(), allow_missing: true };
    let key = RateKey::Claim("sub".into());
    let limit = RateLimit { policy: "p".into(), requests: 1, per: Duration::from_secs(3600), burst: 1, key };
    let policy = EdgePolicy { jwt: Some(Arc::new(jwt)), rate: Some(Arc::new(limit)), ..Default::default() };
    let proxy = Setup::default().forwards(under(policy)).with([plain(app.address)]);
    let listener = proxy.edge();
    let ask = async |subject: &str| {
        let token = issuer.token(&claims(subject));
        status(&get(listener.address(), &format!("authorization: Bearer {token}\r\n")).await)
    };
    assert_eq!((ask("ann").await, ask("ann").await, ask("ben").await), (200, 429, 200));
    assert_eq!(status(&get(listener.address(), "x-user: mallory\r\n").await), 200);
    assert!(!app.last().headers.contains_key("x-user"));
    assert_eq!(
        status(&get(listener.address(), "authorization: Bearer a.b.c\r\n").await),
        401,
        "an invalid one is none"
    );
}

#[tokio::test]
async fn keys_are_fetched_kept_and_rotated() {
    let (app, old, new) = (App::named("app").await, Issuer::es256("old"), Issuer::es256("new"));
    let published = Arc::new(Mutex::new(old.jwks()));
    let shown = published.clone();
    let server = App::answering(move |_| {
        let text = shown.lock().unwrap().clone();
        async move { Response::new(Full::from(text)) }
    })
    .await;
    let from = format!("http://{}/jwks.json", server.address);
    let proxy = Setup::default().forwards(under(asking(provider(fetched(&from))))).with([plain(app.address)]);
    let listener = proxy.edge();
    let address = listener.address();
    let ask = |token: String| async move {
        status(&get(address, &format!("authorization: Bearer {token}\r\n")).await)
    };
    // Many at once: one of them reads.
    let asking: Vec<_> = (0..8).map(|_| tokio::spawn(ask(old.token(&claims("ann"))))).collect();
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 200);
    }
    assert_eq!(server.seen().len(), 1);
    assert_eq!(server.last().target, "/jwks.json");
    *published.lock().unwrap() = new.jwks();
    assert_eq!(ask(new.token(&claims("ann"))).await, 401, "not read again at once, whatever comes");
    assert_eq!(ask(old.token(&claims("ann"))).await, 200);
    assert_eq!(server.seen().len(), 1);
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(11)).await;
    tokio::time::resume();
    assert_eq!(ask(new.token(&claims("ann"))).await, 200, "a new key is looked for");
    assert_eq!((ask(old.token(&claims("ann"))).await, server.seen().len()), (401, 2));
}

#[tokio::test]
async fn keys_in_a_file_count_and_without_keys_nobody_gets_in() {
    let (app, issuer) = (App::named("app").await, Issuer::es256("a"));
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("jwks.json");
    std::fs::write(&file, issuer.jwks()).unwrap();
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let token = issuer.token(&claims("ann"));
    let field = format!("authorization: Bearer {token}\r\n");
    for (keys, expected) in [
        (fetched(file.to_str().unwrap()), 200),
        (fetched("/nowhere/jwks.json"), 503),
        (fetched(&format!("http://{}/", nobody().await)), 503),
        (fetched(&format!("http://{}/", app.address)), 503),
        (fetched(&format!("https://{}/", app.address)), 503),
        (KeySource::Missing, 503),
    ] {
        let policy = asking(provider(keys.clone()));
        let proxy = Setup::default().forwards(under(policy)).with([plain(app.address)]);
        assert_eq!(status(&get(proxy.edge().address(), &field).await), expected, "{keys:?}");
    }
    // A server that says nothing holds up nobody but those who need its keys.
    let slow = under(asking(provider(fetched(&format!("http://{}/", silent.local_addr().unwrap())))));
    let proxy = Setup::default()
        .decides(move |head, _| {
            let decision = if head.headers.contains_key("authorization") { slow.clone() } else { forward() };
            crate::decide::Outcome::Forward(Box::new(decision))
        })
        .with([plain(app.address)]);
    let listener = proxy.edge();
    let address = listener.address();
    let waiting = tokio::spawn(async move { get(address, &field).await });
    assert_eq!(status(&get(address, "").await), 200);
    assert_eq!(status(&waiting.await.unwrap()), 503);
}
