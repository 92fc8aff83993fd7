//! SIGTERM and SIGINT.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves with the signal's name at the first SIGTERM or SIGINT. Never resolves where signals cannot be watched.
pub async fn shutdown_signal() -> &'static str {
    let (terminate, interrupt) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()));
    let (Ok(mut terminate), Ok(mut interrupt)) = (terminate, interrupt) else {
        tracing::error!("signals cannot be watched: end this process by SIGKILL");
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
