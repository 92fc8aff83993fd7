//! Draining: finish what runs, begin nothing.

use std::sync::Arc;

use tokio::sync::watch;

/// Tells every part of a process to drain. Draining begins at the latest when this is dropped.
#[derive(Debug)]
pub struct DrainTrigger(Arc<watch::Sender<bool>>);

/// Hears of it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Drain {
    signal: watch::Receiver<bool>,
    /// Kept so that the signal cannot vanish without having been given.
    sender: std::sync::Weak<watch::Sender<bool>>,
}

impl DrainTrigger {
    /// A trigger and the first listener to it.
    pub fn new() -> (Self, Drain) {
        let (sender, signal) = watch::channel(false);
        let sender = Arc::new(sender);
        let weak = Arc::downgrade(&sender);
        (Self(sender), Drain { signal, sender: weak })
    }

    /// Begins the drain.
    pub fn drain(&self) {
        self.0.send_replace(true);
    }
}

impl Drop for DrainTrigger {
    fn drop(&mut self) {
        self.0.send_replace(true);
    }
}

impl Drain {
    /// Resolves when draining has begun.
    pub async fn signalled(&mut self) {
        // An error means that the trigger is gone, which begins the drain as well.
        let _begun = self.signal.wait_for(|draining| *draining).await;
    }

    /// True if draining has begun.
    pub fn is_draining(&self) -> bool {
        *self.signal.borrow() || self.sender.strong_count() == 0
    }

    /// The same as a watch channel: what `proxy::serve` takes.
    pub fn watch(&self) -> watch::Receiver<bool> {
        self.signal.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn begins_when_told_or_when_the_trigger_is_gone() {
        let (trigger, mut drain) = DrainTrigger::new();
        assert!(!drain.is_draining());
        trigger.drain();
        drain.signalled().await;
        assert!(drain.is_draining());
        let (trigger, mut drain) = DrainTrigger::new();
        drop(trigger);
        drain.signalled().await;
        assert!(*drain.watch().borrow());
    }
}
