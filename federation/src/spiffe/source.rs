//! One endpoint that a foreign bundle comes from: what is held, what is taken, and when it is asked again. No I/O.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tombolo_core::{model::TrustDomain, resources::kinds::BundleEndpoint, spiffe::Document};

/// How often an endpoint is asked that does not say it (SPIFFE Trust Domain and Bundle, section 4.1.3).
const DEFAULT_REFRESH: Duration = Duration::from_secs(300);
/// The pause after the first failure; each further one doubles it.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest pause after failures.
const LAST_PAUSE: Duration = Duration::from_secs(300);

/// How often an endpoint is asked, whatever it says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// No more often than this.
    pub least: Duration,
    /// No more seldom.
    pub most: Duration,
}

/// An endpoint.
#[derive(Debug)]
pub struct Source {
    /// The Peer document that names it.
    pub peer: String,
    /// Whose bundle it is.
    pub domain: TrustDomain,
    /// Where, and how.
    pub endpoint: Arc<BundleEndpoint>,
    /// The last good bundle.
    pub held: Option<Document>,
    /// When it was taken, or found to be the same, last.
    pub fetched: Option<SystemTime>,
    /// Why the last attempt failed.
    pub error: Option<String>,
    /// When it is asked next.
    pub due: Instant,
    /// Somebody asks at this moment.
    pub is_asked: bool,
    failures: u32,
}

impl Source {
    /// An endpoint that is asked at once. `held`: what was kept of it.
    pub fn new(
        peer: &str,
        domain: TrustDomain,
        endpoint: Arc<BundleEndpoint>,
        held: Option<Document>,
        now: Instant,
    ) -> Self {
        // Checked when the document was read.
        let first = || Document::parse(endpoint.bundle.as_deref()?.as_bytes(), &domain).ok();
        Self {
            peer: peer.to_owned(),
            held: held.or_else(first),
            domain,
            endpoint,
            fetched: None,
            error: None,
            due: now,
            is_asked: false,
            failures: 0,
        }
    }

    /// Takes an answer, or why there is none. True: another bundle is held now. What is not good enough changes nothing.
    pub fn answered(&mut self, answer: Result<&[u8], String>, now: Instant, pace: Pace) -> bool {
        self.is_asked = false;
        match answer.and_then(|text| self.judge(text)) {
            Ok(document) => {
                let changed = document.is_some();
                self.held = document.or_else(|| self.held.take());
                let hint = self.held.as_ref().and_then(|held| held.refresh_hint).unwrap_or(DEFAULT_REFRESH);
                self.due = now + hint.clamp(pace.least, pace.most);
                (self.failures, self.error, self.fetched) = (0, None, Some(SystemTime::now()));
                changed
            }
            Err(error) => {
                if self.error.as_ref() != Some(&error) {
                    tracing::warn!(trust_domain = %self.domain, url = self.endpoint.url, error, "no new trust bundle");
                }
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(16)).min(LAST_PAUSE);
                self.due = now + pause.clamp(pace.least.min(FIRST_PAUSE), pace.most);
                self.failures = self.failures.saturating_add(1);
                self.error = Some(error);
                false
            }
        }
    }

    /// What is to be held from now on; none: what is held already.
    fn judge(&self, text: &[u8]) -> Result<Option<Document>, String> {
        let mut document = Document::parse(text, &self.domain).map_err(|error| error.to_string())?;
        let Some(held) = &self.held else { return Ok(Some(document)) };
        let (new, old) = (document.bundle.sequence, held.bundle.sequence);
        let is_same = document.bundle.roots == held.bundle.roots;
        match (document.has_sequence, held.has_sequence) {
            (true, true) if new < old => Err(format!("its sequence went back from {old} to {new}")),
            (true, true) if new == old && !is_same => {
                Err(format!("its roots have changed, and its sequence is still {old}"))
            }
            // Numbered here, so that proxies see a change.
            (false, _) if !is_same => {
                document.bundle.sequence = old + 1;
                Ok(Some(document))
            }
            _ if is_same && (new == old || !document.has_sequence) => Ok(None),
            _ => Ok(Some(document)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tombolo_core::{identity::testing::FakeCa, model::TrustBundle, resources::kinds::BundleProfile};

    use super::*;

    const PACE: Pace = Pace { least: Duration::from_secs(10), most: Duration::from_secs(3600) };

    fn document(ca: &FakeCa, sequence: Option<u64>, hint: Option<u64>) -> String {
        let bundle = TrustBundle { sequence: sequence.unwrap_or(0), ..ca.bundle() };
        let refresh_hint = hint.map(Duration::from_secs);
        Document { bundle, has_sequence: sequence.is_some(), refresh_hint }.print()
    }

    fn source(bundle: Option<String>) -> (Source, Instant) {
        let (spiffe_id, ca_certificates) = (None, None);
        let url = "https://spire.example/".into();
        let endpoint =
            BundleEndpoint { url, profile: BundleProfile::Web, spiffe_id, ca_certificates, bundle };
        let (domain, now) = (TrustDomain::parse("north.example").unwrap(), Instant::now());
        (Source::new("north", domain, Arc::new(endpoint), None, now), now)
    }

    #[test]
    fn newer_bundles_are_taken_older_ones_and_changes_in_secret_are_not() {
        let (one, two) = (FakeCa::new("north.example"), FakeCa::new("north.example"));
        let (mut source, now) = source(Some(document(&one, Some(3), None)));
        let roots = |source: &Source| source.held.as_ref().unwrap().bundle.roots.clone();
        let mut takes = |text: String| {
            let changed = source.answered(Ok(text.as_bytes()), now, PACE);
            (changed, source.error.clone(), roots(&source))
        };
        let (first, second) = (one.bundle().roots, two.bundle().roots);
        assert_eq!(takes(document(&one, Some(3), None)), (false, None, first.clone()));
        let (changed, error, held) = takes(document(&two, Some(2), None));
        assert!(!changed && error.unwrap().contains("went back from 3 to 2") && held == first);
        let (changed, error, held) = takes(document(&two, Some(3), None));
        assert!(!changed && error.unwrap().contains("still 3") && held == first);
        assert_eq!(takes(document(&two, Some(4), None)), (true, None, second.clone()), "never merged");
        let (changed, error, held) = takes("{}".into());
        assert!(!changed && error.unwrap().contains("no JWK Set") && held == second);
        // Without a sequence the content counts.
        assert_eq!(takes(document(&two, None, None)), (false, None, second));
        assert_eq!(takes(document(&one, None, None)), (true, None, first));
        assert_eq!(source.held.unwrap().bundle.sequence, 5);
    }

    #[test]
    fn it_is_asked_by_its_hint_within_bounds_and_less_often_while_it_fails() {
        let ca = FakeCa::new("north.example");
        let (mut source, now) = source(None);
        for (hint, seconds) in [(Some(600), 600), (Some(1), 10), (Some(1 << 40), 3600), (None, 300)] {
            source.answered(Ok(document(&ca, Some(1), hint).as_bytes()), now, PACE);
            // The hint of what is held counts: a bundle that has not changed says no new one.
            source.held = None;
            assert_eq!(source.due, now + Duration::from_secs(seconds), "{hint:?}");
        }
        let mut pauses = Vec::new();
        for _ in 0..12 {
            source.answered(Err("away".into()), now, PACE);
            pauses.push((source.due - now).as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
    }
}
