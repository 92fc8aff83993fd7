//! A process is ready when everything it named as needed is done.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

/// What still has to happen, by name. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<BTreeSet<&'static str>>>);

/// One thing that has to happen before the process is ready. Not done if dropped without [`Task::done`].
#[derive(Debug, Clone)]
pub struct Task {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Names something that has to happen, in a few words that complete "waiting for".
    pub fn task(&self, name: &'static str) -> Task {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(name);
        Task { name, readiness: self.clone() }
    }

    /// What is still missing. Empty: ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().copied().collect()
    }

    /// True if nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }
}

impl Task {
    /// It has happened.
    pub fn done(&self) {
        self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner).remove(self.name);
    }

    /// It has ceased to hold: the process is not ready any more.
    pub fn undone(&self) {
        self.readiness.0.lock().unwrap_or_else(PoisonError::into_inner).insert(self.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_ready_when_all_is_done_and_says_what_is_missing() {
        let readiness = Readiness::default();
        let (identity, snapshot) = (readiness.task("certificate"), readiness.task("first snapshot"));
        assert_eq!(readiness.missing(), ["certificate", "first snapshot"]);
        identity.done();
        drop(snapshot.clone());
        assert_eq!(readiness.missing(), ["first snapshot"]);
        snapshot.done();
        assert!(readiness.is_ready());
        snapshot.undone();
        assert!(!readiness.is_ready());
    }
}
