//! What AuthorizationPolicies decide, and what those with `dryRun` would.

use std::fmt;

use dashmap::DashMap;
use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::labels::{OVERFLOW, encode_set};
use crate::decide::{Judgement, Verdict};

/// Label sets, of which a policy has four at most; what comes after them is counted by result alone, with
/// `otel_metric_overflow`.
const MAX_LABEL_SETS: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Labels {
    policy: String,
    action: &'static str,
    result: &'static str,
    dry_run: bool,
    overflow: bool,
}

impl EncodeLabelSet for Labels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        let labels = [
            ("policy", &*self.policy),
            ("action", self.action),
            ("result", self.result),
            ("dry_run", if self.dry_run { "true" } else { "false" }),
            (OVERFLOW, if self.overflow { "true" } else { "" }),
        ];
        encode_set(&labels, encoder)
    }
}

/// `tombolo_authorization_decisions_total`.
#[derive(Default)]
pub(super) struct Decisions {
    family: Family<Labels, Counter>,
    counters: DashMap<u64, Counter>,
}

impl Decisions {
    pub fn register(registry: &mut Registry) -> Self {
        let decisions = Self::default();
        let help = "Calls that AuthorizationPolicies judged; with dry_run, what those on trial would have made of them";
        registry.register("authorization_decisions", help, decisions.family.clone());
        decisions
    }

    pub fn count(&self, verdict: &Verdict) {
        self.of(&verdict.enforced, false).inc();
        if let Some(judged) = &verdict.dry_run {
            self.of(judged, true).inc();
        }
    }

    fn of(&self, judged: &Judgement, dry_run: bool) -> Counter {
        let key = hash(judged, dry_run);
        if let Some(counter) = self.counters.get(&key) {
            return counter.clone();
        }
        let mut labels = Labels {
            policy: judged.policy().to_owned(),
            action: judged.action(),
            result: judged.result(),
            dry_run,
            overflow: false,
        };
        if self.counters.len() >= MAX_LABEL_SETS {
            labels = Labels { policy: String::new(), action: "", overflow: true, ..labels };
            return self.family.get_or_create_owned(&labels);
        }
        let counter = self.family.get_or_create_owned(&labels);
        self.counters.insert(key, counter.clone());
        counter
    }
}

fn hash(judged: &Judgement, dry_run: bool) -> u64 {
    let flags = u64::from(judged.allowed) | u64::from(dry_run) << 1;
    let action = xxh3_64_with_seed(judged.action().as_bytes(), flags);
    xxh3_64_with_seed(judged.policy().as_bytes(), action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decide::Basis;

    fn verdict(name: &str, allowed: bool) -> Verdict {
        let basis = Basis::Policy { name: name.into(), deny: !allowed };
        Verdict { enforced: Judgement { allowed, basis }, dry_run: None }
    }

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        let _written = prometheus_client::encoding::text::encode(&mut text, registry);
        text
    }

    #[test]
    fn what_was_done_and_what_would_be_are_counted_apart() {
        let mut registry = Registry::default();
        let decisions = Decisions::register(&mut registry);
        let on_trial = Judgement { allowed: false, basis: Basis::ForeignTrustDomain };
        decisions.count(&Verdict { dry_run: Some(on_trial), ..verdict("shop/a", true) });
        decisions.count(&verdict("shop/a", true));
        let text = text(&registry);
        let line = "authorization_decisions_total{policy=\"shop/a\",action=\"ALLOW\",result=\"allow\",dry_run=\"false\"} 2";
        assert!(text.contains(line), "{text}");
        let line = "authorization_decisions_total{policy=\"foreign-trust-domain\",action=\"none\",result=\"deny\",dry_run=\"true\"} 1";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn label_sets_are_bounded() {
        let mut registry = Registry::default();
        let decisions = Decisions::register(&mut registry);
        for n in 0..2 * MAX_LABEL_SETS {
            decisions.count(&verdict(&format!("shop/{n}"), false));
        }
        let text = text(&registry);
        assert_eq!(text.lines().filter(|line| line.starts_with("authorization")).count(), MAX_LABEL_SETS + 1);
        let over = format!("otel_metric_overflow=\"true\"}} {MAX_LABEL_SETS}");
        assert!(text.contains(&over), "{text}");
    }
}
