use super::*;

const HOUR: Duration = Duration::from_secs(3600);

fn grant() -> JoinGrant {
    JoinGrant::new("shop", "checkout").unwrap()
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

#[test]
fn a_token_is_redeemed_as_often_as_it_may_and_not_after_its_time() {
    let mut book = JoinTokens::default();
    let (secret, expires) = book.issue(grant(), HOUR, 2, now()).unwrap();
    assert_eq!(expires, now() + HOUR);
    assert_eq!(book.redeem(secret.reveal(), now()), Ok(grant()));
    assert_eq!(book.redeem(secret.reveal(), now() + HOUR), Err(TokenBookError::Expired));
    assert_eq!(book.redeem(secret.reveal(), now() + HOUR - Duration::from_secs(1)), Ok(grant()));
    assert_eq!(book.redeem(secret.reveal(), now()), Err(TokenBookError::Used));
}

#[test]
fn other_secrets_are_unknown() {
    let mut book = JoinTokens::default();
    let (secret, _) = book.issue(grant(), HOUR, 1, now()).unwrap();
    let other = Secret::generate().unwrap();
    for wrong in [other.reveal(), "", "a", &secret.reveal()[1..], &format!("{} ", secret.reveal())] {
        assert_eq!(book.redeem(wrong, now()), Err(TokenBookError::Unknown));
    }
    assert_eq!(book.redeem(secret.reveal(), now()), Ok(grant()));
}

#[test]
fn bounds_of_a_token() {
    let mut book = JoinTokens::default();
    let mut issue = |ttl, uses| book.issue(grant(), ttl, uses, now()).map(|_| ());
    assert_eq!(issue(Duration::ZERO, 1), Err(TokenBookError::Ttl));
    assert_eq!(issue(MAX_TOKEN_TTL + Duration::from_secs(1), 1), Err(TokenBookError::Ttl));
    assert_eq!(issue(HOUR, 0), Err(TokenBookError::Uses));
    assert_eq!(issue(HOUR, MAX_USES + 1), Err(TokenBookError::Uses));
    assert_eq!(issue(MAX_TOKEN_TTL, MAX_USES), Ok(()));
    assert!(JoinGrant::new("shop", "Not A Label").is_err());
}

#[test]
fn a_full_book_gives_out_no_more_until_some_expire() {
    let mut book = JoinTokens::default();
    for _ in 0..MAX_TOKENS {
        book.issue(grant(), HOUR, 1, now()).unwrap();
    }
    assert_eq!(book.issue(grant(), HOUR, 1, now()).map(|_| ()), Err(TokenBookError::Full));
    assert!(book.issue(grant(), HOUR, 1, now() + HOUR).is_ok());
    assert_eq!(book.len(), 1);
}

#[test]
fn what_is_persisted_holds_no_secret_and_works_when_it_is_read_again() {
    let mut book = JoinTokens::default();
    let (secret, _) = book.issue(grant(), HOUR, 1, now()).unwrap();
    book.issue(grant(), HOUR, 3, now()).unwrap();
    let json = serde_json::to_string(&book).unwrap();
    assert!(!json.contains(secret.reveal()));
    assert!(!format!("{book:?}").contains(secret.reveal()));
    let mut again: JoinTokens = serde_json::from_str(&json).unwrap();
    assert_eq!(again, book);
    assert_eq!(again.redeem(secret.reveal(), now()), Ok(grant()));
    assert!(serde_json::from_str::<JoinTokens>(&json.replace("uses_left", "uses")).is_err());
}
