//! What is computed anew, and what is no change.

use super::*;

#[test]
fn documents_have_only_that_computed_anew_which_they_say_differently() {
    let mut test = Test::with_west(configured(&["a", "b"], &["a", "b"], &["ledger"]));
    let mut touches = |configuration: Configuration| {
        let kept = test.index.configuration().clone();
        test.index.apply(Event::Configured(Arc::new(configuration)), test.now);
        let dirty = std::mem::take(&mut test.index.dirty);
        assert!(!dirty.everything && !dirty.exports && !dirty.bundles);
        test.index.configuration = kept;
        dirty.own.into_iter().chain(dirty.theirs).map(|name| name.name.to_string()).collect::<Vec<_>>()
    };
    let kept = || Configuration::clone(&configured(&["a", "b"], &["a", "b"], &["ledger"]));
    assert!(touches(kept()).is_empty());
    let a = Name::new("shop", "a");
    let mut other = kept();
    other.services.get_mut(&a).unwrap().headless = true;
    assert_eq!(touches(other), ["a"]);
    let mut other = kept();
    other.exports.remove(&a);
    assert_eq!(touches(other), ["a"]);
    let mut other = kept();
    other.peers.get_mut("west").unwrap().export = patterns(&["b", "c"]);
    assert_eq!(touches(other), ["a"]);
    let mut other = kept();
    other.peers.get_mut("west").unwrap().import = patterns(&["a"]);
    assert_eq!(touches(other), ["ledger"]);
    let mut other = kept();
    other.peers.clear();
    assert_eq!(touches(other), ["a", "b", "ledger"]);
}

#[test]
fn labels_are_the_same_bytes_after_a_restart() {
    let versions = || {
        let mut test = Test::new(configured(&["checkout"], &["checkout"], &[]));
        let labels = (0..8).map(|number| (format!("l{number}"), "x".to_owned()));
        let mut workload = workload("checkout-1", "checkout");
        workload.labels.extend(labels);
        test.does(Event::Registered { session: 1, registration: Arc::new(workload) });
        test.index.endpoint_sets().map(|(name, set)| (name.clone(), set.clone())).collect::<Vec<_>>()
    };
    let first = versions();
    for _ in 0..8 {
        assert_eq!(versions(), first);
    }
}
