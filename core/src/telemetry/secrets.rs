//! What metrics of certificates have in common: gauges of each Secret, and counters by result.

use dashmap::DashSet;
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Secret {
    secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Result {
    result: &'static str,
}

/// Gauges that are shown of each Secret for as long as it is wanted.
pub(super) struct SecretGauges<const N: usize> {
    gauges: [Family<Secret, Gauge>; N],
    shown: DashSet<String>,
}

impl<const N: usize> SecretGauges<N> {
    /// With their names and help texts.
    pub fn register(registry: &mut Registry, named: [(&str, &str); N]) -> Self {
        let gauges = named.map(|(name, help)| {
            let family = Family::default();
            registry.register(name, help, family.clone());
            family
        });
        Self { gauges, shown: DashSet::new() }
    }

    /// The values of a Secret, in the order of the names; one that has none is not shown.
    pub fn set(&self, secret: &str, values: [Option<i64>; N]) {
        let labels = Secret { secret: secret.to_owned() };
        for (gauge, value) in self.gauges.iter().zip(values) {
            match value {
                Some(value) => drop(gauge.get_or_create(&labels).set(value)),
                None => drop(gauge.remove(&labels)),
            }
        }
        self.shown.insert(labels.secret);
    }

    /// Those that are wanted no more are not shown.
    pub fn retain(&self, is_wanted: impl Fn(&str) -> bool) {
        self.shown.retain(|secret| {
            let stays = is_wanted(secret);
            if !stays {
                let labels = Secret { secret: secret.clone() };
                for gauge in &self.gauges {
                    gauge.remove(&labels);
                }
            }
            stays
        });
    }

    /// How many Secrets are shown.
    pub fn len(&self) -> usize {
        self.shown.len()
    }
}

/// Counts what was tried, by how it ended.
pub(super) struct Results(Family<Result, Counter>);

impl Results {
    pub fn register(registry: &mut Registry, name: &str, help: &str) -> Self {
        let family = Family::default();
        registry.register(name, help, family.clone());
        Self(family)
    }

    pub fn count(&self, result: &'static str) {
        self.0.get_or_create(&Result { result }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_for_as_long_as_it_is_wanted() {
        let mut registry = Registry::default();
        let gauges = SecretGauges::register(&mut registry, [("expires", "When"), ("missing", "Whether")]);
        gauges.set("shop/a", [Some(5), Some(1)]);
        gauges.set("shop/b", [Some(6), Some(0)]);
        gauges.set("shop/a", [None, Some(0)]);
        gauges.retain(|secret| secret == "shop/a");
        let mut text = String::new();
        let _written = prometheus_client::encoding::text::encode(&mut text, &registry);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!((lines, gauges.len()), (vec!["missing{secret=\"shop/a\"} 0"], 1));
    }
}
