//! Metrics of listeners, taken over from what they count themselves.

use std::sync::{Arc, Mutex, PoisonError, atomic::AtomicU64, atomic::Ordering::Relaxed};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

use crate::proxy::ListenStats;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    listener: String,
}

struct Watched {
    listener: String,
    passthrough: bool,
    stats: Arc<ListenStats>,
}

/// One counter of each listener, and where it is counted.
type Shown = (Family<Labels, Counter>, fn(&ListenStats) -> &AtomicU64);

/// `tombolo_listener_...` and `tombolo_passthrough_...`. As many label sets as there are listeners.
pub(super) struct ListenerMetrics {
    shown: Vec<Shown>,
    passthrough: Counter,
    unknown_names: Counter,
    probes: Counter,
    watched: Mutex<Vec<Watched>>,
}

impl ListenerMetrics {
    pub fn register(registry: &mut Registry) -> Self {
        let mut shown: Vec<Shown> = Vec::new();
        let mut show = |name: &str, help: &str, of: fn(&ListenStats) -> &AtomicU64| {
            let family = Family::default();
            registry.register(name, help, family.clone());
            shown.push((family, of));
        };
        show("listener_accepted", "Connections accepted", |s| &s.accepted);
        show("listener_refused", "Connections closed at the bound", |s| &s.refused);
        show("listener_handshakes_failed", "TLS handshakes that failed", |s| &s.handshake_failed);
        let help = "Connections closed since a request's head took too long";
        show("listener_slow_heads", help, |s| &s.head_timeouts);
        let help = "Connections that ended in a head that is not valid";
        show("listener_bad_heads", help, |s| &s.bad_heads);
        let (passthrough, unknown_names, probes) =
            (Counter::default(), Counter::default(), Counter::default());
        let help = "TLS connections passed on by name";
        registry.register("passthrough_connections", help, passthrough.clone());
        let help = "Connections closed since their name is not known";
        registry.register("passthrough_unknown_names", help, unknown_names.clone());
        registry.register(
            "passthrough_probes",
            "Peers that looked whether this gateway is here",
            probes.clone(),
        );
        Self { shown, passthrough, unknown_names, probes, watched: Mutex::default() }
    }

    /// From now on it is shown. `passthrough`: it passes TLS on by name.
    pub fn watch(&self, listener: String, passthrough: bool, stats: Arc<ListenStats>) {
        let watched = Watched { listener, passthrough, stats };
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).push(watched);
    }

    /// Takes over what listeners have counted.
    pub fn collect(&self) {
        let mut all = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        // A listener that is gone is held here alone; it has nothing new to say.
        all.retain(|l| Arc::strong_count(&l.stats) > 1 || l.passthrough);
        let (mut passed, mut unknown, mut probes) = (0, 0, 0);
        for watched in all.iter() {
            let labels = Labels { listener: watched.listener.clone() };
            for (family, of) in &self.shown {
                store(&family.get_or_create(&labels), of(&watched.stats).load(Relaxed));
            }
            if watched.passthrough {
                let names = watched.stats.unknown_name.load(Relaxed);
                unknown += names;
                let knocks = watched.stats.probes.load(Relaxed);
                probes += knocks;
                passed += watched.stats.accepted.load(Relaxed).saturating_sub(names + knocks);
            }
        }
        store(&self.passthrough, passed);
        store(&self.unknown_names, unknown);
        store(&self.probes, probes);
    }
}

/// A counter that is counted elsewhere.
pub(super) fn store(counter: &Counter, value: u64) {
    counter.inner().store(value, Relaxed);
}
