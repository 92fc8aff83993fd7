//! Whether this process's certificate is renewed in time: in readiness, metrics and the log.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use crate::{
    identity::{self, Clock, Renewals, Standing},
    lifecycle::{Readiness, Task},
    model::SpiffeId,
    telemetry::Telemetry,
};

/// How often it is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What is looked at, and where it is shown.
pub(super) struct Watching {
    pub credentials: identity::Watch,
    pub renewals: Arc<Renewals>,
    pub clock: Clock,
    pub readiness: Readiness,
    pub telemetry: Arc<Telemetry>,
}

/// What was shown last.
struct Shown {
    valid: Task,
    standing: Standing,
    renewed: u64,
    failed: u64,
}

impl Watching {
    /// Shows how the certificate stands, at once, and then until the member that has it is dropped.
    pub fn start(self) {
        let valid = self.readiness.task("a valid mesh certificate");
        let mut shown = Shown { valid, standing: Standing::Good, renewed: 0, failed: 0 };
        self.show(&mut shown);
        let mut changes = self.credentials.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    changed = changes.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(LOOK) => {}
                }
                self.show(&mut shown);
            }
        });
    }

    fn show(&self, shown: &mut Shown) {
        let now = (self.clock)();
        let credentials = Arc::clone(&self.credentials.borrow());
        let metrics = self.telemetry.identity();
        metrics.remaining(credentials.id(), seconds_between(now, credentials.not_after()));
        let (renewed, failed) = (self.renewals.renewed(), self.renewals.failed());
        (shown.renewed..renewed).for_each(|_| metrics.renewal("renewed"));
        (shown.failed..failed).for_each(|_| metrics.renewal("failed"));
        (shown.renewed, shown.failed) = (renewed, failed);

        let standing = self.renewals.standing(&credentials, now);
        let id = credentials.id();
        let trouble = match standing {
            Standing::Good => None,
            Standing::Late { .. } => Some(standing.to_string()),
            Standing::Expired { .. } => Some(format!("{standing}; {}", remedy(id))),
        };
        self.readiness.degraded("certificate", trouble);
        match standing {
            Standing::Expired { .. } => shown.valid.undone(),
            _ => shown.valid.done(),
        }
        if std::mem::discriminant(&standing) != std::mem::discriminant(&shown.standing) {
            match &standing {
                Standing::Good => tracing::info!("{standing} and renewed again"),
                Standing::Late { .. } => tracing::warn!("{standing}"),
                Standing::Expired { .. } => {
                    tracing::error!("{standing}; no peer takes it, nor does the controller: {}", remedy(id));
                }
            }
        }
        shown.standing = standing;
    }
}

/// What helps once a certificate has expired.
fn remedy(id: &SpiffeId) -> String {
    let (namespace, account) = (id.namespace(), id.account());
    format!(
        "once a controller is there, run `tombolo join-token --namespace {namespace} --account {account}` beside it, and \
         start this process again with --join-token; its state directory may stay"
    )
}

/// From `from` to `to`; below 0 where `to` is earlier.
fn seconds_between(from: SystemTime, to: SystemTime) -> i64 {
    let whole = |length: Duration| i64::try_from(length.as_secs()).unwrap_or(i64::MAX);
    match to.duration_since(from) {
        Ok(left) => whole(left),
        Err(over) => -whole(over.duration()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{
        identity::{
            Purpose, Rotation, Schedule, Secret, SignError, Signer, Token,
            testing::{FakeCa, FakeSigner},
        },
        telemetry::AccessLog,
        tls,
    };

    const REMAINING: &str =
        r#"tombolo_identity_remaining_seconds{id="spiffe://east.example/ns/shop/sa/checkout"}"#;
    const DAY: Duration = Duration::from_secs(24 * 3600);

    /// A rotation whose clock is tokio's, and where its certificate is shown.
    struct World {
        signer: Arc<FakeSigner>,
        readiness: Readiness,
        telemetry: Arc<Telemetry>,
        rotating: identity::Rotating,
    }

    impl World {
        async fn new() -> Self {
            let (started, base) = (Instant::now(), SystemTime::now());
            let clock: Clock = Arc::new(move || base + started.elapsed());
            let ca = Arc::new(FakeCa::new("east.example"));
            let mut signer = FakeSigner::new(Arc::clone(&ca), ca.id("shop", "checkout"), DAY);
            signer.clock = Arc::clone(&clock);
            let signer = Arc::new(signer);
            let token = Token {
                addresses: vec!["127.0.0.1:1".into()],
                trust_domain: ca.trust_domain().clone(),
                root_sha256: tls::fingerprint(ca.root()),
                secret: Secret::generate().unwrap(),
                expires: base + Duration::from_secs(60),
                purpose: Purpose::Join { namespace: "shop".into(), account: "checkout".into() },
            };
            let rotation = Rotation {
                signer: Arc::clone(&signer) as Arc<dyn Signer>,
                store: None,
                token: Some(Arc::new(token)),
                schedule: Schedule::default(),
                clock: Arc::clone(&clock),
            };
            let rotating = rotation.start().await.unwrap();
            let (readiness, telemetry) = (Readiness::default(), Arc::new(Telemetry::new(AccessLog::off())));
            let watching = Watching {
                credentials: rotating.credentials(),
                renewals: Arc::clone(rotating.renewals()),
                clock,
                readiness: readiness.clone(),
                telemetry: Arc::clone(&telemetry),
            };
            watching.start();
            Self { signer, readiness, telemetry, rotating }
        }

        fn metric(&self, name: &str) -> Option<i64> {
            let text = self.telemetry.encode();
            let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            value.map(|value| value.parse().unwrap())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_controller_that_is_away_shows_long_before_the_certificate_expires() {
        let world = World::new().await;
        let failed = "tombolo_identity_renewals_total{result=\"failed\"}";
        assert!(world.readiness.is_ready() && world.readiness.troubles().is_empty());
        let left = world.metric(REMAINING).unwrap();
        assert!((86_398..=86_400).contains(&left), "{left}");

        world.signer.fail(Some(SignError::Away("no route".into())));
        tokio::time::sleep(DAY * 7 / 10).await;
        assert!(world.metric(failed) > Some(1), "it has been failing since half of its life");
        assert!(world.readiness.is_ready() && world.readiness.troubles().is_empty(), "there is time");

        tokio::time::sleep(DAY / 10).await;
        assert!(world.readiness.is_ready());
        let troubles = world.readiness.troubles();
        assert!(troubles[0].contains("expires in") && troubles[0].contains("no route"), "{troubles:?}");
        let left = world.metric(REMAINING).unwrap();
        assert!((17_270..=17_290).contains(&left), "{left}");

        tokio::time::sleep(DAY / 4).await;
        assert_eq!(world.readiness.missing(), ["a valid mesh certificate"]);
        let troubles = world.readiness.troubles();
        assert!(troubles[0].contains("has expired"), "{troubles:?}");
        let remedy = "`tombolo join-token --namespace shop --account checkout`";
        assert!(troubles[0].contains(remedy) && troubles[0].contains("--join-token"), "{troubles:?}");
        assert!(world.metric(REMAINING) < Some(0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_makes_it_good_again_and_who_left_is_watched_no_more() {
        let world = World::new().await;
        world.signer.fail(Some(SignError::Away("no route".into())));
        tokio::time::sleep(DAY * 8 / 10).await;
        assert_eq!(world.readiness.troubles().len(), 1);
        world.signer.fail(None);
        tokio::time::sleep(Duration::from_secs(65)).await;
        assert!(world.readiness.is_ready() && world.readiness.troubles().is_empty());
        assert_eq!(world.metric("tombolo_identity_renewals_total{result=\"renewed\"}"), Some(1));
        assert!(world.metric(REMAINING) > Some(86_000));

        let World { telemetry, rotating, .. } = world;
        drop(rotating);
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert_eq!(Arc::strong_count(&telemetry), 1, "the task has ended");
    }

    #[test]
    fn a_moment_that_has_passed_is_below_zero() {
        let (now, minute) = (SystemTime::now(), Duration::from_secs(60));
        assert_eq!((seconds_between(now, now + minute), seconds_between(now + minute, now)), (60, -60));
    }
}
