//! Keeping this process's certificate fresh: obtained or loaded at start, renewed at half of its life, published.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::{sync::watch, task::JoinHandle};

use super::{
    Credentials, Identity, KeyRequest, Proof, Renewals, SignError, Signed, Signer, Store, StoreError, Token,
    TokenError, Watch,
};
use crate::{
    model::{SpiffeId, TrustBundle},
    tls::{self, check_chain},
};

/// Tells the time of day. Passed in, so that tests run a day in milliseconds.
pub type Clock = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The system's clock.
pub fn system_clock() -> Clock {
    Arc::new(SystemTime::now)
}

/// The longest single sleep: a wall clock that was set, or a machine that slept, is noticed after this.
const LONGEST_SLEEP: Duration = Duration::from_secs(300);

/// When to renew, and how patiently.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    /// The part of its remaining life after which a certificate is renewed, over 0 and under 1.
    pub renew_after: f64,
    /// The renewal comes earlier or later by up to this part of that life, so that a fleet that started together does
    /// not renew together.
    pub jitter: f64,
    /// The first wait after a failure; each further one is twice as long.
    pub retry_first: Duration,
    /// The longest wait between two attempts.
    pub retry_last: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        Self {
            renew_after: 0.5,
            jitter: 0.05,
            retry_first: Duration::from_secs(1),
            retry_last: Duration::from_secs(60),
        }
    }
}

/// What the rotation works with.
pub struct Rotation {
    /// Who signs.
    pub signer: Arc<dyn Signer>,
    /// Where the identity outlives the process; none: in memory only.
    pub store: Option<Store>,
    /// For the first certificate, and for the next one if all of the last one's life passed without a renewal.
    pub token: Option<Arc<Token>>,
    /// When.
    pub schedule: Schedule,
    /// What time it is.
    pub clock: Clock,
}

/// Why there is no identity at start. While the signer is merely away, [`Rotation::start`] goes on trying.
#[derive(Debug, thiserror::Error)]
pub enum RotationError {
    /// The identity on disk cannot be used.
    #[error("the identity on disk: {0}")]
    Store(#[from] StoreError),
    /// The join token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// There is no valid identity on disk, and no token to get one.
    #[error("no valid identity on disk; start once with a join token (`tombolo join-token` prints one)")]
    NoProof,
    /// The signer said no, or gave something else than what was asked for.
    #[error(transparent)]
    Sign(#[from] SignError),
}

/// A rotation that runs. Ends when it is dropped.
#[derive(Debug)]
pub struct Rotating {
    credentials: Watch,
    bundle: watch::Receiver<Arc<TrustBundle>>,
    renewals: Arc<Renewals>,
    task: JoinHandle<()>,
}

impl Rotating {
    /// The credentials in force.
    pub fn credentials(&self) -> Watch {
        self.credentials.clone()
    }

    /// The bundle of the own trust domain as it came with the last certificate. Discovery brings changes in between.
    pub fn bundle(&self) -> watch::Receiver<Arc<TrustBundle>> {
        self.bundle.clone()
    }

    /// How renewals go.
    pub fn renewals(&self) -> &Arc<Renewals> {
        &self.renewals
    }
}

impl Drop for Rotating {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Rotation {
    /// Loads the identity, or obtains it by the token, then keeps it fresh on a task of its own. Waits for as long as the
    /// signer is away and the token valid; with a valid identity on disk it does not wait at all.
    pub async fn start(self) -> Result<Rotating, RotationError> {
        let (identity, renew_at) = self.first().await?;
        let (credentials, credentials_watch) = watch::channel(Arc::clone(&identity.credentials));
        let (bundle, bundle_watch) = watch::channel(Arc::clone(&identity.bundle));
        let renewals = Arc::<Renewals>::default();
        let counted = Arc::clone(&renewals);
        let task = tokio::spawn(async move {
            let (mut identity, mut renew_at) = (identity, renew_at);
            loop {
                self.wait_until(renew_at).await;
                identity = self.renew(identity, &counted).await;
                renew_at = self.renewal(self.now(), identity.credentials.not_after());
                bundle.send_replace(Arc::clone(&identity.bundle));
                credentials.send_replace(Arc::clone(&identity.credentials));
                counted.succeed();
            }
        });
        Ok(Rotating { credentials: credentials_watch, bundle: bundle_watch, renewals, task })
    }

    /// The identity to begin with, and when it is to be renewed.
    async fn first(&self) -> Result<(Identity, SystemTime), RotationError> {
        let from_disk = |identity: Identity| {
            let (from, to) = (identity.credentials.not_before(), identity.credentials.not_after());
            (identity, self.renewal(from, to))
        };
        match (self.load()?, self.valid_token()) {
            (Some(stored), _) if self.fits_token(&stored) => Ok(from_disk(stored)),
            (stored, Ok(Some(token))) => match (self.join(token).await, stored) {
                (Ok(identity), _) => {
                    let renew_at = self.renewal(self.now(), identity.credentials.not_after());
                    Ok((identity, renew_at))
                }
                // The authority has another root since the token was printed, and the token was used up back then.
                (Err(error), Some(stored))
                    if token.join_identity().as_ref() == Ok(stored.credentials.id()) =>
                {
                    tracing::warn!(%error, "the join token is of no use; going on with the identity on disk");
                    Ok(from_disk(stored))
                }
                (Err(error), _) => Err(error),
            },
            (_, Ok(None)) => Err(RotationError::NoProof),
            (_, Err(error)) => Err(error.into()),
        }
    }

    /// The identity on disk if it is valid now. A damaged one is as good as none when there is a token; one that others
    /// can read is an error in any case.
    fn load(&self) -> Result<Option<Identity>, RotationError> {
        let Some(store) = &self.store else { return Ok(None) };
        let identity = match store.load() {
            Ok(identity) => identity,
            Err(error @ StoreError::Content { .. }) if self.token.is_some() => {
                tracing::warn!(%error, "the identity on disk is not usable; a new one is asked for");
                None
            }
            Err(error) => return Err(error.into()),
        };
        Ok(identity.filter(|identity| {
            match check_chain(identity.credentials.chain(), &identity.bundle, self.now()) {
                Ok(_) => true,
                Err(error) => {
                    tracing::info!(%error, "the identity on disk is not valid any more");
                    false
                }
            }
        }))
    }

    /// True unless a token that is still valid speaks of another identity or another root.
    fn fits_token(&self, identity: &Identity) -> bool {
        let Ok(Some(token)) = self.valid_token() else { return true };
        token.join_identity().is_ok_and(|id| id == *identity.credentials.id())
            && holds_root(&identity.bundle, &token.root_sha256)
    }

    fn valid_token(&self) -> Result<Option<&Arc<Token>>, TokenError> {
        let Some(token) = &self.token else { return Ok(None) };
        token.join_identity()?;
        token.check_time(self.now())?;
        Ok(Some(token))
    }

    /// The first certificate, by token.
    async fn join(&self, token: &Arc<Token>) -> Result<Identity, RotationError> {
        let id = token.join_identity()?;
        let mut wait = self.schedule.retry_first;
        loop {
            token.check_time(self.now())?;
            match self.sign(&id, &Proof::Join(Arc::clone(token))).await {
                Ok(identity) => return Ok(identity),
                Err(SignError::Away(reason)) => {
                    tracing::warn!(reason, "no certificate yet; trying again");
                }
                Err(error) => return Err(error.into()),
            }
            wait = self.back_off(wait).await;
        }
    }

    /// The next certificate; tries until it has it. A refusal is final for a join, but not here: the process serves on
    /// while its certificate lasts, and the signer may change its mind.
    async fn renew(&self, identity: Identity, renewals: &Renewals) -> Identity {
        let id = identity.credentials.id().clone();
        let mut wait = self.schedule.retry_first;
        loop {
            match self.proof(&identity) {
                Some(proof) => match self.sign(&id, &proof).await {
                    Ok(identity) => return identity,
                    Err(error) => {
                        let not_after = identity.credentials.not_after();
                        tracing::warn!(%error, ?not_after, "the certificate was not renewed");
                        renewals.fail(error.to_string());
                    }
                },
                None => {
                    tracing::error!(%id, "the certificate has expired, and there is no token to get a new one");
                    renewals.fail("there is no valid join token; start anew with one".into());
                }
            }
            wait = self.back_off(wait).await;
        }
    }

    fn proof(&self, identity: &Identity) -> Option<Proof> {
        if identity.credentials.is_valid_at(self.now()) {
            return Some(Proof::Current(identity.clone()));
        }
        self.valid_token().ok().flatten().map(|token| Proof::Join(Arc::clone(token)))
    }

    /// One exchange with the signer; what it gives is checked, saved and returned.
    async fn sign(&self, id: &SpiffeId, proof: &Proof) -> Result<Identity, SignError> {
        let request = KeyRequest::generate().map_err(|error| SignError::Away(error.to_string()))?;
        let Signed { chain, bundle } = self.signer.sign(request.csr_der(), proof).await?;
        let refuse = |reason: String| SignError::Answer(reason);
        let credentials = request.with_chain(chain).map_err(|error| refuse(error.to_string()))?;
        self.check(&credentials, &bundle, id, proof).map_err(refuse)?;
        let identity = Identity { credentials: Arc::new(credentials), bundle: Arc::new(bundle) };
        if let Some(Err(error)) = self.store.as_ref().map(|store| store.save(&identity)) {
            // It serves from memory; only a restart without the signer would suffer.
            tracing::error!(%error, "the new identity was not saved");
        }
        Ok(identity)
    }

    fn check(
        &self,
        credentials: &Credentials,
        bundle: &TrustBundle,
        id: &SpiffeId,
        proof: &Proof,
    ) -> Result<(), String> {
        let signed =
            check_chain(credentials.chain(), bundle, self.now()).map_err(|error| error.to_string())?;
        if signed != *id {
            return Err(format!("the certificate is for {signed}, not for {id}"));
        }
        match proof {
            Proof::Join(token) if !holds_root(bundle, &token.root_sha256) => {
                Err("the trust bundle does not hold the token's root".into())
            }
            _ => Ok(()),
        }
    }

    fn now(&self) -> SystemTime {
        (self.clock)()
    }

    /// The moment to renew what is valid from `from` to `to`.
    fn renewal(&self, from: SystemTime, to: SystemTime) -> SystemTime {
        let life = to.duration_since(from).unwrap_or_default();
        let Schedule { renew_after, jitter, .. } = self.schedule;
        let part = (renew_after + jitter * (2.0 * random_fraction() - 1.0)).clamp(0.0, 1.0);
        // Never at once again: a signer that gives very short lives is asked at the pace of retries.
        let earliest = self.now() + self.schedule.retry_first;
        (from + life.mul_f64(part)).max(earliest)
    }

    async fn wait_until(&self, at: SystemTime) {
        while let Ok(left) = at.duration_since(self.now()) {
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_SLEEP)).await;
        }
    }

    /// Waits for half of `wait` to all of it; returns the next wait.
    async fn back_off(&self, wait: Duration) -> Duration {
        tokio::time::sleep(wait.mul_f64(0.5 + 0.5 * random_fraction())).await;
        (wait * 2).min(self.schedule.retry_last)
    }
}

fn holds_root(bundle: &TrustBundle, fingerprint: &[u8; 32]) -> bool {
    bundle.roots.iter().any(|root| tls::fingerprint(root) == *fingerprint)
}

/// Between 0 and 1, for jitter. One half if the system gives no random bytes.
fn random_fraction() -> f64 {
    let mut bytes = [0; 4];
    match ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
