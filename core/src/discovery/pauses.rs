//! Pauses between tries to reach the controller.

use std::time::Duration;

/// The first pause, doubled each time, with jitter, up to the last.
const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(5);

/// How long the next pause is.
#[derive(Debug)]
pub(crate) struct Pauses(Duration);

impl Default for Pauses {
    fn default() -> Self {
        Self(FIRST)
    }
}

impl Pauses {
    /// Something came of the last try.
    pub fn again_short(&mut self) {
        self.0 = FIRST;
    }

    /// Waits. Half of it is fixed, half by chance, so that a cluster does not come back in step.
    pub async fn pause(&mut self) {
        let part = fastrand::f64() / 2.0;
        tokio::time::sleep(self.0.mul_f64(0.5 + part)).await;
        self.0 = (self.0 * 2).min(LAST);
    }
}
