//! What goes over the links with a peer.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use prost::Message;
use tombolo_proto::v1::LinkMessage;

/// Counted since the process started, over all links with one peer.
#[derive(Debug, Default)]
pub struct LinkStats {
    /// Messages that were sent.
    pub sent_messages: AtomicU64,
    /// Their bytes, as gRPC messages.
    pub sent_bytes: AtomicU64,
    /// Messages that came.
    pub received_messages: AtomicU64,
    /// Their bytes, as gRPC messages.
    pub received_bytes: AtomicU64,
    /// How long the last question took to be answered, in microseconds; 0: none was yet.
    pub round_trip_micros: AtomicU64,
    /// For how long nothing was read, as the peer had said too much, in microseconds.
    pub throttled_micros: AtomicU64,
    /// Why there is no link that this side opens.
    failure: Mutex<Option<String>>,
}

impl LinkStats {
    /// A message goes out.
    pub fn sent(&self, message: &LinkMessage) {
        self.sent_messages.fetch_add(1, Relaxed);
        self.sent_bytes.fetch_add(message.encoded_len() as u64, Relaxed);
    }

    /// A message came. Returns its bytes.
    pub fn received(&self, message: &LinkMessage) -> usize {
        let bytes = message.encoded_len();
        self.received_messages.fetch_add(1, Relaxed);
        self.received_bytes.fetch_add(bytes as u64, Relaxed);
        bytes
    }

    /// Nothing is read for so long.
    pub fn throttled(&self, pause: std::time::Duration) {
        self.throttled_micros.fetch_add(u64::try_from(pause.as_micros()).unwrap_or(u64::MAX), Relaxed);
    }

    /// This side has tried to open a link, in vain or not.
    pub fn tried(&self, failure: Option<String>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = failure;
    }

    /// Why the last try to open a link was in vain; none: it was not, or the peer opens it.
    pub fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A question was answered after this time.
    pub fn answered(&self, after: std::time::Duration) {
        let micros = u64::try_from(after.as_micros()).unwrap_or(u64::MAX);
        self.round_trip_micros.store(micros.max(1), Relaxed);
    }
}
