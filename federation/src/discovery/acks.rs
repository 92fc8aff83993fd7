//! Which proxies have taken the documents of the configuration over.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;
use tombolo_core::model::SpiffeId;

use super::stream::Viewer;

/// What is known of every open stream. As many entries as there are streams, which are bounded.
#[derive(Default)]
pub(super) struct Acks {
    proxies: Mutex<BTreeMap<u64, Proxy>>,
    changes: watch::Sender<u64>,
}

struct Proxy {
    id: String,
    is_gateway: bool,
    /// Up to which revision of the documents it was told everything and has answered; none: not yet, or it has not asked.
    answered: Option<u64>,
    /// The same of trust bundles.
    trust: Option<u64>,
    /// The last revision at which it refused something, and why.
    refused: Option<(u64, String)>,
}

/// Who is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Whom {
    /// Every proxy.
    All,
    /// Gateways; at least one has to be there.
    Gateways,
}

impl Whom {
    fn means(self, proxy: &Proxy) -> bool {
        self == Self::All || proxy.is_gateway
    }
}

/// How far the proxies are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Acknowledged {
    /// Proxies that are connected.
    pub proxies: usize,
    /// Those that have not answered, by identity.
    pub waiting: Vec<String>,
    /// Those that have refused a part of it, by identity, with the reason.
    pub refused: Vec<String>,
}

impl Acks {
    /// A stream begins.
    pub(super) fn open(self: &Arc<Self>, id: &SpiffeId) -> AckStream {
        let mut proxies = self.lock();
        let number = proxies.last_key_value().map_or(0, |(last, _)| last + 1);
        let is_gateway = Viewer::of(id).is_gateway;
        proxies.insert(
            number,
            Proxy { id: id.to_string(), is_gateway, answered: None, trust: None, refused: None },
        );
        AckStream { acks: Arc::clone(self), number }
    }

    /// Waits until every connected proxy of these has answered for this revision.
    pub(super) async fn wait(&self, revision: u64, whom: Whom) {
        let mut changes = self.changes.subscribe();
        let is_done =
            |report: &Acknowledged| report.waiting.is_empty() && (whom == Whom::All || report.proxies > 0);
        while !is_done(&self.report(revision, whom)) {
            // The sender is our own.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Who has answered for this revision, and who has not.
    pub(super) fn report(&self, revision: u64, whom: Whom) -> Acknowledged {
        let proxies = self.lock();
        let mut report = Acknowledged::default();
        for proxy in proxies.values().filter(|proxy| whom.means(proxy)) {
            report.proxies += 1;
            if proxy.answered.is_none_or(|answered| answered < revision) {
                report.waiting.push(proxy.id.clone());
            } else if let Some((_, why)) = proxy.refused.as_ref().filter(|(at, _)| *at >= revision) {
                report.refused.push(format!("{}: {why}", proxy.id));
            }
        }
        report
    }

    /// Who has not taken the trust bundles of this revision over, by identity.
    pub(super) fn without_trust(&self, revision: u64) -> Vec<String> {
        let proxies = self.lock();
        let late = proxies.values().filter(|proxy| proxy.trust.is_none_or(|answered| answered < revision));
        late.map(|proxy| proxy.id.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Proxy>> {
        self.proxies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Acks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acks").field("proxies", &self.lock().len()).finish_non_exhaustive()
    }
}

/// One stream's entry, for as long as it is open.
pub(super) struct AckStream {
    acks: Arc<Acks>,
    number: u64,
}

impl AckStream {
    /// The proxy has answered for everything up to this revision.
    pub(super) fn answered(&self, revision: u64) {
        self.change(|proxy| proxy.answered.replace(revision) != Some(revision));
    }

    /// The same of trust bundles.
    pub(super) fn trust_answered(&self, revision: u64) {
        self.change(|proxy| proxy.trust.replace(revision) != Some(revision));
    }

    /// It has refused a part of what it was told up to this revision.
    pub(super) fn refused(&self, revision: u64, why: &str) {
        let why = why.chars().take(1000).collect();
        self.change(|proxy| {
            proxy.refused = Some((revision, why));
            true
        });
    }

    fn change(&self, change: impl FnOnce(&mut Proxy) -> bool) {
        let changed = self.acks.lock().get_mut(&self.number).is_some_and(change);
        if changed {
            self.acks.changes.send_modify(|count| *count += 1);
        }
    }
}

impl Drop for AckStream {
    fn drop(&mut self) {
        self.acks.lock().remove(&self.number);
        self.acks.changes.send_modify(|count| *count += 1);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn id(account: &str) -> SpiffeId {
        SpiffeId::parse(&format!("spiffe://east.example/ns/shop/sa/{account}")).unwrap()
    }

    #[tokio::test]
    async fn all_connected_proxies_are_waited_for_and_those_that_go_are_not() {
        let acks = Arc::new(Acks::default());
        acks.wait(7, Whom::All).await;
        let (a, b) = (acks.open(&id("a")), acks.open(&id("b")));
        a.answered(7);
        b.answered(6);
        assert_eq!(acks.report(7, Whom::All).waiting, [id("b").to_string()]);
        let waiting = tokio::spawn({
            let acks = Arc::clone(&acks);
            async move { acks.wait(7, Whom::All).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(b);
        waiting.await.unwrap();
        assert_eq!(acks.report(7, Whom::All), Acknowledged { proxies: 1, ..Default::default() });
    }

    #[tokio::test]
    async fn gateways_alone_are_waited_for_and_at_least_one() {
        let acks = Arc::new(Acks::default());
        let waiting = tokio::spawn({
            let acks = Arc::clone(&acks);
            async move { acks.wait(7, Whom::Gateways).await }
        });
        let _sidecar = acks.open(&id("a"));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "there is none");
        let gateway = SpiffeId::parse("spiffe://east.example/ns/tombolo-system/sa/gateway").unwrap();
        let gateway = acks.open(&gateway);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "it has not answered");
        gateway.answered(7);
        waiting.await.unwrap();
        assert_eq!(acks.report(7, Whom::Gateways), Acknowledged { proxies: 1, ..Default::default() });
    }

    #[test]
    fn a_refusal_is_told_for_the_revision_that_was_refused_and_not_later() {
        let acks = Arc::new(Acks::default());
        let a = acks.open(&id("a"));
        a.refused(7, "no such kind");
        a.answered(7);
        assert_eq!(acks.report(7, Whom::All).refused, [format!("{}: no such kind", id("a"))]);
        a.answered(8);
        assert!(acks.report(8, Whom::All).refused.is_empty());
    }
}
