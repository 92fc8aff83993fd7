//! Which services select a workload, without a look at all services.

use std::collections::{BTreeMap, HashMap};

use super::{Configuration, Name, Registration};

/// Services by one label of their selectors: a workload that a service selects has that label.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    /// By namespace, label and value.
    services: HashMap<String, HashMap<String, HashMap<String, Vec<Name>>>>,
}

impl Selectors {
    /// Of these documents.
    pub fn of(configuration: &Configuration) -> Self {
        let mut selectors = Self::default();
        for (name, spec) in &configuration.services {
            let Some((label, value)) = spec.selector.first_key_value() else { continue };
            let inside = selectors.services.entry(name.namespace.to_string()).or_default();
            let values = inside.entry(label.clone()).or_default();
            values.entry(value.clone()).or_default().push(name.clone());
        }
        selectors
    }

    /// Those that may select this workload: the rest of their selectors decides.
    pub fn candidates<'a>(&'a self, workload: &'a Registration) -> impl Iterator<Item = &'a Name> {
        let inside = self.services.get(workload.namespace.as_str());
        let labels = workload.labels.iter();
        let found = labels.filter_map(move |(label, value)| inside?.get(label)?.get(value));
        found.flatten()
    }
}

/// Whether labels have all that a selector asks for. One that asks for nothing selects nobody.
pub(super) fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    !selector.is_empty() && selector.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::{
        super::{Changes, Event, Index, Moment, Restored, ServiceSpec, tests::kit},
        *,
    };

    fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    #[test]
    fn a_selector_asks_for_all_of_its_labels_and_none_asks_for_nobody() {
        let workload = labels(&[("app", "checkout"), ("tier", "back")]);
        for (selector, selected) in [
            (labels(&[("app", "checkout")]), true),
            (labels(&[("app", "checkout"), ("tier", "back")]), true),
            (labels(&[("app", "checkout"), ("tier", "front")]), false),
            (labels(&[("app", "ledger")]), false),
            (BTreeMap::new(), false),
        ] {
            assert_eq!(selects(&selector, &workload), selected, "{selector:?}");
        }
    }

    /// What is published and saved when a workload of `checkout` moves.
    fn change(services: BTreeMap<Name, ServiceSpec>) -> Changes {
        let now = Moment(1_000_000);
        let mut index = Index::new(kit::settings(), Restored::default(), now);
        let configuration = Configuration { services, ..Configuration::default() };
        index.apply(Event::Configured(std::sync::Arc::new(configuration)), now);
        index.apply(kit::registered(1, "checkout-1", "checkout"), now);
        index.publish();
        let mut moved = kit::workload("checkout-1", "checkout");
        moved.address = "192.0.2.8:15006".parse().unwrap();
        index.apply(Event::Registered { session: 1, registration: std::sync::Arc::new(moved) }, now);
        let expected = index.configuration.services.contains_key(&Name::new("shop", "checkout"));
        assert_eq!(index.unpublished(), usize::from(expected), "nobody else is computed anew");
        index.publish()
    }

    #[test]
    fn a_workload_that_moves_has_only_those_computed_anew_that_select_it() {
        let (checkout, spec) = kit::service("checkout");
        let others = (0..100).flat_map(|number| {
            let (name, selecting) = kit::service(&format!("other-{number}"));
            let fixed = Name::new("shop", &format!("fixed-{number}"));
            [(name, selecting), (fixed, ServiceSpec { selector: BTreeMap::new(), ..spec.clone() })]
        });
        let all: BTreeMap<_, _> = others.chain([(checkout, spec.clone())]).collect();
        assert_eq!(change(all).resources.len(), 1);
    }
}
