use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::UNIX_EPOCH};

use tokio::time::{Instant, timeout};

use super::*;
use crate::identity::{
    Purpose, Secret,
    testing::{FakeCa, FakeSigner},
};

const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

/// East's authority with its signer for `shop/checkout`, a state directory, and a clock that is tokio's.
struct World {
    ca: Arc<FakeCa>,
    signer: Arc<FakeSigner>,
    state: tempfile::TempDir,
    clock: Clock,
}

impl World {
    fn new() -> Self {
        let (started, base) = (Instant::now(), SystemTime::now());
        let clock: Clock = Arc::new(move || base + started.elapsed());
        let ca = Arc::new(FakeCa::new("east.example"));
        let mut signer = FakeSigner::new(Arc::clone(&ca), ca.id("shop", "checkout"), DAY);
        signer.clock = Arc::clone(&clock);
        Self { ca, signer: Arc::new(signer), state: tempfile::tempdir().unwrap(), clock }
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }

    fn token_for(&self, account: &str, root_sha256: [u8; 32]) -> Arc<Token> {
        let expires = (self.now() + HOUR).duration_since(UNIX_EPOCH).unwrap().as_secs();
        Arc::new(Token {
            addresses: vec!["127.0.0.1:1".into()],
            trust_domain: self.ca.trust_domain().clone(),
            root_sha256,
            secret: Secret::generate().unwrap(),
            expires: UNIX_EPOCH + Duration::from_secs(expires),
            purpose: Purpose::Join { namespace: "shop".into(), account: account.into() },
        })
    }

    fn token(&self) -> Arc<Token> {
        self.token_for("checkout", tls::fingerprint(self.ca.root()))
    }

    fn rotation(&self, token: Option<Arc<Token>>) -> Rotation {
        Rotation {
            signer: Arc::clone(&self.signer) as Arc<dyn Signer>,
            store: Some(Store::open(self.state.path()).unwrap()),
            token,
            schedule: Schedule::default(),
            clock: Arc::clone(&self.clock),
        }
    }

    async fn start(&self, token: Option<Arc<Token>>) -> Result<Rotating, RotationError> {
        self.rotation(token).start().await
    }

    /// How each request proved itself: `join` or `current`.
    fn proofs(&self) -> Vec<&'static str> {
        let name = |proof: &Proof| match proof {
            Proof::Join(_) => "join",
            Proof::Current(_) => "current",
        };
        self.signer.seen.lock().unwrap().iter().map(name).collect()
    }

    fn identity_file(&self) -> std::path::PathBuf {
        self.state.path().join("identity/identity.pem")
    }
}

fn away() -> Option<SignError> {
    Some(SignError::Away("no route".into()))
}

fn refused() -> Option<SignError> {
    Some(SignError::Refused("used already".into()))
}

#[tokio::test(start_paused = true)]
async fn a_certificate_is_renewed_at_half_of_its_life_day_after_day() {
    let world = World::new();
    let rotating = world.start(Some(world.token())).await.unwrap();
    let mut watch = rotating.credentials();
    let mut last = world.now();
    for _ in 0..20 {
        let old = Arc::clone(&watch.borrow_and_update());
        assert!(old.is_valid_at(world.now()));
        watch.changed().await.unwrap();
        let new = Arc::clone(&watch.borrow());
        let waited = world.now().duration_since(last).unwrap();
        assert!((DAY.mul_f64(0.449)..=DAY.mul_f64(0.551)).contains(&waited), "{waited:?}");
        assert!(old.is_valid_at(world.now()), "renewed in time");
        assert_ne!(old.key_pkcs8(), new.key_pkcs8(), "with a key of its own");
        assert_eq!(new.id(), old.id());
        last = world.now();
    }
    assert_eq!(world.proofs()[0], "join");
    assert!(world.proofs()[1..].iter().all(|proof| *proof == "current"));
    assert_eq!(**rotating.bundle().borrow(), world.ca.bundle());
}

#[tokio::test(start_paused = true)]
async fn renewals_of_a_fleet_are_spread() {
    let rotation = World::new().rotation(None);
    let now = (rotation.clock)();
    let moments: std::collections::BTreeSet<_> = (0..200).map(|_| rotation.renewal(now, now + DAY)).collect();
    assert!(moments.len() > 190);
    let (first, last) = (moments.first().unwrap(), moments.last().unwrap());
    assert!(*first >= now + DAY.mul_f64(0.45) && *last <= now + DAY.mul_f64(0.55));
    assert!(last.duration_since(*first).unwrap() > DAY.mul_f64(0.07));
    // However short a life the signer gives, it is not asked in a tight loop.
    assert!(rotation.renewal(now - HOUR, now - DAY) > now);
}

#[tokio::test(start_paused = true)]
async fn a_restart_needs_neither_the_signer_nor_a_token() {
    let world = World::new();
    let first = world.start(Some(world.token())).await.unwrap();
    let before = Arc::clone(&first.credentials().borrow());
    drop(first);
    world.signer.fail(away());
    for token in [None, Some(world.token())] {
        let again = world.start(token).await.unwrap();
        assert_eq!(again.credentials().borrow().chain(), before.chain());
    }
    assert_eq!(world.proofs(), ["join"]);
}

#[tokio::test(start_paused = true)]
async fn what_is_loaded_is_renewed_at_half_of_the_life_it_had() {
    let world = World::new();
    drop(world.start(Some(world.token())).await.unwrap());
    tokio::time::sleep(DAY.mul_f64(0.7)).await;
    let again = world.start(None).await.unwrap();
    timeout(HOUR, again.credentials().changed()).await.unwrap().unwrap();
    assert_eq!(world.proofs(), ["join", "current"]);
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_is_away_at_start_is_waited_for_with_patience() {
    let world = World::new();
    world.signer.fail(away());
    let start = world.start(Some(world.token()));
    tokio::pin!(start);
    assert!(timeout(HOUR / 2, &mut start).await.is_err());
    let asked = world.signer.asked();
    assert!((30..=70).contains(&asked), "{asked} times in half an hour");
    world.signer.fail(None);
    assert!(timeout(Duration::from_secs(61), start).await.unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_token_expires() {
    let world = World::new();
    world.signer.fail(away());
    let error = timeout(2 * HOUR, world.start(Some(world.token()))).await.unwrap().unwrap_err();
    assert!(matches!(error, RotationError::Token(TokenError::Expired)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn without_any_proof_there_is_no_start() {
    let world = World::new();
    assert!(matches!(world.start(None).await, Err(RotationError::NoProof)));
    let token = world.token();
    tokio::time::sleep(HOUR).await;
    assert!(matches!(world.start(Some(token)).await, Err(RotationError::Token(TokenError::Expired))));
    let peer = Token { purpose: Purpose::Peer { cluster: "west".into() }, ..(*world.token()).clone() };
    let wrong = world.start(Some(Arc::new(peer))).await;
    assert!(matches!(wrong, Err(RotationError::Token(TokenError::Kind { .. }))));
    world.signer.fail(refused());
    let wrong = world.start(Some(world.token())).await;
    assert!(matches!(wrong, Err(RotationError::Sign(SignError::Refused(_)))));
    assert_eq!(world.signer.asked(), 1);
    assert!(!world.identity_file().exists());
}

#[tokio::test(start_paused = true)]
async fn the_old_certificate_serves_while_the_signer_is_away_or_says_no() {
    for failure in [away(), refused()] {
        let world = World::new();
        let rotating = world.start(Some(world.token())).await.unwrap();
        let mut watch = rotating.credentials();
        let first = Arc::clone(&watch.borrow());
        world.signer.fail(failure);
        assert!(timeout(DAY.mul_f64(0.9), watch.changed()).await.is_err());
        assert!(world.signer.asked() > 10 && first.is_valid_at(world.now()));
        world.signer.fail(None);
        timeout(Duration::from_secs(61), watch.changed()).await.unwrap().unwrap();
        assert!(watch.borrow().not_after() > first.not_after());
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_life_without_a_signer_only_a_token_helps() {
    let world = World::new();
    drop(world.start(Some(world.token())).await.unwrap());
    tokio::time::sleep(2 * DAY).await;
    assert!(matches!(world.start(None).await, Err(RotationError::NoProof)));
    let again = world.start(Some(world.token())).await.unwrap();
    assert!(again.credentials().borrow().is_valid_at(world.now()));
    assert_eq!(world.proofs(), ["join", "join"]);
}

#[tokio::test(start_paused = true)]
async fn an_expired_certificate_is_never_shown_to_the_signer() {
    let world = World::new();
    let rotating = world.start(Some(world.token())).await.unwrap();
    world.signer.fail(away());
    tokio::time::sleep(DAY).await;
    let asked = world.signer.asked();
    world.signer.fail(None);
    // The token has long expired as well.
    assert!(timeout(DAY, rotating.credentials().changed()).await.is_err());
    assert!(world.signer.asked() <= asked + 1);
}

#[tokio::test(start_paused = true)]
async fn a_token_for_somebody_else_or_of_another_authority_begins_anew() {
    let world = World::new();
    drop(world.start(Some(world.token())).await.unwrap());
    // Another authority of the same trust domain, as after a controller lost its state.
    let other = Arc::new(FakeCa::new("east.example"));
    let mut signer = FakeSigner::new(Arc::clone(&other), other.id("shop", "checkout"), DAY);
    signer.clock = Arc::clone(&world.clock);
    let token = world.token_for("checkout", tls::fingerprint(other.root()));
    let rotation = Rotation { signer: Arc::new(signer), ..world.rotation(Some(token)) };
    assert_eq!(**rotation.start().await.unwrap().bundle().borrow(), other.bundle());

    // A token for another account is refused here, and the old identity does not stand in for it.
    world.signer.fail(refused());
    let token = world.token_for("payments", tls::fingerprint(other.root()));
    assert!(matches!(world.start(Some(token)).await, Err(RotationError::Sign(SignError::Refused(_)))));
    // For the same account it does.
    let again = world.start(Some(world.token())).await.unwrap();
    assert_eq!(again.credentials().borrow().id(), &other.id("shop", "checkout"));
}

#[tokio::test(start_paused = true)]
async fn a_signer_that_gives_something_else_is_not_believed() {
    let world = World::new();
    let answer = async |ca: Arc<FakeCa>, account: &str, token: Arc<Token>| {
        let mut signer = FakeSigner::new(Arc::clone(&ca), ca.id("shop", account), DAY);
        signer.clock = Arc::clone(&world.clock);
        let rotation = Rotation { signer: Arc::new(signer), ..world.rotation(Some(token)) };
        match rotation.start().await {
            Err(RotationError::Sign(SignError::Answer(reason))) => reason,
            other => panic!("{other:?}"),
        }
    };
    let reason = answer(Arc::clone(&world.ca), "payments", world.token()).await;
    assert!(reason.contains("sa/payments, not for"), "{reason}");
    let reason = answer(Arc::new(FakeCa::new("west.example")), "checkout", world.token()).await;
    assert!(reason.contains("west.example"), "{reason}");
    let reason = answer(Arc::new(FakeCa::new("east.example")), "checkout", world.token()).await;
    assert!(reason.contains("token's root"), "{reason}");
    assert!(!world.identity_file().exists());
}

#[tokio::test(start_paused = true)]
async fn a_damaged_identity_is_replaced_by_token_and_an_open_one_never_used() {
    let world = World::new();
    drop(world.start(Some(world.token())).await.unwrap());
    let good = fs::read(world.identity_file()).unwrap();
    let put = |content: &[u8], mode: u32| {
        fs::write(world.identity_file(), content).unwrap();
        fs::set_permissions(world.identity_file(), fs::Permissions::from_mode(mode)).unwrap();
    };
    put(b"rubbish", 0o600);
    assert!(matches!(world.start(None).await, Err(RotationError::Store(StoreError::Content { .. }))));
    assert!(world.start(Some(world.token())).await.is_ok());
    put(&good, 0o644);
    for token in [None, Some(world.token())] {
        assert!(matches!(world.start(token).await, Err(RotationError::Store(StoreError::Io { .. }))));
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_disk_it_serves_from_memory() {
    let world = World::new();
    let first = world.start(Some(world.token())).await.unwrap();
    let directory: &Path = &world.state.path().join("identity");
    fs::remove_dir_all(directory).unwrap();
    let mut watch = first.credentials();
    timeout(DAY, watch.changed()).await.unwrap().unwrap();
    assert!(!directory.exists());

    let rotation = Rotation { store: None, ..world.rotation(Some(world.token())) };
    assert!(rotation.start().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_dropped_rotation_asks_no_more() {
    let world = World::new();
    drop(world.start(Some(world.token())).await.unwrap());
    tokio::time::sleep(3 * DAY).await;
    assert_eq!(world.proofs(), ["join"]);
}
