//! The authority that signs, the one that is to follow or came before, and the bundle of both: `tombolo peer rotate`.
//!
//! `STATE_DIR/ca/ca.pem` is the authority that signs. `STATE_DIR/ca/rotation.json` (0600, it may hold a key) is where a
//! rotation stands, and what the bundle is; it is written before `ca.pem`, and what a crash left half done is completed
//! at the next start. Another authority that an operator has put in the place of `ca.pem` is noticed then, too: the roots
//! before stay in the bundle for as long as certificates from them may be valid.
//!
//! A new root is also signed by the one before (a cross certificate). It goes along in every chain as long as somebody
//! has not confirmed the bundle, and for ever in the controller's own: who was away during the rotation can still verify,
//! and hears of the rest. Where either has intermediates, the root's key is elsewhere, and there is none.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::STANDARD};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use tombolo_core::{
    identity::{
        Credentials, KeyRequest,
        files::{read_private, write_private},
    },
    model::{SpiffeId, TrustBundle, TrustDomain},
    tls,
};
use zeroize::{Zeroize, Zeroizing};

use super::{
    CaError, CertificateAuthority, Issued, new_root,
    rotation::{Limits, Phase, Rotation, Step},
    unusable,
};

/// The time spent in a phase is saved when it has grown by this: no more is lost by a crash.
const SAVE_EACH: Duration = Duration::from_secs(30);

/// How long the roots of a cluster wait for those who are away, where nobody says it.
pub const DEFAULT_LEAD: Duration = Duration::from_secs(3600);

/// The longest lead time.
pub const MAX_LEAD: Duration = Duration::from_secs(30 * 86_400);

/// All authorities of one trust domain.
pub struct Authorities {
    directory: PathBuf,
    trust_domain: TrustDomain,
    standing: ArcSwap<Standing>,
    record: Mutex<Record>,
    /// Somebody may not know the root that signs.
    is_behind: AtomicBool,
    /// From the moment that a root signs no more until it leaves the bundle.
    outlive: Duration,
}

/// What is in force.
struct Standing {
    signing: Arc<CertificateAuthority>,
    bundle: Arc<TrustBundle>,
    /// The signing root, signed by the one before, and that one.
    cross: Option<(CertificateDer<'static>, CertificateDer<'static>)>,
    cookie_secret: Vec<u8>,
}

/// A text that leaves memory when it is dropped.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Secret(String);

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// `rotation.json`.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    rotation: Rotation,
    lead: Duration,
    /// Of the bundle.
    sequence: u64,
    /// The bundle, DER in base64.
    roots: Vec<String>,
    /// The root that signs.
    signing: String,
    /// The root that signed before; of use to those who know no other.
    #[serde(default)]
    before: Option<String>,
    /// The signing root, signed by the one before.
    #[serde(default)]
    cross: Option<String>,
    /// The next authority, PEM with its key, until it has taken its place.
    #[serde(default)]
    next: Option<Secret>,
    /// Gateways derive from it the key of the cookies that they issue: it outlives the roots.
    cookie_secret: String,
}

/// Where a rotation stands, to be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// Where, and for how long.
    pub rotation: Rotation,
    /// How long that may take.
    pub limits: Limits,
    /// SHA-256 of the root that signs.
    pub signing: [u8; 32],
}

impl Authorities {
    /// Opens them in `directory` (`STATE_DIR/ca`), or makes a first root there. `outlive` is the longest life of a
    /// certificate and what clocks may differ by.
    pub fn open_or_create(
        directory: &Path,
        trust_domain: &TrustDomain,
        outlive: Duration,
    ) -> Result<Self, CaError> {
        let mut signing = Arc::new(CertificateAuthority::open_or_create(directory, trust_domain)?);
        let kept = read_record(directory)?;
        let mut record = kept.clone().unwrap_or_else(|| Record::first(&signing));
        if record.rotation.phase == Phase::Signing
            && let Some(next) = record.next.take()
        {
            // A crash came between the two files.
            write(&directory.join("ca.pem"), next.0.as_bytes())?;
            let next = CertificateAuthority::from_pem(next.0.as_bytes(), trust_domain, SystemTime::now())?;
            signing = Arc::new(next);
        }
        if record.signing != STANDARD.encode(&signing.root) {
            tracing::warn!("ca.pem is another authority: the roots before stay in the bundle for a while");
            record.replaced_by(&signing);
        }
        let standing = record.standing(signing, trust_domain)?;
        // A full disk keeps nobody from starting with what is on it.
        if kept.as_ref() != Some(&record) {
            write_record(directory, &record)?;
        }
        Ok(Self {
            directory: directory.to_owned(),
            trust_domain: trust_domain.clone(),
            standing: ArcSwap::from_pointee(standing),
            record: Mutex::new(record),
            is_behind: AtomicBool::new(true),
            outlive,
        })
    }

    /// Their trust domain.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// The bundle of the trust domain.
    pub fn bundle(&self) -> Arc<TrustBundle> {
        Arc::clone(&self.standing.load().bundle)
    }

    /// From what the cluster's gateways derive the key that signs issued cookies. It was the first authority's own, and
    /// outlives it.
    pub fn cookie_secret(&self) -> Vec<u8> {
        self.standing.load().cookie_secret.clone()
    }

    /// SHA-256 of the root that signs, for tokens.
    pub fn root_sha256(&self) -> [u8; 32] {
        self.standing.load().signing.root_sha256()
    }

    /// See [`CertificateAuthority::sign_csr`].
    pub fn sign_csr(
        &self,
        csr: &[u8],
        id: &SpiffeId,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Issued, CaError> {
        let standing = self.standing.load();
        let mut issued = standing.signing.sign_csr(csr, id, ttl, now)?;
        if let Some((cross, _)) = standing.cross.as_ref().filter(|_| self.is_behind.load(Relaxed)) {
            issued.chain.push(cross.clone());
        }
        Ok(issued)
    }

    /// Credentials of the controller itself. The roots go along in the chain, so that clients who know one by its
    /// fingerprint only can verify.
    pub fn controller_credentials(
        &self,
        ttl: Duration,
        now: SystemTime,
    ) -> Result<Arc<Credentials>, CaError> {
        let standing = self.standing.load();
        let request = KeyRequest::generate().map_err(unusable)?;
        let id = SpiffeId::controller(&self.trust_domain);
        let mut chain = standing.signing.sign_csr(request.csr_der(), &id, ttl, now)?.chain;
        if let Some((cross, before)) = &standing.cross {
            chain.extend([cross.clone(), before.clone()]);
        }
        chain.push(standing.signing.root.clone());
        Ok(Arc::new(request.with_chain(chain).map_err(unusable)?))
    }

    /// Makes a new root and publishes it; or that of the authority that an operator supplies, in the form of
    /// [`CertificateAuthority::from_pem`]. Blocks for the disk.
    pub fn begin(&self, lead: Duration, supplied: Option<&[u8]>) -> Result<(), CaError> {
        let mut record = self.lock();
        let standing = self.standing.load();
        if record.rotation.phase != Phase::Steady {
            return Err(unusable("a rotation is under way already; `tombolo status` shows how far it is"));
        }
        let now = SystemTime::now();
        let text = match supplied {
            Some(text) => Zeroizing::new(text.to_vec()),
            None if standing.signing.intermediates.is_empty() => new_root(&self.trust_domain, now)?,
            None => {
                return Err(unusable(
                    "this authority was supplied, its root is elsewhere: name the next one by --ca-cert and --ca-key",
                ));
            }
        };
        let next = CertificateAuthority::from_pem(&text, &self.trust_domain, now)?;
        if next.root == standing.signing.root {
            return Err(unusable(
                "its root is the one in use, so that nobody has to hear of it: put it into STATE_DIR/ca/ca.pem and \
                 restart the controller",
            ));
        }
        // What cannot be said later is said now.
        standing.signing.introduces(&next)?;
        let text = std::str::from_utf8(&text).map_err(unusable)?;
        let mut changed = record.clone();
        changed.rotation = Rotation::enter(Phase::Published);
        changed.lead = lead.min(MAX_LEAD);
        changed.next = Some(Secret(text.to_owned()));
        changed.roots.push(STANDARD.encode(&next.root));
        changed.sequence += 1;
        let present = Arc::clone(&standing.signing);
        drop(standing);
        self.adopt(&mut record, changed, present)
    }

    /// Time has passed; `all_confirmed`: everybody who is to know the bundle does. Takes the step that is due, and says
    /// which. Blocks for the disk. After an error all is as before, and the step is due again.
    pub fn pass(&self, passed: Duration, all_confirmed: bool) -> Result<Option<Step>, CaError> {
        let mut record = self.lock();
        let (limits, before) = (self.limits(&record), record.rotation.spent);
        let step = record.rotation.pass(passed, all_confirmed, limits);
        // Also those who are not connected now, and know an older one, until nothing of theirs is valid.
        self.is_behind.store(!all_confirmed || record.rotation.phase != Phase::Steady, Relaxed);
        match step {
            Some(Step::Sign) => self.sign_with_next(&mut record)?,
            Some(Step::Retire) => self.retire(&mut record)?,
            None if record.rotation.phase == Phase::Steady => {}
            None => {
                let marks = |spent: Duration| spent.as_secs() / SAVE_EACH.as_secs();
                if marks(record.rotation.spent) > marks(before) {
                    write_record(&self.directory, &record)?;
                }
            }
        }
        Ok(step)
    }

    fn sign_with_next(&self, record: &mut Record) -> Result<(), CaError> {
        let missing = || unusable("the next authority is not there");
        let text = record.next.clone().ok_or_else(missing)?;
        let next = CertificateAuthority::from_pem(text.0.as_bytes(), &self.trust_domain, SystemTime::now())?;
        let cross = self.standing.load().signing.introduces(&next)?;
        let mut changed = record.clone();
        changed.rotation = Rotation::enter(Phase::Signing);
        changed.before = Some(std::mem::replace(&mut changed.signing, STANDARD.encode(&next.root)));
        changed.cross = cross.map(|cross| STANDARD.encode(&cross));
        // Both files, in this order: the record tells what to do about a file that is missing.
        write_record(&self.directory, &changed)?;
        write(&self.directory.join("ca.pem"), text.0.as_bytes())?;
        changed.next = None;
        self.adopt(record, changed, Arc::new(next))
    }

    fn retire(&self, record: &mut Record) -> Result<(), CaError> {
        let mut changed = record.clone();
        changed.rotation = Rotation::enter(Phase::Steady);
        changed.roots = vec![changed.signing.clone()];
        changed.sequence += 1;
        let present = Arc::clone(&self.standing.load().signing);
        self.adopt(record, changed, present)
    }

    fn adopt(
        &self,
        record: &mut Record,
        changed: Record,
        signing: Arc<CertificateAuthority>,
    ) -> Result<(), CaError> {
        let standing = changed.standing(signing, &self.trust_domain)?;
        write_record(&self.directory, &changed)?;
        *record = changed;
        self.standing.store(Arc::new(standing));
        Ok(())
    }

    /// Where a rotation stands.
    pub fn progress(&self) -> Progress {
        let record = self.lock();
        Progress { rotation: record.rotation, limits: self.limits(&record), signing: self.root_sha256() }
    }

    fn limits(&self, record: &Record) -> Limits {
        Limits { lead: record.lead, outlive: self.outlive }
    }

    fn lock(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Record {
    fn first(signing: &CertificateAuthority) -> Self {
        let root = STANDARD.encode(&signing.root);
        Self {
            sequence: 1,
            roots: vec![root.clone()],
            signing: root,
            cookie_secret: STANDARD.encode(signing.cookie_secret()),
            ..Self::default()
        }
    }

    /// An operator has put another authority in the place of the one before.
    fn replaced_by(&mut self, signing: &CertificateAuthority) {
        let root = STANDARD.encode(&signing.root);
        if !self.roots.contains(&root) {
            self.roots.push(root.clone());
        }
        // There is a bound on the roots of a bundle; the oldest go first.
        self.roots.drain(..self.roots.len().saturating_sub(16));
        (self.before, self.cross, self.next) = (None, None, None);
        self.signing = root;
        self.sequence += 1;
        self.rotation = Rotation::enter(Phase::Signing);
    }

    fn standing(
        &self,
        signing: Arc<CertificateAuthority>,
        trust_domain: &TrustDomain,
    ) -> Result<Standing, CaError> {
        let roots =
            self.roots.iter().map(|root| Ok(Arc::from(decode(root)?))).collect::<Result<_, CaError>>()?;
        let bundle = TrustBundle::new(trust_domain.clone(), roots, self.sequence).map_err(unusable)?;
        tls::check_bundle(&bundle).map_err(unusable)?;
        let certificate = |text: &String| Ok::<_, CaError>(CertificateDer::from(decode(text)?));
        let cross = match (&self.cross, &self.before) {
            (Some(cross), Some(before)) => Some((certificate(cross)?, certificate(before)?)),
            _ => None,
        };
        Ok(Standing { signing, bundle: Arc::new(bundle), cross, cookie_secret: decode(&self.cookie_secret)? })
    }
}

fn decode(text: &str) -> Result<Vec<u8>, CaError> {
    STANDARD.decode(text).map_err(|_| unusable("rotation.json is damaged"))
}

fn read_record(directory: &Path) -> Result<Option<Record>, CaError> {
    let path = directory.join("rotation.json");
    let text = read_private(&path).map_err(|source| CaError::Io { path: path.clone(), source })?;
    let Some(text) = text.map(Zeroizing::new) else { return Ok(None) };
    let record = serde_json::from_slice(&text);
    record
        .map(Some)
        .map_err(|_| unusable(format_args!("{} is damaged; restore it from a backup", path.display())))
}

fn write_record(directory: &Path, record: &Record) -> Result<(), CaError> {
    let text = Zeroizing::new(serde_json::to_vec_pretty(record).map_err(unusable)?);
    write(&directory.join("rotation.json"), &text)
}

fn write(path: &Path, content: &[u8]) -> Result<(), CaError> {
    write_private(path, content).map_err(|source| CaError::Io { path: path.to_owned(), source })
}

impl std::fmt::Debug for Authorities {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authorities").field("trust_domain", &self.trust_domain).finish_non_exhaustive()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
