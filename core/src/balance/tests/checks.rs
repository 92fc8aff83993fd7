//! Health checks beside what requests tell.

use super::{policies::*, *};
use crate::decide::{HealthCheck, HealthQuestion, Outliers, ServicePolicy};

fn checked(subset: Option<u16>) -> ServicePolicy {
    let check = HealthCheck {
        question: HealthQuestion::Tcp,
        port: None,
        interval: Duration::from_secs(1),
        timeout: Duration::from_millis(100),
        healthy: 2,
        unhealthy: 2,
        jitter: 0,
    };
    let mut policy = ServicePolicy { check: Some(Arc::new(check)), ..ServicePolicy::default() };
    policy.balancing.subset = subset;
    policy
}

impl Town {
    /// Makes every check that is due by now; those who are `ill` fail.
    fn check(&self, ill: &[&str]) -> usize {
        let due = self.pools.due_checks(self.now, 1000);
        let count = due.len();
        for check in due {
            let well = !ill.contains(&&*check.endpoint().id);
            check.finish(well, self.now, &self.pools);
        }
        count
    }

    fn check_for(&mut self, seconds: u64, ill: &[&str]) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.check(ill);
        }
    }

    fn serves(&self, id: &str) -> bool {
        self.ids(200).contains_key(id)
    }
}

#[test]
fn who_fails_checks_gets_nothing_and_comes_back() {
    let mut town = under(checked(None), many(3));
    assert_eq!(town.check(&[]), 0, "nobody uses it");
    town.ids(1);
    // The first check is somewhere in the first interval.
    town.check_for(2, &[]);
    town.check_for(1, &["e1"]);
    assert!(town.serves("e1"), "one failure is none");
    town.check_for(1, &["e1"]);
    assert!(!town.serves("e1"));
    let seen = town.pools.seen(&key(), PORT, town.now);
    assert_eq!((seen["e1"].standing, seen["e1"].check), ("ejected", Some(false)));
    assert_eq!((seen["e2"].standing, seen["e2"].check), ("healthy", Some(true)));
    assert_eq!(town.pools.failing_checks()[&key()], 1);
    town.check_for(100, &["e1"]);
    assert!(!town.serves("e1"), "time alone brings nobody back");
    town.check_for(2, &[]);
    assert!(town.serves("e1"));
    town.check_for(2, &["e0", "e1", "e2"]);
    assert_eq!(town.ids(300).len(), 3, "nobody is well: trying is better than failing for certain");
}

#[test]
fn checks_and_requests_both_have_to_be_well() {
    let mut policy = checked(None);
    policy.outliers = Outliers { failures: 1, ..Outliers::default() };
    policy.outliers.ejection = Duration::from_secs(30);
    policy.outliers.longest = Duration::from_secs(30);
    let mut town = under(policy, many(3));
    town.ids(1);
    town.finish("e0", TryResult::Failure);
    town.check_for(10, &[]);
    assert!(!town.serves("e0"), "it passes checks, but its ejection lasts");
    town.check_for(10, &["e0"]);
    town.check_for(20, &["e0"]);
    assert!(!town.serves("e0"), "its ejection has ended, but it fails checks");
    town.check_for(2, &[]);
    town.finish("e0", TryResult::Success);
    assert!(town.serves("e0"));
}

#[test]
fn only_what_is_used_is_checked_once_in_an_interval_and_no_more_than_may_be() {
    let mut town = under(checked(None), many(40));
    town.ids(1);
    let mut count = 0;
    town.check(&[]);
    for _ in 0..100 {
        town.now += 100 * MS;
        count += town.check(&[]);
    }
    assert!((360..=400).contains(&count), "{count} checks of 40 endpoints in 10 seconds");
    town.now += Duration::from_secs(2);
    let some = town.pools.due_checks(town.now, 7);
    assert_eq!(some.len(), 7);
    let rest = town.pools.due_checks(town.now, 100);
    assert_eq!(rest.len(), 33, "none twice at a time");
    drop(some);
    drop(rest);
    town.now += Duration::from_secs(601);
    assert_eq!(town.check(&[]), 0, "nobody has used it for ten minutes");
}

#[test]
fn of_a_large_service_only_its_own_part_is_checked() {
    let mut town = under(checked(Some(3)), many(40));
    let used = town.ids(500);
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..30 {
        town.now += 100 * MS;
        for check in town.pools.due_checks(town.now, 1000) {
            asked.insert(check.endpoint().id.to_string());
        }
    }
    assert_eq!(asked.len(), 3);
    assert!(used.keys().all(|id| asked.contains(id)));
}

#[test]
fn what_other_rules_found_out_is_forgotten() {
    let mut town = under(checked(None), many(2));
    town.ids(1);
    town.check_for(4, &["e0"]);
    assert!(!town.serves("e0"));
    town.pools.apply(&ruled(checked(None), vec![endpoint("e0"), endpoint("e1"), endpoint("new")]), town.now);
    assert!(!town.serves("e0"), "kept while endpoints come and go");
    town.pools.apply(&ruled(ServicePolicy::default(), many(2)), town.now);
    assert!(town.serves("e0"), "there are no checks any more");
}

#[test]
fn what_a_gateway_keeps_from_being_asked_says_nothing_of_the_endpoint() {
    let gateway: std::net::SocketAddr = ([192, 0, 2, 1], 1).into();
    let far = Endpoint { reach: Reach::Via(Arc::from([gateway])), ..far("w") };
    let mut town = under(checked(None), vec![far]);
    town.ids(1);
    town.check_for(3, &[]);
    town.now += Duration::from_secs(2);
    let under_way = town.pools.due_checks(town.now, 10);
    assert_eq!(under_way.len(), 1);
    for _ in 0..2 {
        town.pools.paths().failed(gateway, town.now);
    }
    for check in under_way {
        assert_eq!(check.finish(false, town.now, &town.pools), None);
    }
    town.now += Duration::from_secs(2);
    assert!(town.pools.due_checks(town.now, 10).is_empty(), "nobody is asked");
    for _ in 0..2 {
        town.pools.paths().answered(gateway, town.now);
    }
    assert!(town.serves("w"));
    assert_eq!(town.check(&["w"]), 1);
    assert!(town.serves("w"), "that was its first failure");
}
