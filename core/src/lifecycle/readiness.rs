//! A process is ready when everything it named as needed is done.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What still has to happen, by name, and what does not go well meanwhile. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    missing: BTreeSet<&'static str>,
    troubles: BTreeMap<&'static str, String>,
}

/// One thing that has to happen before the process is ready. Not done if dropped without [`Task::done`].
#[derive(Debug, Clone)]
pub struct Task {
    name: &'static str,
    readiness: Readiness,
}

impl Readiness {
    /// Names something that has to happen, in a few words that complete "waiting for".
    pub fn task(&self, name: &'static str) -> Task {
        self.state().missing.insert(name);
        Task { name, readiness: self.clone() }
    }

    /// What is still missing. Empty: ready.
    pub fn missing(&self) -> Vec<&'static str> {
        self.state().missing.iter().copied().collect()
    }

    /// True if nothing is missing.
    pub fn is_ready(&self) -> bool {
        self.state().missing.is_empty()
    }

    /// Says, or no longer says, that something does not go well that does not make the process unready by itself.
    pub fn degraded(&self, what: &'static str, trouble: Option<String>) {
        match trouble {
            Some(trouble) => drop(self.state().troubles.insert(what, trouble)),
            None => drop(self.state().troubles.remove(what)),
        }
    }

    /// What does not go well.
    pub fn troubles(&self) -> Vec<String> {
        self.state().troubles.values().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Task {
    /// It has happened.
    pub fn done(&self) {
        self.readiness.state().missing.remove(self.name);
    }

    /// It has ceased to hold: the process is not ready any more.
    pub fn undone(&self) {
        self.readiness.state().missing.insert(self.name);
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
